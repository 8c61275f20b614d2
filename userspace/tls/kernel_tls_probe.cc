// The self-test: a kernel is trusted with connections only after it has made and opened every type of record
// for our own record layer.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <poll.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "net/splice.h"
#include "tls/kernel_tls.h"

namespace fairlead::tls {
namespace {

constexpr timeval kPatience{2, 0};  // of one call: over lo an answer takes microseconds
constexpr size_t kBulk = 3 * kMaxPlaintext + 777;
constexpr size_t kSpliced = 16 * 100;                     // a pipe of 16 buffers, each with a little
constexpr std::array<uint8_t, 4> kTicket = {4, 0, 0, 0};  // an empty NewSessionTicket
constexpr std::array<uint8_t, 2> kCloseNotify = {1, 0};

struct Failure {
  std::string_view step;
  Error error;
};
using Step = Result<void>;

Error wrong(std::string_view what) {
  return {ErrorKind::kTls, std::string(what)};
}

// Two blocking ends of one connection over lo.
struct Ends {
  UniqueFd kernel, user;
};

Result<void> make_blocking(BorrowedFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) return Error::from_errno("fcntl");
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    if (::setsockopt(fd.get(), SOL_SOCKET, option, &kPatience, sizeof kPatience) != 0)
      return Error::from_errno("timeout");
  return {};
}

Result<Ends> connected() {
  const SocketAddress any{*IpAddress::parse("127.0.0.1"), 0};
  FL_TRY_ASSIGN(const UniqueFd listener, net::tcp_listener(any, 1));
  FL_TRY_ASSIGN(const SocketAddress at, net::local_address(listener));
  Ends ends;
  FL_TRY_ASSIGN(ends.kernel, net::tcp_socket(AF_INET));
  FL_TRY(net::connect(ends.kernel, at, AF_INET));
  pollfd waiting{listener.get(), POLLIN, 0};
  (void)::poll(&waiting, 1, 2000);  // ignoring: accept() tells
  FL_TRY_ASSIGN(auto accepted, net::accept(listener));
  if (!accepted) return wrong("nothing to accept");
  ends.user = std::move(accepted->fd);
  FL_TRY(make_blocking(ends.kernel));
  FL_TRY(make_blocking(ends.user));
  return ends;
}

Step send_all(BorrowedFd fd, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return Error::from_errno("send");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

std::vector<uint8_t> pattern(size_t size) {
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 251);
  return bytes;
}

// One run: the kernel at one end, our record layer at the other.
class SelfTest {
 public:
  explicit SelfTest(CipherSuite suite) noexcept : suite_(suite) {}

  std::optional<Failure> run() {
    const std::array<std::pair<std::string_view, Step (SelfTest::*)()>, 9> steps = {{
        {"connection", &SelfTest::set_up},
        {"hand-over of both directions", &SelfTest::hand_over},
        {"data sent", &SelfTest::send_data},
        {"handshake record sent", &SelfTest::send_ticket},
        {"splice out", &SelfTest::splice_out},
        {"data received", &SelfTest::receive_data},
        {"handshake record received", &SelfTest::receive_ticket},
        {"splice in", &SelfTest::splice_in},
        {"close_notify and record numbers", &SelfTest::close},
    }};
    for (const auto& [name, step] : steps) {
      Step result = (this->*step)();
      if (!result) return Failure{name, std::move(result).error()};
    }
    return std::nullopt;
  }

  [[nodiscard]] bool rekeys() const {
    return kernel_.hand_over(ends_.kernel, Direction::kTransmit, outwards_).has_value();
  }

 private:
  using Event = RecordOpener::Event;

  Result<TrafficSecret> secret() const {
    TrafficSecret made;
    made.suite = suite_;
    made.length = suite_ == CipherSuite::kAes128GcmSha256 ? 32 : 48;
    if (RAND_bytes(made.bytes.data(), static_cast<int>(made.length)) != 1) return wrong("no random bytes");
    return made;
  }

