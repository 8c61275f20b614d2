// What the keeper does as the successor of a running agent (taking.h).
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <span>

#include "base/log.h"
#include "bpf/abi/maps.h"
#include "keeper/agent_lock.h"
#include "keeper/keeper.h"
#include "keeper/pod_cgroup.h"
#include "net/socket.h"

namespace fairlead::keeper {
namespace {

constexpr const char* kNewName = ".new";  // names beside those of the running agent

bool listens(BorrowedFd fd) {
  int answer = 0;
  socklen_t length = sizeof answer;
  return ::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &answer, &length) == 0 && answer != 0;
}

// What is said to be a pod's listeners are sockets of the pod's own namespace. False: one of them does not
// listen any more: the pod has been removed since.
Result<bool> check_listeners(uint64_t cookie, std::span<const UniqueFd> listeners) {
  bool all = true;
  for (const UniqueFd& listener : listeners) {
    FL_TRY_ASSIGN(const uint64_t found, net::netns_cookie(listener));
    if (found != cookie)
      return Error(ErrorKind::kProtocol, "what came as a listener is none of that namespace");
    all = all && listens(listener);
  }
  return all;
}

}  // namespace

Result<void> Keeper::ask_for_node(UniqueFd socket) {
  contract::hand_over::Ask ask;
  ask.maps = FL_ABI_VERSION;
  ask.agent = FAIRLEAD_VERSION;
  ask.node = config_.node;
  ask.bpf_directory = config_.bpf_directory;
  FL_TRY_ASSIGN(taking_, Taking::ask(*reactor_, std::move(socket), std::move(ask), *this));
  return {};
}

// Handles come over the socket, the rest of what is known of a pod lies in pods.json, which the running agent
// writes before it offers. What is not there has been removed since: that will be told before Take.
Result<void> Keeper::take_pod(contract::hand_over::OfferedPod offered, std::vector<UniqueFd> fds) {
  FL_TRY_ASSIGN(const bool listening, check_listeners(offered.cookie, std::span(fds).subspan(1)));
  FL_TRY_ASSIGN(auto specs, enroll::load_pods(config_.run_directory + "/pods.json"));
  const auto spec = std::find_if(specs.begin(), specs.end(),
                                 [&](const enroll::PodSpec& known) { return known.uid == offered.uid; });
  if (spec == specs.end() || !listening) {
    drop_pod(offered.uid);
    unknown_.insert(offered.uid);
    return {};
  }
  if (!pods_.contains(offered.uid) && pods_.size() >= enroll::kMaxPods)
    return Error(ErrorKind::kExhausted, "too many pods");
  drop_pod(offered.uid);  // the same uid with another namespace
  Pod pod;
  pod.spec = std::move(*spec);
  pod.where = {offered.cookie, std::move(offered.addresses)};
  pod.netns = std::move(fds[0]);
  pod.listeners.outbound4 = std::move(fds[1]);
  pod.listeners.inbound4 = std::move(fds[2]);
  if (offered.has_v6) {
    pod.listeners.outbound6 = std::move(fds[3]);
    pod.listeners.inbound6 = std::move(fds[4]);
  }
  const Pod& kept = pods_[offered.uid] = std::move(pod);
  if (proxy_greeted_) tell_pod(kept);
  return {};
}

void Keeper::drop_pod(const std::string& uid) {
  unknown_.erase(uid);
  const auto known = pods_.find(uid);
  if (known == pods_.end()) return;
  if (proxy_greeted_) tell(contract::PodRemoved{known->second.where.cookie});
  pods_.erase(known);
}

// All that can fail comes here, beside what the running agent uses: maps are opened, programs loaded, names
// bound.
Result<void> Keeper::start_successor_proxy() {
  FL_TRY(prepare_directories());
  FL_TRY(prepare_datapath());
  FL_TRY(listen(kNewName));
  make_proxy(true);
  FL_TRY(proxy_->start());
  log::info("keeper", "hand-over: {} pods are offered, the new proxy prepares", pods_.size());
  return {};
}

Result<void> Keeper::tell_proxy_to_take_over(std::vector<UniqueFd> from_old) {
  if (!unknown_.empty())
    return Error(ErrorKind::kNotFound,
                 fmt::format("pod uid {} is not known or does not listen", *unknown_.begin()));
  tell(contract::TakeOver{}, std::move(from_old));
  return {};
}

std::optional<UniqueFd> Keeper::try_lock() {
  auto lock = try_agent_lock(config_.run_directory);
  return lock ? std::move(*lock) : std::nullopt;
}

// Behind the point of no return: what does not work here is told, and lived with.
void Keeper::take_charge(UniqueFd lock) {
  lock_ = std::move(lock);
  ever_synced_ = true;  // the maps hold the mesh: the agent before had it
  proxy_->no_successor();
  hand_overs_.taken = taking_->offer().taken + 1;
  hand_overs_.failed = taking_->offer().failed;
  take_names();
  const Result<void> set = datapath_->set_node_addresses(own_addresses_);
  if (!set) log::error("keeper", "node addresses: {}", set.error().text());
  const Result<void> saved = save();
  if (!saved) log::error("keeper", "{}", saved.error().text());
  std::vector<std::string> uids;
  for (const auto& [uid, pod] : pods_) uids.push_back(uid);
  attach_again(std::move(uids));
  log::info("keeper", "hand-over: taken, node {}: {} pods, run directory {}", config_.node, pods_.size(),
            config_.run_directory);
}

void Keeper::take_names() {
  const std::string& run = config_.run_directory;
  for (const Result<void>& renamed :
       {queries_->rename(run + "/keeper.sock"), giving_->rename(run + "/handover.sock")}) {
    if (!renamed) log::error("keeper", "{}", renamed.error().text());
  }
  // The proxy listens already; it may not rename.
  if (std::rename((run + "/proxy/successor.sock").c_str(), (run + "/proxy/proxy.sock").c_str()) != 0)
    log::error("keeper", "{}", Error::from_errno("rename proxy.sock").text());
}

// Links get this agent's programs in place: there is no moment without one. Connections wait for nothing of
// it.
void Keeper::attach_again(std::vector<std::string> uids) {
  if (uids.empty()) return;
  const auto found = pods_.find(uids.back());
  uids.pop_back();
  if (found != pods_.end()) {
    Pod& pod = found->second;
    auto cgroup = open_pod_cgroup(pod.spec.cgroup);
    const Result<void> attached = cgroup ? attach(pod, *cgroup) : Result<void>(std::move(cgroup).error());
    if (!attached)
      log::warn("keeper", "pod {}/{} keeps the programs of the agent before: {}", pod.spec.ns, pod.spec.name,
                attached.error().text());
  }
  reactor_->post([this, uids = std::move(uids)]() mutable { attach_again(std::move(uids)); });
}

void Keeper::give_up(Error why) {
  if (proxy_ != nullptr) {
    proxy_->let_go();
    (void)::unlink((config_.run_directory + "/proxy/successor.sock").c_str());  // it is killed and cannot
  }
  end(std::move(why));
}

}  // namespace fairlead::keeper
