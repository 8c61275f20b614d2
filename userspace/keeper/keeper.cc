#include "keeper/keeper.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/file.h"
#include "base/log.h"
#include "net/netns.h"
#include "net/socket.h"

namespace fairlead::keeper {
namespace {

constexpr size_t kMaxOutgoing = 8192;
constexpr size_t kMaxOutgoingFds =
    8192;  // waiting for a proxy that does not read: kMaxPods with listeners, twice
constexpr std::chrono::milliseconds kRetry{20};
constexpr std::chrono::seconds kDrainGrace{1};

Result<UniqueFd> duplicate(BorrowedFd fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return Error::from_errno("dup");
  return copy;
}

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

// A pod's cgroup is below the root of its hierarchy: never attach at the root (architecture §3).
Result<UniqueFd> open_pod_cgroup(const std::string& path) {
  FL_TRY_ASSIGN(UniqueFd fd, open_file(path, O_RDONLY | O_DIRECTORY));
  struct statfs filesystem{};
  if (::fstatfs(fd.get(), &filesystem) != 0) return Error::from_errno(fmt::format("statfs {}", path));
  constexpr long kCgroup2Magic = 0x63677270;
  if (filesystem.f_type != kCgroup2Magic)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is no cgroup v2", path));
  struct stat here{};
  struct stat parent{};
  if (::fstat(fd.get(), &here) != 0 || ::stat((path + "/..").c_str(), &parent) != 0)
    return Error::from_errno("stat cgroup");
  if (here.st_dev != parent.st_dev)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is the root cgroup", path));
  return fd;
}

}  // namespace

Keeper::Keeper(KeeperConfig config)
    : config_(std::move(config)),
      signal_watch_(*this),
      started_(Clock::now()),
      retry_(*this),
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
  FL_TRY(proxy_->start());
  log::info("keeper", "node {}: {} pods, run directory {}", config_.node, pods_.size(),
            config_.run_directory);
  reactor_->run();
  return {};
}

Result<void> Keeper::prepare_directories() {
  FL_TRY(make_directories(config_.run_directory));
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
  net::load_kernel_tls();
  FL_TRY(prepare_directories());
  FL_TRY_ASSIGN(datapath_, ebpf::Datapath::open(config_.bpf_directory));
  FL_TRY_ASSIGN(node_addresses_, NodeAddresses::watch(*reactor_, [this](std::vector<IpAddress> addresses) {
                  const Result<void> set = datapath_->set_node_addresses(addresses);
                  if (!set) log::error("keeper", "node addresses: {}", set.error().text());
                }));
  proxy_ = std::make_unique<ProxyChild>(
      *reactor_, ProxyCommand{config_.config_path, config_.proxy_uid, config_.proxy_locked_memory},
      [this](UniqueFd contract) { proxy_started(std::move(contract)); }, [this](int) { proxy_exited(); });
  recall_pods();
  FL_TRY_ASSIGN(queries_, net::QueryServer::listen(
                              *reactor_, config_.run_directory + "/keeper.sock", 0600,
                              [this](std::string_view verb, std::string_view argument,
                                     const net::QueryPeer& peer) { return answer(verb, argument, peer); }));
  return {};
}

void Keeper::recall_pods() {
  auto remembered = enroll::load_pods(config_.run_directory + "/pods.json");
  if (!remembered) {
    // Pins stay where they are: those pods fail closed until they are enrolled again.
    log::error("keeper", "{}", remembered.error().text());
    return;
  }
  for (enroll::PodSpec& spec : *remembered) {
    const std::string uid = spec.uid;
    const std::string name = spec.ns + "/" + spec.name;
    const auto added = add_pod(std::move(spec));
    if (!added) log::warn("keeper", "pod {} is not taken up again: {}", name, added.error().text());
  }
  const auto pinned = datapath_->pods();
  if (!pinned) return log::error("keeper", "{}", pinned.error().text());
  for (const std::string& uid : *pinned) {
    if (pods_.contains(uid)) continue;
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
  Pod& kept = pods_[pod.spec.uid] = std::move(pod);
  if (!same) log::info("keeper", "pod {}/{} enrolled", kept.spec.ns, kept.spec.name);
  tell_pod(kept);
  return kept.where.cookie;
}

Result<void> Keeper::remove_pod(const std::string& uid) {
  auto node = pods_.extract(uid);
  if (node.empty()) return Error(ErrorKind::kNotFound, fmt::format("no pod with uid {}", uid));
  const Pod& pod = node.mapped();
  tell(contract::PodRemoved{pod.where.cookie});
  log::info("keeper", "pod {}/{} removed", pod.spec.ns, pod.spec.name);
  return datapath_->detach_pod(uid, pod.where.cookie);
}

Result<void> Keeper::save() const {
  std::vector<enroll::PodSpec> specs;
  for (const auto& [uid, pod] : pods_) specs.push_back(pod.spec);
  return enroll::save_pods(config_.run_directory + "/pods.json", specs);
}

// ---- the proxy
// ----------------------------------------------------------------------------------------------------------

void Keeper::proxy_started(UniqueFd contract) {
  contract_ = std::move(contract);
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
  if (leaving_) reactor_->stop();
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
  return false;
}

void Keeper::greet_proxy() {
  std::vector<UniqueFd> maps;
  for (const BorrowedFd map :
       {datapath_->destinations(), datapath_->original_destinations(), datapath_->clients()}) {
    auto copy = duplicate(map);
    if (!copy) return log::error("keeper", "{}", copy.error().text());
    maps.push_back(std::move(*copy));
  }
  tell(contract::Welcome{}, std::move(maps));
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
  if (!contract_) return;  // the next proxy is greeted with everything
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
  if (leaving_) return on_drained();  // a second signal: at once
  leaving_ = true;
  proxy_->let_go();
  if (proxy_->pid() < 0) return reactor_->stop();
  log::info("keeper", "stopping: draining for at most {} ms", config_.drain_deadline.count());
  tell(contract::Drain{static_cast<uint32_t>(config_.drain_deadline.count())});
  reactor_->timers().arm(drained_, reactor_->now() + config_.drain_deadline + kDrainGrace);
}

void Keeper::on_drained() noexcept {
  proxy_->kill(SIGKILL);
}

Result<void> clean_up(const KeeperConfig& config) {
  FL_TRY(ebpf::Datapath::remove_all(config.bpf_directory));
  constexpr std::array<const char*, 4> kFiles = {"/keeper.sock", "/proxy.sock", "/proxy/proxy.sock",
                                                 "/pods.json"};
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
