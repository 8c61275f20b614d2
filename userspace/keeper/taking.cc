#include "keeper/taking.h"

#include "base/log.h"
#include "keeper/hand_over_limits.h"

namespace fairlead::keeper {
namespace {

namespace hand_over = contract::hand_over;

}  // namespace

Taking::Taking(Reactor& reactor, Agent& agent) noexcept
    : reactor_(reactor), agent_(agent), deadline_(*this), retry_(*this) {}

Result<std::unique_ptr<Taking>> Taking::ask(Reactor& reactor, UniqueFd socket, hand_over::Ask ask,
                                            Agent& agent) {
  std::unique_ptr<Taking> taking(new Taking(reactor, agent));
  Taking* raw = taking.get();
  FL_TRY_ASSIGN(taking->line_, HandOverLine::open(
                                   reactor, std::move(socket),
                                   [raw](hand_over::Received received) { raw->heard(std::move(received)); },
                                   [raw](const std::string& why) { raw->lost(why); }));
  log::info("keeper", "hand-over: an agent runs here, pid {}: asking it", taking->line_->peer());
  taking->enter(State::kAsked, kAnswerDeadline);
  taking->line_->send(std::move(ask));
  return taking;
}

void Taking::enter(State state, std::chrono::milliseconds deadline) {
  state_ = state;
  reactor_.timers().arm(deadline_, reactor_.now() + deadline);
}

void Taking::heard(hand_over::Received received) {
  if (state_ == State::kDone) return;
  if (const auto* refused = std::get_if<hand_over::Refused>(&received.message)) {
    return fail(Error(ErrorKind::kUnavailable,
                      fmt::format("the running agent does not hand over: {}", refused->reason)));
  }
  if (const auto* offer = std::get_if<hand_over::Offer>(&received.message);
      offer != nullptr && state_ == State::kAsked) {
    return offered(*offer);
  }
  if (std::holds_alternative<hand_over::AllPods>(received.message) && state_ == State::kReceiving)
    return all_pods();
  if (std::holds_alternative<hand_over::Take>(received.message) && state_ == State::kPrepared) {
    state_ = State::kMoving;
    Result<void> told = agent_.tell_proxy_to_take_over(std::move(received.fds));
    return told ? void() : fail(std::move(told).error().context("hand-over"));
  }
  const bool moved = state_ == State::kMoving || state_ == State::kTaken;
  if (std::holds_alternative<hand_over::Yours>(received.message) && moved)
    return charge(std::move(received.fds[0]));
  if (!heard_of_pods(received))
    fail(Error(ErrorKind::kProtocol, "hand-over: the running agent breaks the protocol"));
}

bool Taking::heard_of_pods(hand_over::Received& received) {
  const bool now = state_ == State::kReceiving || state_ == State::kPreparing || state_ == State::kPrepared;
  if (auto* pod = std::get_if<hand_over::OfferedPod>(&received.message); pod != nullptr && now) {
    Result<void> taken = agent_.take_pod(std::move(*pod), std::move(received.fds));
    if (!taken) fail(std::move(taken).error().context("hand-over"));
    return true;
  }
  if (const auto* gone = std::get_if<hand_over::PodGone>(&received.message); gone != nullptr && now) {
    agent_.drop_pod(gone->uid);
    return true;
  }
  return false;
}

void Taking::offered(const hand_over::Offer& offer) {
  if (offer.version < hand_over::kOldest || offer.version > hand_over::kNewest)
    return fail(Error(ErrorKind::kProtocol, fmt::format("hand-over: version {} is unknown", offer.version)));
  offer_ = offer;
  enter(State::kReceiving, kAnswerDeadline);
}

void Taking::all_pods() {
  Result<void> started = agent_.start_successor_proxy();
  if (!started) return fail(std::move(started).error().context("hand-over"));
  enter(State::kPreparing, kPrepareDeadline);
}

void Taking::proxy_ready() {
  if (state_ != State::kPreparing) return;
  enter(State::kPrepared, kTakeDeadline);
  line_->send(hand_over::Prepared{});
}

void Taking::proxy_took_over() {
  proxy_serves_ = true;
  if (state_ == State::kAlone) return try_alone();
  if (state_ != State::kMoving) return;
  state_ = State::kTaken;
  line_->send(hand_over::Taken{});
}

void Taking::proxy_failed(const std::string& why) {
  if (state_ != State::kDone) fail(Error(ErrorKind::kUnavailable, "hand-over: the new proxy failed: " + why));
}

void Taking::lost(const std::string& why) {
  if (state_ != State::kMoving && state_ != State::kTaken) {
    if (state_ != State::kDone) fail(Error(ErrorKind::kClosed, "hand-over: " + why));
    return;
  }
  // Perhaps on the wrong side of the point of no return: the proxies know, and the lock tells who lives.
  log::warn("keeper", "hand-over: {}", why);
  enter(State::kAlone, kLockDeadline);
  try_alone();
}

void Taking::try_alone() {
  if (state_ != State::kAlone || !proxy_serves_) return;
  if (auto lock = agent_.try_lock()) return charge(std::move(*lock));
  reactor_.timers().arm(retry_, reactor_.now() + kLockRetry);
}

void Taking::charge(UniqueFd lock) {
  deadline_.cancel();
  retry_.cancel();
  state_ = State::kDone;
  agent_.take_charge(std::move(lock));
  line_->send(hand_over::Mine{});
}

void Taking::fail(Error why) {
  if (state_ == State::kDone) return;
  state_ = State::kDone;
  deadline_.cancel();
  retry_.cancel();
  line_->send(hand_over::Failed{why.text()});
  line_->hang_up();
  agent_.give_up(std::move(why));
}

void Taking::on_deadline() noexcept {
  const auto late = [this](const char* what) {
    fail(Error(ErrorKind::kTimeout, fmt::format("hand-over: {} in time", what)));
  };
  switch (state_) {
    case State::kAsked:
    case State::kReceiving: return late("the running agent did not answer");
    case State::kPreparing:
      return late(
          "the new proxy has not got the mesh and a certificate for every pod (is the controller "
          "reachable?)");
    case State::kPrepared: return late("the running agent did not begin");
    case State::kMoving:
    case State::kTaken: return late("the running agent did not finish");
    case State::kAlone: return late("the running agent neither ended nor finished");
    case State::kDone: return;
  }
}

}  // namespace fairlead::keeper
