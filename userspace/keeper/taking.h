// The successor's side of a hand-over (contract/hand_over.h tells the steps). Until it is in charge it
// changes nothing that the running agent uses; if it does not get that far the process ends. Thread: the
// keeper's.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "contract/hand_over.h"
#include "event/reactor.h"
#include "keeper/hand_over_line.h"

namespace fairlead::keeper {

class Taking {
 public:
  // What the keeper does for it.
  class Agent {
   public:
    virtual Result<void> take_pod(contract::hand_over::OfferedPod pod, std::vector<UniqueFd> fds) = 0;
    virtual void drop_pod(const std::string& uid) = 0;
    virtual Result<void> start_successor_proxy() = 0;                                  // all pods are known
    virtual Result<void> tell_proxy_to_take_over(std::vector<UniqueFd> from_old) = 0;  // none: nobody serves
    virtual std::optional<UniqueFd> try_lock() = 0;
    virtual void take_charge(UniqueFd lock) = 0;  // cannot fail
    virtual void give_up(Error why) = 0;          // the process ends

   protected:
    ~Agent() = default;
  };

  static Result<std::unique_ptr<Taking>> ask(Reactor& reactor, UniqueFd socket, contract::hand_over::Ask ask,
                                             Agent& agent);

  // Not in charge yet: the running agent still is.
  [[nodiscard]] bool under_way() const noexcept { return state_ != State::kDone; }
  [[nodiscard]] const contract::hand_over::Offer& offer() const noexcept { return offer_; }

  void proxy_ready();
  void proxy_took_over();
  void proxy_failed(const std::string& why);
  void stop(const std::string& why) { fail(Error(ErrorKind::kCancelled, why)); }

 private:
  enum class State { kAsked, kReceiving, kPreparing, kPrepared, kMoving, kTaken, kAlone, kDone };
  Taking(Reactor& reactor, Agent& agent) noexcept;
  void heard(contract::hand_over::Received received);
  bool heard_of_pods(contract::hand_over::Received& received);
  void offered(const contract::hand_over::Offer& offer);
  void all_pods();
  void lost(const std::string& why);
  void charge(UniqueFd lock);
  void try_alone();
  void fail(Error why);
  void enter(State state, std::chrono::milliseconds deadline);
  void on_deadline() noexcept;
  void on_retry() noexcept { try_alone(); }

  Reactor& reactor_;
  Agent& agent_;
  State state_ = State::kAsked;
  std::unique_ptr<HandOverLine> line_;
  contract::hand_over::Offer offer_;
  bool proxy_serves_ = false;
  Alarm<Taking, &Taking::on_deadline> deadline_;
  Alarm<Taking, &Taking::on_retry> retry_;
};

}  // namespace fairlead::keeper
