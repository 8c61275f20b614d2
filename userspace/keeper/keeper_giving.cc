// What the keeper does as the running agent when a successor asks (giving.h).
#include <signal.h>

#include "base/file.h"
#include "base/log.h"
#include "bpf/abi/maps.h"
#include "keeper/keeper.h"

namespace fairlead::keeper {
namespace {

// Listeners that are replaced: events of theirs may still be in this turn.
struct Retired final : Deferred {
  std::unique_ptr<Giving> giving;
  std::unique_ptr<net::QueryServer> queries;
};

}  // namespace

std::string Keeper::reason_to_refuse(const contract::hand_over::Ask& ask) {
  if (leaving_) return "this agent is stopping";
  if (ask.node != config_.node) return fmt::format("this is node {}, not {}", config_.node, ask.node);
  if (ask.bpf_directory != config_.bpf_directory)
    return fmt::format("the BPF directory here is {}, not {}", config_.bpf_directory, ask.bpf_directory);
  // It would have to detach every pod and attach it anew: that needs this agent gone.
  if (ask.maps != FL_ABI_VERSION)
    return fmt::format("the maps here are of version {}, not {}: stop this agent first", FL_ABI_VERSION,
                       ask.maps);
  return {};
}

contract::hand_over::Offer Keeper::offer() {
  return {contract::hand_over::kNewest, FAIRLEAD_VERSION, hand_overs_.taken, hand_overs_.failed};
}

void Keeper::offer_pods() {
  for (const auto& [uid, pod] : pods_) offer_pod(pod);
}

void Keeper::offer_pod(const Pod& pod) {
  if (!giving_->under_way()) return;
  std::vector<UniqueFd> fds;
  for (const UniqueFd* fd : {&pod.netns, &pod.listeners.outbound4, &pod.listeners.inbound4,
                             &pod.listeners.outbound6, &pod.listeners.inbound6}) {
    if (!*fd) continue;  // no IPv6
    auto copy = duplicate(*fd);
    if (!copy) return giving_->give_up(copy.error().text());
    fds.push_back(std::move(*copy));
  }
  giving_->pod_added({pod.spec.uid, pod.where.cookie, pod.where.addresses, pod.listeners.has_v6()},
                     std::move(fds));
}

Result<bool> Keeper::tell_proxy_to_hand_over(UniqueFd to_successor) {
  proxy_->let_go();
  if (!contract_ || !proxy_synced_) {
    // One that is dead or has never known the mesh has nothing that a successor could want.
    log::warn("keeper", "hand-over: there is no proxy that serves");
    proxy_->kill(SIGKILL);
    return false;
  }
  log::info("keeper", "hand-over: the connections are moved");
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(to_successor));
  tell(contract::HandOver{}, std::move(fds));
  return true;
}

Result<UniqueFd> Keeper::copy_of_lock() {
  return duplicate(lock_);
}

void Keeper::go_on(const Outcome& outcome) {
  ++hand_overs_.failed;
  hand_overs_.last_failure = outcome.why;
  log::warn("keeper", "hand-over failed, this agent goes on: {}", outcome.why);
  given_ = false;
  if (!outcome.proxy_serves) proxy_->kill(SIGKILL);
  proxy_->keep();
  if (outcome.names_lost) listen_again();
  if (std::exchange(stop_asked_, false)) stop();
}

void Keeper::listen_again() {
  auto retired = std::make_unique<Retired>();
  retired->giving = std::move(giving_);
  retired->queries = std::move(queries_);
  const Result<void> again = listen("");
  if (!again) {
    log::error("keeper", "{}", again.error().text());
    giving_ = std::move(retired->giving);
    queries_ = std::move(retired->queries);
  }
  reactor_->defer_destroy(std::move(retired));
}

// Its names go over by renaming (keeper_taking.cc): nothing of them may be removed here.
void Keeper::giving_away() {
  given_ = true;
  proxy_->let_go();
  queries_->let_go();
  giving_->let_go();
}

// Its proxy is let go: it has nothing that is still its own, and ends with this process at the latest.
void Keeper::given_away() {
  log::info("keeper", "hand-over: given to the successor");
  end({});
}

}  // namespace fairlead::keeper
