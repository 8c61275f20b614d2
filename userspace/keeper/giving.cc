#include "keeper/giving.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "keeper/hand_over_limits.h"
#include "net/unix_socket.h"

namespace fairlead::keeper {
namespace {

namespace hand_over = contract::hand_over;

// So many bytes of parcels wait in the socket between the proxies: fewer turns between them, a shorter pause.
constexpr int kPairBuffer = 4 << 20;

void widen(BorrowedFd socket) noexcept {
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kPairBuffer,
                     sizeof kPairBuffer);  // ignoring: it works with the usual size, too
}

}  // namespace

Result<std::unique_ptr<Giving>> Giving::listen(Reactor& reactor, const std::string& path, Agent& agent) {
  FL_TRY_ASSIGN(UniqueFd listener, net::unix_listener(path, SOCK_SEQPACKET, 0600));
  std::unique_ptr<Giving> giving(new Giving(reactor, std::move(listener), path, agent));
  FL_TRY(reactor.watch_level(giving->listener_, *giving));
  return giving;
}

Giving::Giving(Reactor& reactor, UniqueFd listener, std::string path, Agent& agent)
    : reactor_(reactor),
      listener_(std::move(listener)),
      path_(std::move(path)),
      agent_(agent),
      deadline_(*this) {}

Giving::~Giving() {
  reactor_.unwatch(listener_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

Result<void> Giving::rename(const std::string& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0)
    return Error::from_errno(fmt::format("rename {} to {}", path_, path));
  path_ = path;
  return {};
}

std::string_view Giving::state() const noexcept {
  switch (state_) {
    case State::kIdle: return "none";
    case State::kAsked:
    case State::kOffered: return "offered";
    case State::kMoving: return "moving";
    case State::kFarewell: return "given";
  }
  return "none";
}

void Giving::enter(State state, std::chrono::seconds deadline) {
  state_ = state;
  reactor_.timers().arm(deadline_, reactor_.now() + deadline);
}

void Giving::on_io(uint32_t) noexcept {
  for (;;) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) return;
    begin(std::move(socket));
  }
}

void Giving::begin(UniqueFd socket) {
  if (state_ != State::kIdle) {
    (void)!contract::receive_packet(socket, hand_over::kMaxMessage)
        .has_value();  // unread, it would hide the answer
    Buffer bytes;
    hand_over::encode(hand_over::Refused{"another successor is taking over"}, bytes);
    (void)!contract::send_packet(socket, bytes.span()).has_value();  // ignoring: it sees the close
    return;
  }
  auto line = HandOverLine::open(
      reactor_, std::move(socket), [this](hand_over::Received received) { heard(std::move(received)); },
      [this](const std::string& why) { lost(why); });
  if (!line) return log::warn("keeper", "{}", line.error().text());
  line_ = std::move(*line);
  proxy_gone_ = proxy_committed_ = false;
  successor_lost_.clear();
  enter(State::kAsked, kAskDeadline);
}

void Giving::heard(hand_over::Received received) {
  const auto& message = received.message;
  if (const auto* ask = std::get_if<hand_over::Ask>(&message); ask && state_ == State::kAsked) {
    asked(*ask);
  } else if (const auto* failed = std::get_if<hand_over::Failed>(&message)) {
    line_->hang_up();
    lost(failed->reason);
  } else if (std::holds_alternative<hand_over::Prepared>(message) && state_ == State::kOffered) {
    move();
  } else if (std::holds_alternative<hand_over::Taken>(message) && state_ == State::kMoving) {
    commit();
  } else if (std::holds_alternative<hand_over::Taken>(message) && state_ == State::kFarewell) {
    // Its own proxy was faster to say so.
  } else if (std::holds_alternative<hand_over::Mine>(message) && state_ == State::kFarewell) {
    end();
    agent_.given_away();
  } else {
    line_->hang_up();
    lost("the successor breaks the protocol");
  }
}