  Step set_up() {
    FL_TRY_ASSIGN(ends_, connected());
    FL_TRY_ASSIGN(pipe_, net::Pipe::create(64 * 1024));
    FL_TRY_ASSIGN(const TrafficSecret out, secret());
    FL_TRY_ASSIGN(const TrafficSecret in, secret());
    // Not the first records: the kernel must go on in the middle.
    FL_TRY_ASSIGN(RecordSealer sealer, RecordSealer::create(out));
    outwards_ = sealer.state();
    outwards_.sequence = 0x010203;
    FL_TRY_ASSIGN(RecordOpener opener, RecordOpener::resume(outwards_));
    FL_TRY_ASSIGN(RecordSealer peer, RecordSealer::create(in));
    opener_.emplace(std::move(opener));
    sealer_.emplace(std::move(peer));
    return {};
  }

  Step hand_over() {
    FL_TRY(kernel_.prepare(ends_.kernel));
    FL_TRY(kernel_.hand_over(ends_.kernel, Direction::kTransmit, outwards_));
    return kernel_.hand_over(ends_.kernel, Direction::kReceive, sealer_->state());
  }

  // What our end opens next.
  Result<std::pair<Event, std::vector<uint8_t>>> opened() {
    for (;;) {
      FL_TRY_ASSIGN(const RecordOpener::Opened record, opener_->open(received_.span()));
      if (record.event != Event::kNeedMore) {
        std::vector<uint8_t> payload(record.payload.begin(), record.payload.end());
        received_.consume(record.consumed);
        return std::pair(record.event, std::move(payload));
      }
      const auto room = received_.prepare(kMaxRecord);
      const ssize_t count = ::recv(ends_.user.get(), room.data(), room.size(), 0);
      if (count < 0) return Error::from_errno("recv");
      if (count == 0) return wrong("the connection ended");
      received_.commit(static_cast<size_t>(count));
    }
  }

  Step expect_data(std::span<const uint8_t> wanted) {
    std::vector<uint8_t> got;
    while (got.size() < wanted.size()) {
      FL_TRY_ASSIGN(const auto record, opened());
      if (record.first != Event::kData) return wrong("a record of another type");
      got.insert(got.end(), record.second.begin(), record.second.end());
    }
    return std::ranges::equal(got, wanted) ? Step() : wrong("other bytes than were sent");
  }

  Step send_data() {
    const auto bytes = pattern(kBulk);
    FL_TRY(send_all(ends_.kernel, bytes));
    return expect_data(bytes);
  }

  Step send_ticket() {
    FL_TRY(kernel_.send(ends_.kernel, ContentType::kHandshake, kTicket));
    FL_TRY_ASSIGN(const auto record, opened());
    return record.first == Event::kIgnored ? Step() : wrong("it is not that record");
  }

  Step splice_out() {
    const auto bytes = pattern(kSpliced);
    for (size_t at = 0; at < kSpliced; at += 100)
      if (::write(pipe_.write_end().get(), bytes.data() + at, 100) != 100) return Error::from_errno("write");
    FL_TRY_ASSIGN(const net::IoResult moved, pipe_.note(kSpliced).drain(ends_.kernel));
    if (moved.bytes != kSpliced) return wrong("splice took a part");
    return expect_data(bytes);
  }

  Step seal(ContentType type, std::span<const uint8_t> bytes) {
    Buffer sealed;
    FL_TRY(sealer_->seal(type, bytes, sealed));
    return send_all(ends_.user, sealed.span());
  }

  Step receive_data() {
    const auto bytes = pattern(kBulk);
    FL_TRY(seal(ContentType::kApplicationData, bytes));
    std::vector<uint8_t> got(kBulk);
    for (size_t at = 0; at < kBulk;) {
      FL_TRY_ASSIGN(const auto part, kernel_.receive(ends_.kernel, std::span(got).subspan(at)));
      if (part.state != net::IoState::kDone || part.type != ContentType::kApplicationData)
        return wrong("no data");
      at += part.bytes;
    }
    return got == bytes ? Step() : wrong("other bytes than were sent");
  }

