#include "net/query.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "base/buffer.h"
#include "net/socket.h"
#include "net/unix_socket.h"

namespace fairlead::net {
// ---- server
// -----------------------------------------------------------------------------------------------------------

namespace {

// One client: read a line, write the answer, close.
class Client final : public IoHandler, public Deferred {
 public:
  Client(Reactor& reactor, UniqueFd fd, const QueryPeer& peer, const QueryServer::Handler& handler,
         std::function<void(Client&)> on_done)
      : reactor_(reactor),
        fd_(std::move(fd)),
        peer_(peer),
        handler_(handler),
        on_done_(std::move(on_done)),
        alarm_(*this) {}

  Result<void> start() {
    reactor_.timers().arm(alarm_, reactor_.now() + kQueryDeadline);
    return reactor_.watch(fd_, *this);
  }

  void on_io(uint32_t) noexcept override {
    if (done_) return;
    if (!answering_) read_line();
    if (answering_ && !done_) write_answer();
  }

 private:
  void read_line() {
    for (;;) {
      auto got = receive(fd_, in_.prepare(4096));
      if (!got || got->state == IoState::kEnd) return finish();
      if (got->state == IoState::kWouldBlock) return;
      in_.commit(got->bytes);
      const std::string_view text(reinterpret_cast<const char*>(in_.data()), in_.size());
      const size_t newline = text.find('\n');
      if (std::min(newline, text.size()) > kMaxQueryLine) return finish();
      if (newline != std::string_view::npos) return answer(text.substr(0, newline));
    }
  }

  void answer(std::string_view line) {
    const size_t space = line.find(' ');
    const std::string_view argument =
        space == std::string_view::npos ? std::string_view() : line.substr(space + 1);
    out_.append(handler_(line.substr(0, space), argument, peer_));
    out_.append("\n");
    answering_ = true;
  }

  void write_answer() {
    while (!out_.empty()) {
      auto sent = send(fd_, out_.span());
      if (!sent) return finish();
      if (sent->state == IoState::kWouldBlock) return;
      out_.consume(sent->bytes);
    }
    finish();
  }

  void on_deadline() noexcept { finish(); }

  void finish() {
    if (done_) return;
    done_ = true;
    alarm_.cancel();
    reactor_.unwatch(fd_);
    fd_.reset();
    on_done_(*this);
  }

  Reactor& reactor_;
  UniqueFd fd_;
  QueryPeer peer_;
  const QueryServer::Handler& handler_;
  std::function<void(Client&)> on_done_;
  Buffer in_;
  Buffer out_;
  bool answering_ = false;
  bool done_ = false;
  Alarm<Client, &Client::on_deadline> alarm_;
};

}  // namespace

struct QueryServer::Impl final : IoHandler {
  Impl(Reactor& r, UniqueFd f, std::string p, Handler h)
      : reactor(r), fd(std::move(f)), path(std::move(p)), handler(std::move(h)) {}
  ~Impl() {
    reactor.unwatch(fd);
    if (!path.empty()) ::unlink(path.c_str());
  }

  void on_io(uint32_t) noexcept override {
    for (;;) {
      UniqueFd client(::accept4(fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!client) return;
      if (clients.size() >= kMaxQueryClients) continue;  // dropped at once: the client sees a close
      const auto peer = unix_peer(client);
      if (!peer) continue;
      auto object = std::make_unique<Client>(reactor, std::move(client), QueryPeer{peer->pid, peer->uid},
                                             handler, [this](Client& done) { forget(done); });
      Client* raw = object.get();
      clients.emplace(raw, std::move(object));
      if (!raw->start()) forget(*raw);
    }
  }

  void forget(Client& client) {
    auto node = clients.extract(&client);
    if (!node.empty()) reactor.defer_destroy(std::move(node.mapped()));
  }

  Reactor& reactor;
  UniqueFd fd;
  std::string path;
  Handler handler;
  std::unordered_map<Client*, std::unique_ptr<Client>> clients;
};

QueryServer::QueryServer(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
QueryServer::~QueryServer() = default;

Result<std::unique_ptr<QueryServer>> QueryServer::listen(Reactor& reactor, const std::string& path,
                                                         unsigned mode, Handler handler) {
  FL_TRY_ASSIGN(UniqueFd fd, unix_listener(path, SOCK_STREAM, mode));
  auto impl = std::make_unique<Impl>(reactor, std::move(fd), path, std::move(handler));
  FL_TRY(reactor.watch_level(impl->fd, *impl));
  return std::unique_ptr<QueryServer>(new QueryServer(std::move(impl)));
}

Result<void> QueryServer::rename(const std::string& path) {
  if (::rename(impl_->path.c_str(), path.c_str()) != 0)
    return Error::from_errno(fmt::format("rename {} to {}", impl_->path, path));
  impl_->path = path;
  return {};
}

void QueryServer::renamed(const std::string& path) {
  impl_->path = path;
}

void QueryServer::let_go() noexcept {
  impl_->path.clear();
}

// ---- client
// -----------------------------------------------------------------------------------------------------------

namespace {

using Deadline = std::chrono::steady_clock::time_point;

Result<void> wait_for(BorrowedFd fd, short events, Deadline deadline, const std::string& path) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{fd.get(), events, 0};
    const int ready = left.count() <= 0 ? 0 : ::poll(&entry, 1, static_cast<int>(left.count()));
    if (ready > 0) return {};
    if (ready == 0) return Error(ErrorKind::kTimeout, fmt::format("no answer from {} in time", path));
    if (errno != EINTR) return Error::from_errno("poll");
  }
}

}  // namespace

Result<std::string> query(const std::string& path, std::string_view line, std::chrono::milliseconds timeout) {
  const Deadline deadline = std::chrono::steady_clock::now() + timeout;
  FL_TRY_ASSIGN(const UniqueFd fd, unix_connect(path, SOCK_STREAM));
  std::string request(line);
  request += '\n';
  for (std::span<const uint8_t> rest{reinterpret_cast<const uint8_t*>(request.data()), request.size()};
       !rest.empty();) {
    FL_TRY_ASSIGN(const IoResult sent, send(fd, rest));
    if (sent.state == IoState::kWouldBlock) FL_TRY(wait_for(fd, POLLOUT, deadline, path));
    rest = rest.subspan(sent.bytes);
  }
  std::string answer;
  std::array<uint8_t, 65536> chunk;
  for (;;) {
    FL_TRY_ASSIGN(const IoResult got, receive(fd, chunk));
    if (got.state == IoState::kEnd) break;
    if (got.state == IoState::kWouldBlock) FL_TRY(wait_for(fd, POLLIN, deadline, path));
    answer.append(reinterpret_cast<const char*>(chunk.data()), got.bytes);
    if (answer.size() > kMaxQueryAnswer)
      return Error(ErrorKind::kExhausted, fmt::format("answer of {} is too large", path));
  }
  if (answer.empty()) return Error(ErrorKind::kClosed, fmt::format("{} closed without an answer", path));
  return answer;
}

}  // namespace fairlead::net
