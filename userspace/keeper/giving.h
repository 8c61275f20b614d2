// The running agent's side of a hand-over (contract/hand_over.h tells the steps): one successor at a time,
// each step with a deadline. Until Yours is sent everything can be taken back, and is: the agent goes on as
// if nothing had been asked. Thread: the keeper's.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "contract/hand_over.h"
#include "event/reactor.h"
#include "keeper/hand_over_line.h"

namespace fairlead::keeper {

class Giving final : private IoHandler {
 public:
  // What the keeper does for it.
  class Agent {
   public:
    // Why this successor gets nothing; empty: it may.
    virtual std::string reason_to_refuse(const contract::hand_over::Ask& ask) = 0;
    virtual contract::hand_over::Offer offer() = 0;
    virtual void offer_pods() = 0;  // by pod_added()
    // False: no proxy serves, there is nothing to hand over.
    virtual Result<bool> tell_proxy_to_hand_over(UniqueFd to_successor) = 0;
    virtual Result<UniqueFd> copy_of_lock() = 0;
    // It is over and nothing was given.
    struct Outcome {
      std::string why;
      bool proxy_serves = true;  // else it has to be replaced
      bool names_lost = false;   // the successor may have had the sockets' names
    };
    virtual void go_on(const Outcome& outcome) = 0;
    virtual void giving_away() = 0;  // the point of no return is behind: the names are the successor's
    virtual void given_away() = 0;

   protected:
    ~Agent() = default;
  };

  // Listens at `path`.
  static Result<std::unique_ptr<Giving>> listen(Reactor& reactor, const std::string& path, Agent& agent);
  ~Giving();
  Result<void> rename(const std::string& path);
  void let_go() noexcept { path_.clear(); }  // the name stays at the end

  [[nodiscard]] bool under_way() const noexcept { return state_ != State::kIdle; }
  // Pods may come and go until connections are moved.
  [[nodiscard]] bool pods_are_fixed() const noexcept { return state_ >= State::kMoving; }
  [[nodiscard]] std::string_view state() const noexcept;

  void pod_added(contract::hand_over::OfferedPod pod, std::vector<UniqueFd> fds);
  void pod_gone(const std::string& uid);
  void proxy_handed_over();
  void proxy_failed(const std::string& why);  // it serves
  void proxy_died();
  void give_up(const std::string& why);

 private:
  enum class State { kIdle, kAsked, kOffered, kMoving, kFarewell };
  Giving(Reactor& reactor, UniqueFd listener, std::string path, Agent& agent);
  void on_io(uint32_t events) noexcept override;  // somebody connects
  void begin(UniqueFd socket);
  void heard(contract::hand_over::Received received);
  void lost(const std::string& why);
  void asked(const contract::hand_over::Ask& ask);
  void move();
  void commit();
  void fail(const std::string& why, bool proxy_serves);
  void end();
  void enter(State state, std::chrono::seconds deadline);
  void on_deadline() noexcept;

  Reactor& reactor_;
  UniqueFd listener_;
  std::string path_;
  Agent& agent_;
  State state_ = State::kIdle;
  std::unique_ptr<HandOverLine> line_;
  bool proxy_gone_ = false;       // died while it was asked to hand over
  bool proxy_committed_ = false;  // said that it has handed over
  std::string successor_lost_;    // why; empty: it is there
  Alarm<Giving, &Giving::on_deadline> deadline_;
};

}  // namespace fairlead::keeper