void Giving::asked(const hand_over::Ask& ask) {
  const auto version = hand_over::agree(ask);
  std::string refusal = version ? agent_.reason_to_refuse(ask)
                                : fmt::format("it speaks versions {} to {}, this agent {} to {}", ask.oldest,
                                              ask.newest, hand_over::kOldest, hand_over::kNewest);
  if (!refusal.empty()) return fail(refusal, true);
  log::info("keeper", "hand-over: pid {}, version {}, asks", line_->peer(), ask.agent);
  hand_over::Offer offer = agent_.offer();
  offer.version = *version;
  enter(State::kOffered, kOfferDeadline);
  line_->send(std::move(offer));
  agent_.offer_pods();
  line_->send(hand_over::AllPods{});
}

void Giving::pod_added(hand_over::OfferedPod pod, std::vector<UniqueFd> fds) {
  if (state_ == State::kOffered) line_->send(std::move(pod), std::move(fds));
}

void Giving::pod_gone(const std::string& uid) {
  if (state_ == State::kOffered) line_->send(hand_over::PodGone{uid});
}

void Giving::move() {
  auto pair = contract::packet_pair();
  if (!pair) return fail(pair.error().text(), true);
  widen(pair->one);
  widen(pair->other);
  enter(State::kMoving, kMoveDeadline);
  const auto told = agent_.tell_proxy_to_hand_over(std::move(pair->one));
  if (!told) return fail(told.error().text(), false);
  proxy_gone_ = !*told;
  std::vector<UniqueFd> fds;
  if (*told) fds.push_back(std::move(pair->other));
  line_->send(hand_over::Take{}, std::move(fds));
}

// Either proxy says that the connections have changed hands: the node is the successor's.
void Giving::commit() {
  auto lock = agent_.copy_of_lock();
  if (!lock) {
    // Without it the successor takes it when we are gone.
    log::error("keeper", "hand-over: {}", lock.error().text());
    agent_.giving_away();
    end();
    return agent_.given_away();
  }
  enter(State::kFarewell, kFarewellDeadline);
  agent_.giving_away();
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(*lock));
  line_->send(hand_over::Yours{}, std::move(fds));
}

void Giving::proxy_handed_over() {
  proxy_committed_ = true;
  if (state_ != State::kMoving) return;
  successor_lost_.empty() ? commit() : fail(successor_lost_, false);
}

void Giving::proxy_failed(const std::string& why) {
  if (state_ == State::kMoving) fail(successor_lost_.empty() ? why : successor_lost_, true);
}

// Whether it has handed over before it died only the successor knows.
void Giving::proxy_died() {
  proxy_gone_ = true;
  if (state_ == State::kMoving && !successor_lost_.empty()) fail(successor_lost_, false);
}

void Giving::lost(const std::string& why) {
  successor_lost_ = "the successor failed: " + why;
  // What has become of the connections our own proxy knows, unless it has died of it.
  if (state_ == State::kMoving && !proxy_gone_) return;
  fail(successor_lost_, state_ < State::kMoving);
}

void Giving::give_up(const std::string& why) {
  if (state_ == State::kAsked || state_ == State::kOffered) fail(why, true);
}

void Giving::fail(const std::string& why, bool proxy_serves) {
  const State was = state_;
  if (line_ != nullptr) line_->send(hand_over::Refused{why});
  end();
  if (was != State::kIdle) agent_.go_on({why, proxy_serves, was == State::kFarewell});
}

void Giving::end() {
  deadline_.cancel();
  state_ = State::kIdle;
  if (line_ == nullptr) return;
  line_->hang_up();
  reactor_.defer_destroy(std::move(line_));
}

void Giving::on_deadline() noexcept {
  switch (state_) {
    case State::kIdle: return;
    case State::kAsked: return fail("it did not say what it wants in time", true);
    case State::kOffered: return fail("the successor was not ready in time", true);
    case State::kMoving: return fail("nobody said what has become of the connections in time", false);
    case State::kFarewell:
      // It has the lock and the connections, and is alive: one agent of the two has to go.
      log::warn("keeper", "hand-over: the successor did not say that it answers in time");
      end();
      return agent_.given_away();
  }
}

}  // namespace fairlead::keeper