  Step receive_type(ContentType type, std::span<const uint8_t> body) {
    FL_TRY(seal(type, body));
    std::array<uint8_t, 64> room;
    FL_TRY_ASSIGN(const auto got, kernel_.receive(ends_.kernel, room));
    const bool same = got.type == type && std::ranges::equal(std::span(room).first(got.bytes), body);
    return same ? Step() : wrong("it is not that record");
  }

  Step receive_ticket() { return receive_type(ContentType::kHandshake, kTicket); }

  Step splice_in() {
    const auto bytes = pattern(kSpliced);
    FL_TRY(seal(ContentType::kApplicationData, bytes));
    std::vector<uint8_t> got(kSpliced);
    for (size_t at = 0; at < kSpliced;) {
      pollfd ready{ends_.kernel.get(), POLLIN, 0};
      if (::poll(&ready, 1, 2000) != 1) return wrong("nothing to splice");
      FL_TRY_ASSIGN(const net::IoResult moved, pipe_.fill(ends_.kernel, kSpliced - at));
      if (moved.state != net::IoState::kDone) return wrong("nothing was spliced");
      const ssize_t count = ::read(pipe_.read_end().get(), got.data() + at, kSpliced - at);
      if (count <= 0) return Error::from_errno("read");
      pipe_.took(static_cast<size_t>(count));
      at += static_cast<size_t>(count);
    }
    return got == bytes ? Step() : wrong("other bytes than were sent");
  }

  Step close() {
    FL_TRY_ASSIGN(const uint64_t number, kernel_.sequence(ends_.kernel, Direction::kTransmit));
    if (number != opener_->state().sequence) return wrong("records were counted otherwise");
    FL_TRY(receive_type(ContentType::kAlert, kCloseNotify));
    FL_TRY_ASSIGN(const uint64_t received, kernel_.sequence(ends_.kernel, Direction::kReceive));
    if (received != sealer_->state().sequence) return wrong("received records were counted otherwise");
    FL_TRY(kernel_.send(ends_.kernel, ContentType::kAlert, kCloseNotify));
    FL_TRY_ASSIGN(const auto record, opened());
    return record.first == Event::kClosed ? Step() : wrong("close_notify did not arrive");
  }

  CipherSuite suite_;
  KernelTls kernel_;
  Ends ends_;
  net::Pipe pipe_;
  RecordState outwards_;
  std::optional<RecordOpener> opener_;
  std::optional<RecordSealer> sealer_;
  Buffer received_;
};

}  // namespace

KernelTlsSupport probe_kernel_tls() {
  using Why = KernelTlsSupport::Why;
  utsname name{};
  (void)::uname(&name);  // ignoring: an empty release is below the floor
  auto ends = connected();
  if (!ends)
    return {Why::kSelfTest, "no connection over loopback: " + ends.error().text(), "bring lo up", false};
  if (const Result<void> there = KernelTls().prepare(ends->kernel); !there) {
    if (there.error().code() != ENOENT) return {Why::kSelfTest, there.error().text(), {}, false};
    return {Why::kNoModule, "the kernel module 'tls' is not loaded",
            "modprobe tls; on Talos, name it in the machine configuration: "
            "machine: {kernel: {modules: [{name: tls}]}}",
            false};
  }
  if (!above_kernel_tls_floor(name.release))
    return {Why::kOldKernel, fmt::format("kernel {} lacks fixes of kernel TLS", name.release),
            "boot 6.12.92, 6.18.45, 7.1.9 or a later one of these series", false};
  KernelTlsSupport support{Why::kUsable, {}, {}, true};
  for (const CipherSuite suite : {CipherSuite::kAes128GcmSha256, CipherSuite::kAes256GcmSha384}) {
    SelfTest test(suite);
    if (const auto failure = test.run())
      return {Why::kSelfTest,
              fmt::format("the self-test failed at '{}' (AES-{}): {}", failure->step,
                          suite == CipherSuite::kAes128GcmSha256 ? 128 : 256, failure->error.text()),
              "report it, with the version of the kernel", false};
    support.rekey = support.rekey && test.rekeys();
  }
  return support;
}

}  // namespace fairlead::tls
