#include "keeper/hand_over_line.h"

#include <unistd.h>

#include "net/unix_socket.h"

namespace fairlead::keeper {
namespace {

constexpr std::chrono::milliseconds kRetry{20};

}  // namespace

Result<std::unique_ptr<HandOverLine>> HandOverLine::open(Reactor& reactor, UniqueFd socket, Heard heard,
                                                         Lost lost) {
  FL_TRY_ASSIGN(const net::UnixPeer peer, net::unix_peer(socket));
  if (peer.uid != ::geteuid())
    return Error(ErrorKind::kDenied, fmt::format("hand-over: pid {} is user {}", peer.pid, peer.uid));
  std::unique_ptr<HandOverLine> line(
      new HandOverLine(reactor, std::move(socket), peer.pid, std::move(heard), std::move(lost)));
  FL_TRY(reactor.watch(line->socket_, *line));
  return line;
}

HandOverLine::HandOverLine(Reactor& reactor, UniqueFd socket, pid_t peer, Heard heard, Lost lost)
    : reactor_(reactor),
      socket_(std::move(socket)),
      peer_(peer),
      heard_(std::move(heard)),
      lost_(std::move(lost)),
      retry_(*this) {}

HandOverLine::~HandOverLine() {
  hang_up();
}

void HandOverLine::hang_up() noexcept {
  retry_.cancel();
  if (socket_) reactor_.unwatch(socket_);
  socket_.reset();
  outgoing_.clear();
}

void HandOverLine::lose(const std::string& why) {
  if (!socket_) return;
  hang_up();
  lost_(why);
}

void HandOverLine::send(contract::hand_over::Message message, std::vector<UniqueFd> fds) {
  if (!socket_) return;
  if (outgoing_.size() >= kMaxQueuedMessages) return lose("the other agent does not read");
  Outgoing& last = outgoing_.emplace_back();
  contract::hand_over::encode(message, last.bytes);
  last.fds = std::move(fds);
  flush();
}

// What the other side said before it went is still to be read: an error of sending is no end yet.
void HandOverLine::flush() {
  while (socket_ && !outgoing_.empty()) {
    const std::vector<BorrowedFd> fds(outgoing_.front().fds.begin(), outgoing_.front().fds.end());
    const auto sent = contract::send_packet(socket_, outgoing_.front().bytes.span(), fds);
    if (!sent) return outgoing_.clear();
    if (!*sent) return reactor_.timers().arm(retry_, reactor_.now() + kRetry);
    outgoing_.pop_front();
  }
}

void HandOverLine::on_io(uint32_t) noexcept {
  while (socket_) {
    auto received = contract::hand_over::receive(socket_);
    if (!received) return lose(received.error().text());
    if (received->state == contract::ReceiveState::kWouldBlock) break;
    if (received->state == contract::ReceiveState::kClosed) return lose("the other agent is gone");
    heard_(std::move(*received));
  }
  flush();
}

}  // namespace fairlead::keeper
