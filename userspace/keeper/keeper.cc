#include "keeper/keeper.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/file.h"
#include "base/log.h"
#include "keeper/agent_lock.h"
#include "keeper/hand_over_limits.h"
#include "keeper/pod_cgroup.h"
#include "net/netns.h"
#include "net/socket.h"
#include "net/unix_socket.h"

namespace fairlead::keeper {
namespace {

constexpr size_t kMaxOutgoing = 8192;
constexpr size_t kMaxOutgoingFds =
    8192;  // waiting for a proxy that does not read: kMaxPods with listeners, twice
constexpr std::chrono::milliseconds kRetry{20};
constexpr std::chrono::seconds kDrainGrace{1};
constexpr int kRecallTries = 150;  // at kRetry: 3 s

abi::fl_address to_abi(const IpAddress& address) {
  abi::fl_address out{};
  std::copy(address.octets().begin(), address.octets().end(), std::begin(out.octets));
  return out;
}

abi::fl_pod pod_value(const PodNamespace& where, bool has_v6) {
  abi::fl_pod value{};
  value.outbound_port = htons(kOutboundPort);
  value.inbound_port = htons(kInboundPort);
  for (auto it = where.addresses.rbegin(); it != where.addresses.rend();
       ++it) {  // the first of a family wins
    (it->is_v4() ? value.address4 : value.address6) = to_abi(*it);
    value.flags |= it->is_v4() ? FL_POD_HAS_V4 : (has_v6 ? FL_POD_HAS_V6 : 0u);
  }
  return value;
}

}  // namespace

Keeper::Keeper(KeeperConfig config)
    : config_(std::move(config)),
      signal_watch_(*this),
      started_(Clock::now()),
      retry_(*this),
      find_(*this),
      drained_(*this) {}

Keeper::~Keeper() {
  if (reactor_ == nullptr) return;
  if (contract_) reactor_->unwatch(contract_);
  if (signals_) reactor_->unwatch(signals_);
}

// ---- start
// --------------------------------------------------------------------------------------------------------------

Result<void> Keeper::run() {
  FL_TRY(set_up());
  find_until_ = Clock::now() + kFindDeadline;
  find_agent();
  reactor_->run();
  if (given_ && config_.stay_when_given) stay();
  return std::move(outcome_);
}

// Holds nothing and waits for its own end: for those who would start an agent anew that ends.
void Keeper::stay() noexcept {
  queries_.reset();
  giving_.reset();
  taking_.reset();
  proxy_.reset();
  node_addresses_.reset();
  pods_.clear();
  datapath_.reset();
  lock_.reset();
  log::info("keeper", "hand-over: staying until a signal comes");
  pollfd wanted{signals_.get(), POLLIN, 0};
  while (::poll(&wanted, 1, -1) < 0 && errno == EINTR) {
  }
}

void Keeper::end(Result<void> outcome) noexcept {
  outcome_ = std::move(outcome);
  reactor_->stop();
}

// The lock tells. Who holds it answers at handover.sock, unless it begins or ends just now.
void Keeper::find_agent() noexcept {
  auto lock = try_agent_lock(config_.run_directory);
  if (!lock) return end(std::move(lock).error());
  if (*lock) {
    Result<void> begun = begin(std::move(**lock));
    if (!begun) end(std::move(begun));
    return;
  }
  auto socket = net::unix_connect(config_.run_directory + "/handover.sock", SOCK_SEQPACKET);
  if (socket) {
    Result<void> asked = ask_for_node(std::move(*socket));
    if (!asked) end(std::move(asked));
    return;
  }
  if (Clock::now() >= find_until_)
    return end(std::move(socket).error().context("an agent runs here and does not hand over"));
  reactor_->timers().arm(find_, Clock::now() + kFindRetry);
}

Result<void> Keeper::begin(UniqueFd lock) {
  lock_ = std::move(lock);
  // Agents of versions that know no lock.
  if (auto old = net::unix_connect(config_.run_directory + "/keeper.sock", SOCK_STREAM)) {
    const auto peer = net::unix_peer(*old);
    return Error(
        ErrorKind::kUnavailable,
        fmt::format("an agent of an older version runs here (pid {}), which cannot hand over: stop it first",
                    peer ? peer->pid : 0));
  }
  FL_TRY(prepare_directories());
  FL_TRY(prepare_datapath());
  make_proxy(false);
  recall_pods();
  FL_TRY(listen(""));
  FL_TRY(proxy_->start());
  log::info("keeper", "node {}: {} pods, run directory {}", config_.node, pods_.size(),
            config_.run_directory);
  return {};
}

Result<void> Keeper::prepare_directories() {
  const std::string proxy_directory = config_.run_directory + "/proxy";
  FL_TRY(make_directories(proxy_directory));
  if (::chown(proxy_directory.c_str(), config_.proxy_uid, config_.proxy_uid) != 0) {
    return Error::from_errno(fmt::format("chown {}", proxy_directory));
  }
  if (::chmod(proxy_directory.c_str(), 0700) != 0)
    return Error::from_errno(fmt::format("chmod {}", proxy_directory));
  const std::string link = config_.run_directory + "/proxy.sock";
  if (::symlink("proxy/proxy.sock", link.c_str()) != 0 && errno != EEXIST)
    return Error::from_errno(fmt::format("symlink {}", link));
  return {};
}

Result<void> Keeper::set_up() {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGTERM);
  ::sigaddset(&wanted, SIGINT);
  ::sigprocmask(SIG_BLOCK, &wanted, nullptr);
  signals_.reset(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return Error::from_errno("signalfd");
  FL_TRY_ASSIGN(reactor_, Reactor::create());
  FL_TRY(reactor_->watch_level(signals_, signal_watch_));
  FL_TRY_ASSIGN(home_, net::current_netns());
  FL_TRY_ASSIGN(const UniqueFd probe, net::tcp_socket(AF_INET));
  FL_TRY_ASSIGN(home_cookie_, net::netns_cookie(probe));
  return make_directories(config_.run_directory);
}

Result<void> Keeper::prepare_datapath() {
  net::load_kernel_tls();
  FL_TRY_ASSIGN(datapath_, ebpf::Datapath::open(config_.bpf_directory));
  FL_TRY_ASSIGN(node_addresses_, NodeAddresses::watch(*reactor_, [this](std::vector<IpAddress> addresses) {
                  own_addresses_ = std::move(addresses);
                  if (!lock_) return;  // take_charge() does it
                  const Result<void> set = datapath_->set_node_addresses(own_addresses_);
                  if (!set) log::error("keeper", "node addresses: {}", set.error().text());
                }));
  return {};
}

void Keeper::make_proxy(bool successor) {
  proxy_ = std::make_unique<ProxyChild>(
      *reactor_, ProxyCommand{config_.config_path, config_.proxy_uid, config_.proxy_locked_memory, successor},
      [this](UniqueFd contract) { proxy_started(std::move(contract)); }, [this](int) { proxy_exited(); });
}

// `suffix`: names beside those that are in use.
Result<void> Keeper::listen(const std::string& suffix) {
  FL_TRY_ASSIGN(
      auto queries,
      net::QueryServer::listen(*reactor_, config_.run_directory + "/keeper.sock" + suffix, 0600,
                               [this](std::string_view verb, std::string_view argument,
                                      const net::QueryPeer& peer) { return answer(verb, argument, peer); }));
  FL_TRY_ASSIGN(giving_, Giving::listen(*reactor_, config_.run_directory + "/handover.sock" + suffix, *this));
  queries_ = std::move(queries);
  return {};
}

// A pod whose namespace or cgroup is gone is forgotten. One that is there and cannot be served stays captured
// and remembered: nothing of it may go out in clear.
void Keeper::recall_pod(enroll::PodSpec spec) {
  const std::string name = spec.ns + "/" + spec.name;
  auto added = add_pod(spec);
  // A successor that has not noticed yet that it will not be given the node holds the listeners for a moment.
  for (int tries = 0; !added && added.error().code() == EADDRINUSE && tries < kRecallTries; ++tries) {
    (void)::poll(nullptr, 0, static_cast<int>(kRetry.count()));
    added = add_pod(spec);
  }
  if (added) return;
  const int code = added.error().code();
  const bool gone = code == 0 || code == ENOENT || code == ENOTDIR || code == EINVAL;
  if (gone) return log::warn("keeper", "pod {} is not taken up again: {}", name, added.error().text());
  log::error("keeper", "pod {} stays captured without service: {}", name, added.error().text());
  const std::string uid = spec.uid;
  closed_.emplace(uid, std::move(spec));
}

void Keeper::recall_pods() {
  auto remembered = enroll::load_pods(config_.run_directory + "/pods.json");
  if (!remembered) {
    // Pins stay where they are: those pods fail closed until they are enrolled again.
    log::error("keeper", "{}", remembered.error().text());
    return;
  }
  for (enroll::PodSpec& spec : *remembered) recall_pod(std::move(spec));
  const auto pinned = datapath_->pods();
  if (!pinned) return log::error("keeper", "{}", pinned.error().text());
  for (const std::string& uid : *pinned) {
    if (pods_.contains(uid) || closed_.contains(uid)) continue;
    const Result<void> detached = datapath_->detach_pod(uid, 0);
    log::info("keeper", "pod uid {} is gone: detached{}", uid,
              detached ? "" : ", with errors: " + detached.error().text());
  }
  const Result<void> saved = save();
  if (!saved) log::error("keeper", "{}", saved.error().text());
}

// ---- pods
// ---------------------------------------------------------------------------------------------------------------

Result<void> Keeper::attach(Pod& pod, BorrowedFd cgroup) {
  FL_TRY_ASSIGN(const enroll::Exclusions exclusions, enroll::exclusions_of(pod.spec));
  const auto listen = [&](ebpf::Direction direction, int family, const UniqueFd& listener) {
    return datapath_->set_listener(pod.where.cookie, direction, family, listener);
  };
  FL_TRY(listen(ebpf::Direction::kOutbound, AF_INET, pod.listeners.outbound4));
  FL_TRY(listen(ebpf::Direction::kInbound, AF_INET, pod.listeners.inbound4));
  if (pod.listeners.has_v6()) {
    FL_TRY(listen(ebpf::Direction::kOutbound, AF_INET6, pod.listeners.outbound6));
    FL_TRY(listen(ebpf::Direction::kInbound, AF_INET6, pod.listeners.inbound6));
  }
  ebpf::PodAttachment attachment;
  attachment.uid = pod.spec.uid;
  attachment.netns_cookie = pod.where.cookie;
  attachment.cgroup = cgroup;
  attachment.netns = pod.netns;
  attachment.pod = pod_value(pod.where, pod.listeners.has_v6());
  attachment.excluded_outbound = exclusions.outbound_ports;
  attachment.excluded_inbound = exclusions.inbound_ports;
  attachment.excluded_ranges = exclusions.outbound_ranges;
  return datapath_->attach_pod(attachment);
}

// Everything that can fail comes before the pod is told of; the same pod again is a refresh.
Result<uint64_t> Keeper::add_pod(enroll::PodSpec spec) {
  Pod pod;
  FL_TRY_ASSIGN(pod.netns, net::open_netns(spec.netns));
  FL_TRY_ASSIGN(pod.where, inspect(pod.netns, home_));
  if (pod.where.cookie == home_cookie_)
    return Error(ErrorKind::kInvalidArgument, "that is the node's own network namespace");
  FL_TRY_ASSIGN(const UniqueFd cgroup, open_pod_cgroup(spec.cgroup));
  const auto known = pods_.find(spec.uid);
  const bool same = known != pods_.end() && known->second.where.cookie == pod.where.cookie;
  const bool replaces = known != pods_.end() && !same;
  if (known == pods_.end() && pods_.size() >= enroll::kMaxPods)
    return Error(ErrorKind::kExhausted, "too many pods");
  if (same) {
    pod.listeners = std::move(known->second.listeners);
  } else {
    FL_TRY_ASSIGN(pod.listeners, open_listeners(pod.netns, home_));
  }
  // Not before: what cannot take its place must not uncover a pod that is captured.
  if (replaces) FL_TRY(remove_pod(spec.uid));
  pod.spec = std::move(spec);
  Result<void> attached = attach(pod, cgroup);
  if (!attached) {
    if (same) known->second.listeners = std::move(pod.listeners);
    return Error(std::move(attached).error());
  }
  closed_.erase(pod.spec.uid);
  Pod& kept = pods_[pod.spec.uid] = std::move(pod);
  if (!same) log::info("keeper", "pod {}/{} enrolled", kept.spec.ns, kept.spec.name);
  tell_pod(kept);
  return kept.where.cookie;
}

Result<void> Keeper::remove_pod(const std::string& uid) {
  auto node = pods_.extract(uid);
  if (node.empty() && closed_.erase(uid) != 0) return datapath_->detach_pod(uid, 0);
  if (node.empty()) return Error(ErrorKind::kNotFound, fmt::format("no pod with uid {}", uid));
  const Pod& pod = node.mapped();
  if (giving_ != nullptr) giving_->pod_gone(uid);
  // Copies are open in the proxy, and in a successor: the same pod may come back before they are closed.
  for (const UniqueFd* listener : {&pod.listeners.outbound4, &pod.listeners.inbound4,
                                   &pod.listeners.outbound6, &pod.listeners.inbound6}) {
    if (*listener) net::stop_listening(*listener);
  }
  tell(contract::PodRemoved{pod.where.cookie});
  log::info("keeper", "pod {}/{} removed", pod.spec.ns, pod.spec.name);
  return datapath_->detach_pod(uid, pod.where.cookie);
}

Result<void> Keeper::save() const {
  std::vector<enroll::PodSpec> specs;
  for (const auto& [uid, pod] : pods_) specs.push_back(pod.spec);
  for (const auto& [uid, spec] : closed_) specs.push_back(spec);
  return enroll::save_pods(config_.run_directory + "/pods.json", specs);
}

// ---- the proxy
// ----------------------------------------------------------------------------------------------------------

void Keeper::proxy_started(UniqueFd contract) {
  contract_ = std::move(contract);
  proxy_is_successor_ = taking_ != nullptr && taking_->under_way();
  drop_outgoing();
  proxy_synced_ = proxy_greeted_ = false;
  const Result<void> watched = reactor_->watch_level(contract_, *this);
  if (!watched) log::error("keeper", "{}", watched.error().text());
}

void Keeper::proxy_exited() noexcept {
  if (contract_) reactor_->unwatch(contract_);
  contract_.reset();
  drop_outgoing();
  proxy_synced_ = false;
  if (leaving_ && !given_) return reactor_->stop();
  if (taking_ != nullptr && taking_->under_way()) {
    proxy_->let_go();
    return taking_->proxy_failed("it ended");
  }
  if (giving_ == nullptr || !giving_->pods_are_fixed()) return;
  proxy_->let_go();  // no other before it is clear whose the connections are
  giving_->proxy_died();
}

void Keeper::on_io(uint32_t) noexcept {
  while (contract_) {
    auto received = contract::receive(contract_);
    if (!received) {
      // What the proxy sends is not trusted: one that breaks the contract is replaced.
      log::error("keeper", "proxy: {}", received.error().text());
      return proxy_->kill(SIGKILL);
    }
    if (received->state == contract::ReceiveState::kWouldBlock) return;
    if (received->state == contract::ReceiveState::kClosed) {
      reactor_->unwatch(contract_);
      contract_.reset();  // its death comes by the pidfd
      return;
    }
    if (!handle(std::move(received->packet))) {
      log::error("keeper", "the proxy breaks the contract");
      return proxy_->kill(SIGKILL);
    }
  }
}

bool Keeper::handle(contract::Packet packet) {
  if (const auto* hello = std::get_if<contract::Hello>(&packet.message)) {
    if (hello->version != contract::kVersion || proxy_greeted_) return false;
    proxy_greeted_ = true;
    greet_proxy();
    return true;
  }
  if (!proxy_greeted_) return false;
  if (const auto* need = std::get_if<contract::NeedSockets>(&packet.message)) {
    give_sockets(*need);
    return true;
  }
  if (std::holds_alternative<contract::Synced>(packet.message)) {
    proxy_synced_ = ever_synced_ = true;
    return true;
  }
  return handle_hand_over(packet.message);
}

// Out of turn it is a breach: nobody has asked.
bool Keeper::handle_hand_over(const contract::Message& message) {
  const bool successor = taking_ != nullptr && proxy_is_successor_;
  if (std::holds_alternative<contract::CanTakeOver>(message)) {
    if (successor) taking_->proxy_ready();
    return successor;
  }
  if (std::holds_alternative<contract::TakenOver>(message)) {
    if (!successor) return false;
    proxy_synced_ = true;
    proxy_is_successor_ = false;
    taking_->proxy_took_over();
    return true;
  }
  const auto* failed = std::get_if<contract::HandOverFailed>(&message);
  if (failed != nullptr && successor) {
    taking_->proxy_failed(failed->reason);
    return true;
  }
  if (giving_ == nullptr || !giving_->pods_are_fixed()) return false;
  if (failed != nullptr) {
    giving_->proxy_failed(failed->reason);
    return true;
  }
  if (!std::holds_alternative<contract::HandedOver>(message)) return false;
  giving_->proxy_handed_over();
  return true;
}

void Keeper::greet_proxy() {
  std::vector<UniqueFd> maps;
  for (const BorrowedFd map :
       {datapath_->destinations(), datapath_->original_destinations(), datapath_->clients()}) {
    auto copy = duplicate(map);
    if (!copy) return log::error("keeper", "{}", copy.error().text());
    maps.push_back(std::move(*copy));
  }
  tell(contract::Welcome{contract::kVersion, proxy_is_successor_}, std::move(maps));
  for (const auto& [uid, pod] : pods_) tell_pod(pod);
  tell(contract::Ready{});
}

void Keeper::tell_pod(const Pod& pod) {
  contract::PodAdded message;
  message.pod = pod.where.cookie;
  message.uid = pod.spec.uid;
  message.ns = pod.spec.ns;
  message.name = pod.spec.name;
  message.service_account = pod.spec.service_account;
  message.addresses = pod.where.addresses;
  message.outbound_port = kOutboundPort;
  message.inbound_port = kInboundPort;
  message.has_v6 = pod.listeners.has_v6();
  std::vector<UniqueFd> fds;
  for (const UniqueFd* listener : {&pod.listeners.outbound4, &pod.listeners.inbound4,
                                   &pod.listeners.outbound6, &pod.listeners.inbound6}) {
    if (!*listener) continue;  // no IPv6
    auto copy = duplicate(*listener);
    if (!copy) {
      // With one missing the others would be taken for it. The next proxy is told of everything.
      log::error("keeper", "pod {}/{}: {}", pod.spec.ns, pod.spec.name, copy.error().text());
      return proxy_->kill(SIGKILL);
    }
    fds.push_back(std::move(*copy));
  }
  tell(std::move(message), std::move(fds));
}

void Keeper::give_sockets(const contract::NeedSockets& need) {
  std::vector<UniqueFd> sockets;
  const auto pod = std::find_if(pods_.begin(), pods_.end(),
                                [&](const auto& item) { return item.second.where.cookie == need.pod; });
  if (pod != pods_.end()) {
    auto made = make_sockets(pod->second.netns, home_, need.family, need.count);
    if (made) {
      sockets = std::move(*made);
    } else {
      log::warn("keeper", "sockets for {}/{}: {}", pod->second.spec.ns, pod->second.spec.name,
                made.error().text());
    }
  }
  tell(contract::Sockets{need.pod, need.family}, std::move(sockets));
}

void Keeper::tell(contract::Message message, std::vector<UniqueFd> fds) {
  if (!contract_ || !proxy_greeted_) return;  // it will be greeted with everything
  if (outgoing_.size() >= kMaxOutgoing || outgoing_fds_ + fds.size() > kMaxOutgoingFds) {
    log::error("keeper", "the proxy does not read");
    drop_outgoing();
    return proxy_->kill(SIGKILL);
  }
  outgoing_fds_ += fds.size();
  outgoing_.push_back({std::move(message), std::move(fds)});
  flush();
}

void Keeper::flush() {
  while (contract_ && !outgoing_.empty()) {
    const std::vector<BorrowedFd> fds(outgoing_.front().fds.begin(), outgoing_.front().fds.end());
    auto sent = contract::send(contract_, outgoing_.front().message, fds);
    if (!sent) {
      log::warn("keeper", "proxy: {}", sent.error().text());
      return proxy_->kill(SIGKILL);
    }
    if (!*sent) {
      reactor_->timers().arm(retry_, reactor_->now() + kRetry);
      return;
    }
    outgoing_fds_ -= outgoing_.front().fds.size();
    outgoing_.pop_front();
  }
}

void Keeper::drop_outgoing() noexcept {
  outgoing_.clear();
  outgoing_fds_ = 0;
}

// ---- the end
// ------------------------------------------------------------------------------------------------------------

void Keeper::on_signal() noexcept {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
  if (proxy_ == nullptr) return end({});
  if (taking_ != nullptr && taking_->under_way()) return taking_->stop("stopped");
  if (given_ || (giving_ != nullptr && giving_->pods_are_fixed())) {
    stop_asked_ = true;  // milliseconds, or go_on()
    return;
  }
  if (giving_ != nullptr) giving_->give_up("this agent is stopping");
  stop();
}

void Keeper::stop() noexcept {
  if (leaving_) return on_drained();  // a second signal: at once
  leaving_ = true;
  proxy_->let_go();
  if (proxy_->pid() < 0) return reactor_->stop();
  log::info("keeper", "stopping: draining for at most {} ms", config_.drain_deadline.count());
  if (!proxy_greeted_) return proxy_->kill(SIGKILL);
  tell(contract::Drain{static_cast<uint32_t>(config_.drain_deadline.count())});
  reactor_->timers().arm(drained_, reactor_->now() + config_.drain_deadline + kDrainGrace);
}

void Keeper::on_drained() noexcept {
  proxy_->kill(SIGKILL);
}

Result<void> clean_up(const KeeperConfig& config) {
  std::optional<UniqueFd> lock;
  if (::access(config.run_directory.c_str(), F_OK) == 0) {
    FL_TRY_ASSIGN(lock, try_agent_lock(config.run_directory));
    if (!lock)
      return Error(ErrorKind::kUnavailable,
                   fmt::format("an agent runs in {}: stop it first", config.run_directory));
  }
  FL_TRY(ebpf::Datapath::remove_all(config.bpf_directory));
  constexpr std::array kFiles = {"/keeper.sock",     "/proxy.sock",        "/handover.sock",
                                 "/keeper.sock.new", "/handover.sock.new", "/pods.json",
                                 "/agent.lock",      "/proxy/proxy.sock",  "/proxy/successor.sock"};
  for (const char* file : kFiles) {
    const std::string path = config.run_directory + file;
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
      return Error::from_errno(fmt::format("unlink {}", path));
  }
  for (const char* directory : {"/proxy", ""}) {
    const std::string path = config.run_directory + directory;
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY)
      return Error::from_errno(fmt::format("rmdir {}", path));
  }
  return {};
}

}  // namespace fairlead::keeper
