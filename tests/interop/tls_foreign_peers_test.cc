// Handshake and record layer against TLS stacks that are not ours, over loopback: the openssl command and
// Python's ssl module, as client and as server. Both programs must be installed; every wait has a deadline.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "unit/tls/pair.h"

extern char** environ;

namespace fairlead::tls {
namespace {

using Clock = std::chrono::steady_clock;
using Event = RecordOpener::Event;
constexpr auto kPatience = std::chrono::seconds(20);

// Waits for `fd` until the deadline.
bool ready(int fd, short events, Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  pollfd entry{fd, events, 0};
  return left.count() > 0 && ::poll(&entry, 1, static_cast<int>(left.count())) == 1;
}

// A foreign program with its stdin and its stdout (with stderr) in our hands; gone with the object.
class Program {
 public:
  explicit Program(std::vector<std::string> arguments) {
    int in[2], out[2];
    EXPECT_EQ(::pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
    input_ = UniqueFd(in[1]);
    output_ = UniqueFd(out[0]);
    const UniqueFd child_in(in[0]), child_out(out[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, out[1], 2);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const int failed = ::posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_EQ(failed, 0) << arguments[0] << " is needed for this test";
    if (failed != 0) pid_ = -1;
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void type(const std::string& text) {
    ASSERT_EQ(::write(input_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void end_input() { input_.reset(); }
  // Until `text` was printed; what was printed so far is said().
  bool prints(const std::string& text, size_t from = 0) {
    const auto deadline = Clock::now() + kPatience;
    while (said_.find(text, from) == std::string::npos) {
      char chunk[4096];
      if (!ready(output_.get(), POLLIN, deadline)) return false;
      const ssize_t got = ::read(output_.get(), chunk, sizeof(chunk));
      if (got <= 0) return false;
      said_.append(chunk, static_cast<size_t>(got));
    }
    return true;
  }
  const std::string& said() const { return said_; }

 private:
  pid_t pid_ = -1;
  UniqueFd input_;
  UniqueFd output_;
  std::string said_;
};

// Our end of a connection.
class Ours {
 public:
  explicit Ours(UniqueFd fd) : fd_(std::move(fd)) {}

  Result<void> shake_hands(Handshake& handshake, bool client) {
    Buffer out;
    if (client) FL_TRY(handshake.start(out));
    for (;;) {
      auto progress = handshake.advance(inbox_.span(), out);
      FL_TRY(flush(out));
      if (!progress) return std::move(progress).error();
      inbox_.consume(progress->consumed);
      if (progress->done) break;
      FL_TRY(receive());
    }
    auto established = handshake.finish();
    if (!established) return std::move(established).error();
    established_ = std::move(*established);
    return {};
  }

  Result<void> send(std::string_view text) {
    Buffer out;
    FL_TRY(established_->sealer.seal(ContentType::kApplicationData, bytes_of(text), out));
    return flush(out);
  }
  Result<void> update_key() {
    Buffer out;
    FL_TRY(established_->sealer.update_key(out));
    return flush(out);
  }
  Result<void> close() {
    Buffer out;
    FL_TRY(established_->sealer.close_notify(out));
    return flush(out);
  }

  // The next record that is not ignored; its data is added to data(). Answers a KeyUpdate that asks for it.
  Result<Event> next() {
    for (;;) {
      auto opened = established_->opener.open(inbox_.span());
      if (!opened) return std::move(opened).error();
      data_.append(opened->payload.begin(), opened->payload.end());
      inbox_.consume(opened->consumed);
      if (opened->event == Event::kIgnored) {
        ++ignored_;
      } else if (opened->event != Event::kNeedMore) {
        if (opened->respond) {
          ++asked_;
          FL_TRY(update_key());
        }
        return opened->event;
      } else {
        FL_TRY(receive());
      }
    }
  }
  Result<void> until_data(size_t size) {
    while (data_.size() < size) {
      auto event = next();
      if (!event) return std::move(event).error();
      if (*event == Event::kClosed) return Error(ErrorKind::kClosed, "closed before the data was whole");
    }
    return {};
  }
  const std::string& data() const { return data_; }
  const Established& established() const { return *established_; }
  int ignored() const { return ignored_; }
  int asked() const { return asked_; }

 private:
  Result<void> flush(Buffer& out) {
    while (!out.empty()) {
      if (!ready(fd_.get(), POLLOUT, deadline_)) return Error(ErrorKind::kTimeout, "send");
      const ssize_t sent = ::send(fd_.get(), out.data(), out.size(), MSG_NOSIGNAL);
      if (sent < 0) return Error::from_errno("send");
      out.consume(static_cast<size_t>(sent));
    }
    return {};
  }
  Result<void> receive() {
    if (!ready(fd_.get(), POLLIN, deadline_)) return Error(ErrorKind::kTimeout, "receive");
    auto room = inbox_.prepare(65536);
    const ssize_t got = ::recv(fd_.get(), room.data(), room.size(), 0);
    if (got < 0) return Error::from_errno("recv");
    if (got == 0) return Error(ErrorKind::kClosed, "the peer closed");
    inbox_.commit(static_cast<size_t>(got));
    return {};
  }

  UniqueFd fd_;
  Clock::time_point deadline_ = Clock::now() + kPatience;
  Buffer inbox_;
  std::optional<Established> established_;
  std::string data_;
  int ignored_ = 0;
  int asked_ = 0;
};

class ForeignPeers : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "/tls_interop_XXXXXX";
    ASSERT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
    const Issued foreign = root_.issue(workload(kServerUri));
    write("cert.pem", foreign.certificate_pem);
    write("key.pem", foreign.key_pem);
    write("root.pem", root_.certificate_pem());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& text) { std::ofstream(directory_ / name) << text; }
  std::string file(const std::string& name) const { return directory_ / name; }

  // Listens on loopback; the port is in port_.
  UniqueFd listen() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof(address);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
    EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    port_ = ntohs(address.sin_port);
    return fd;
  }
  static UniqueFd accept(const UniqueFd& listener) {
    EXPECT_TRUE(ready(listener.get(), POLLIN, Clock::now() + kPatience)) << "nobody connects";
    return UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  static UniqueFd connect(uint16_t port) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  static sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  std::vector<std::string> s_client(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"openssl",
                                          "s_client",
                                          "-connect",
                                          "127.0.0.1:" + std::to_string(port_),
                                          "-CAfile",
                                          file("root.pem"),
                                          "-verify_return_error",
                                          "-noservername"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> with_certificate(std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"-cert", file("cert.pem"), "-key", file("key.pem")});
    return more;
  }
  std::vector<std::string> s_server(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"openssl",     "s_server", "-accept",
                                          "127.0.0.1:0", "-CAfile",  file("root.pem"),
                                          "-Verify",     "4",        "-verify_return_error",
                                          "-naccept",    "1"};
    for (std::string& argument : more) arguments.push_back(std::move(argument));
    return with_certificate(arguments);
  }
  // "ACCEPT 127.0.0.1:PORT"
  static uint16_t port_of(Program& server) {
    EXPECT_TRUE(server.prints("ACCEPT 127.0.0.1:")) << server.said();
    const size_t at = server.said().find("ACCEPT 127.0.0.1:");
    if (at == std::string::npos) return 0;
    EXPECT_TRUE(server.prints("\n", at));
    return static_cast<uint16_t>(std::stoi(server.said().substr(at + 17)));
  }

  std::unique_ptr<Handshake> server() { return std::move(*Handshake::server(own_)); }
  std::unique_ptr<Handshake> client() {
    return std::move(*Handshake::client(own_, {id_of(kServerUri)}, true));
  }

  Authority root_ = Authority::root("interop root");
  std::shared_ptr<const Credentials> own_ = credentials(root_, kClientUri);
  std::filesystem::path directory_;
  uint16_t port_ = 0;
};

// ---- the openssl command
// ------------------------------------------------------------------------------------------------

TEST_F(ForeignPeers, SClientSpeaksBothWays) {
  for (const char* suite : {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}) {
    const UniqueFd listener = listen();
    Program peer(s_client(with_certificate({"-alpn", "http/1.1,h2", "-ciphersuites", suite})));
    Ours ours(accept(listener));
    const auto shaken = ours.shake_hands(*server(), false);
    ASSERT_TRUE(shaken) << shaken.error().text();
    EXPECT_EQ(ours.established().peer, id_of(kServerUri));
    ASSERT_TRUE(ours.send("from the server\n"));
    ASSERT_TRUE(peer.prints("from the server")) << peer.said();
    EXPECT_NE(peer.said().find("ALPN protocol: h2"), std::string::npos) << peer.said();
    EXPECT_NE(peer.said().find(std::string("Cipher is ") + suite), std::string::npos);
    EXPECT_NE(peer.said().find("Verify return code: 0 (ok)"), std::string::npos);
    peer.type("from the client\n");
    ASSERT_TRUE(ours.until_data(16));
    EXPECT_EQ(ours.data(), "from the client\n");
    peer.end_input();
    const auto last = ours.next();
    ASSERT_TRUE(last) << last.error().text();
    EXPECT_EQ(*last, Event::kClosed);
  }
}

TEST_F(ForeignPeers, SClientUpdatesItsKeys) {
  const UniqueFd listener = listen();
  Program peer(s_client(with_certificate()));
  Ours ours(accept(listener));
  ASSERT_TRUE(ours.shake_hands(*server(), false));
  ASSERT_TRUE(peer.prints("Verify return code: 0 (ok)")) << peer.said();
  peer.type("k\n");  // KeyUpdate
  auto event = ours.next();
  ASSERT_TRUE(event) << event.error().text();
  EXPECT_EQ(*event, Event::kKeyUpdate);
  EXPECT_EQ(ours.asked(), 0);
  peer.type("K\n");  // KeyUpdate that asks for ours; next() answers
  event = ours.next();
  ASSERT_TRUE(event) << event.error().text();
  EXPECT_EQ(*event, Event::kKeyUpdate);
  EXPECT_EQ(ours.asked(), 1);
  ASSERT_TRUE(ours.send("under the next key\n"));
  ASSERT_TRUE(peer.prints("under the next key")) << peer.said();
  ASSERT_TRUE(ours.update_key());
  ASSERT_TRUE(ours.send("and the one after\n"));
  ASSERT_TRUE(peer.prints("and the one after")) << peer.said();
  peer.type("all heard\n");
  ASSERT_TRUE(ours.until_data(10));
  EXPECT_EQ(ours.data(), "all heard\n");
  ASSERT_TRUE(ours.close());
  event = ours.next();  // s_client answers our close_notify by its own
  ASSERT_TRUE(event) << event.error().text();
  EXPECT_EQ(*event, Event::kClosed);
}

TEST_F(ForeignPeers, SClientIsRefused) {
  const std::vector<std::vector<std::string>> refused = {
      {},                                       // no certificate
      with_certificate({"-tls1_2"}),            //
      with_certificate({"-alpn", "http/1.1"}),  //
      with_certificate({"-groups", "P-384"}),   //
      with_certificate({"-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"}),
  };
  for (const auto& arguments : refused) {
    const UniqueFd listener = listen();
    Program peer(s_client(arguments));
    Ours ours(accept(listener));
    EXPECT_FALSE(ours.shake_hands(*server(), false));
    EXPECT_TRUE(peer.prints("alert")) << peer.said();
  }
}

TEST_F(ForeignPeers, SServerSpeaksBothWays) {
  for (const char* suite : {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}) {
    Program peer(s_server({"-alpn", "h2", "-ciphersuites", suite}));
    Ours ours(connect(port_of(peer)));
    const auto shaken = ours.shake_hands(*client(), true);
    ASSERT_TRUE(shaken) << shaken.error().text();
    ASSERT_TRUE(ours.send("from the client\n"));
    ASSERT_TRUE(peer.prints("from the client")) << peer.said();
    EXPECT_NE(peer.said().find("ALPN protocols selected: h2"), std::string::npos) << peer.said();
    peer.type("from the server\n");
    ASSERT_TRUE(ours.until_data(16));
    EXPECT_EQ(ours.data(), "from the server\n");
    EXPECT_EQ(ours.ignored(), 2) << "session tickets";
    ASSERT_TRUE(ours.close());
    ASSERT_TRUE(peer.prints("DONE")) << peer.said();
  }
}

TEST_F(ForeignPeers, SServerUpdatesItsKeys) {
  Program peer(s_server());
  Ours ours(connect(port_of(peer)));
  ASSERT_TRUE(ours.shake_hands(*client(), true));
  ASSERT_TRUE(ours.send("hello\n"));
  ASSERT_TRUE(peer.prints("hello")) << peer.said();
  peer.type("K\n");
  auto event = ours.next();
  ASSERT_TRUE(event) << event.error().text();
  EXPECT_EQ(*event, Event::kKeyUpdate);
  EXPECT_EQ(ours.asked(), 1);
  ASSERT_TRUE(ours.send("under the next key\n"));
  ASSERT_TRUE(peer.prints("under the next key")) << peer.said();
  peer.type("heard\n");
  ASSERT_TRUE(ours.until_data(6));
  EXPECT_EQ(ours.data(), "heard\n");
}

TEST_F(ForeignPeers, SServerIsRefusedUnlessItIsWhoWeExpect) {
  Program peer(s_server());
  Ours ours(connect(port_of(peer)));
  auto handshake = Handshake::client(own_, {id_of("spiffe://cluster.local/ns/shop/sa/other")}, false);
  const auto shaken = ours.shake_hands(**handshake, true);
  ASSERT_FALSE(shaken);
  EXPECT_NE(shaken.error().text().find("expected"), std::string::npos) << shaken.error().text();
  EXPECT_TRUE(peer.prints("alert bad certificate")) << peer.said();
}

TEST_F(ForeignPeers, SServerThatRefusesUsIsHeard) {
  // Another root than ours: TLS 1.3 tells a client only after it thinks it is done.
  write("root.pem", Authority::root("stranger").certificate_pem());
  Program peer(s_server());
  Ours ours(connect(port_of(peer)));
  ASSERT_TRUE(ours.shake_hands(*client(), true));
  const auto event = ours.next();
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().kind(), ErrorKind::kTls);
  EXPECT_EQ(event.error().code(), 48) << "unknown_ca: " << event.error().text();
}

// ---- Python
// -------------------------------------------------------------------------------------------------------------

constexpr size_t kBulk = 300000;

const char* const kPythonCommon = R"(
import socket, ssl, sys
def exactly(s, n):
    got = b''
    while len(got) < n:
        part = s.recv(n - len(got))
        if not part: raise EOFError(len(got))
        got += part
    return got
def context(server, directory):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_REQUIRED
    c.load_verify_locations(directory + '/root.pem')
    c.load_cert_chain(directory + '/cert.pem', directory + '/key.pem')
    c.set_alpn_protocols(['h2'])
    return c
)";

TEST_F(ForeignPeers, PythonServer) {
  const std::string script = std::string(kPythonCommon) + R"(
listener = socket.create_server(('127.0.0.1', 0))
print('ACCEPT 127.0.0.1:%d' % listener.getsockname()[1], flush=True)
plain, _ = listener.accept()
s = context(True, sys.argv[1]).wrap_socket(plain, server_side=True)
print(s.version(), s.selected_alpn_protocol(), [v for k, v in s.getpeercert()['subjectAltName']], flush=True)
s.sendall(exactly(s, 300000)[::-1])
s.unwrap()
print('closed in order', flush=True)
)";
  Program peer({"python3", "-c", script, directory_});
  Ours ours(connect(port_of(peer)));
  const auto shaken = ours.shake_hands(*client(), true);
  ASSERT_TRUE(shaken) << shaken.error().text();
  std::string bulk(kBulk, 'x');
  for (size_t i = 0; i < bulk.size(); ++i) bulk[i] = static_cast<char>('a' + i % 23);
  ASSERT_TRUE(ours.send(bulk));
  const auto received = ours.until_data(kBulk);
  ASSERT_TRUE(received) << received.error().text();
  EXPECT_EQ(ours.data(), std::string(bulk.rbegin(), bulk.rend()));
  const auto event = ours.next();
  ASSERT_TRUE(event) << event.error().text();
  EXPECT_EQ(*event, Event::kClosed);
  ASSERT_TRUE(ours.close());
  EXPECT_TRUE(peer.prints("closed in order")) << peer.said();
  EXPECT_NE(peer.said().find(std::string("TLSv1.3 h2 ['") + kClientUri), std::string::npos) << peer.said();
}

TEST_F(ForeignPeers, PythonClient) {
  const std::string script = std::string(kPythonCommon) + R"(
s = context(False, sys.argv[1]).wrap_socket(socket.create_connection(('127.0.0.1', int(sys.argv[2]))))
print(s.version(), s.selected_alpn_protocol(), flush=True)
s.sendall(exactly(s, 300000)[::-1])
s.unwrap()
print('closed in order', flush=True)
)";
  const UniqueFd listener = listen();
  Program peer({"python3", "-c", script, directory_, std::to_string(port_)});
  Ours ours(accept(listener));
  const auto shaken = ours.shake_hands(*server(), false);
  ASSERT_TRUE(shaken) << shaken.error().text();
  std::string bulk(kBulk, 'x');
  for (size_t i = 0; i < bulk.size(); ++i) bulk[i] = static_cast<char>('a' + i % 23);
  ASSERT_TRUE(ours.send(bulk));
  const auto received = ours.until_data(kBulk);
  ASSERT_TRUE(received) << received.error().text() << peer.said();
  EXPECT_EQ(ours.data(), std::string(bulk.rbegin(), bulk.rend()));
  EXPECT_EQ(*ours.next(), Event::kClosed);
  ASSERT_TRUE(ours.close());
  EXPECT_TRUE(peer.prints("closed in order")) << peer.said();
  EXPECT_NE(peer.said().find("TLSv1.3 h2"), std::string::npos) << peer.said();
}

}  // namespace
}  // namespace fairlead::tls
