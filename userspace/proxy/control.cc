#include "proxy/control.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "base/file.h"
#include "base/log.h"

namespace fairlead::proxy {
namespace {

constexpr size_t kMaxOutgoing = 4096;  // messages kept while the keeper is slow
constexpr std::chrono::milliseconds kRetry{20};
constexpr std::chrono::seconds kReportDeadline{2};

// A connection has at most two sockets of its own. Running out of file descriptors would hit everybody: the
// keeper's messages lose theirs.
size_t connections_per_worker(unsigned workers) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kMaxConnections;
  const size_t reserved = std::min<size_t>(kReservedFds, limit.rlim_cur / 2);
  return std::clamp<size_t>((limit.rlim_cur - reserved) / 2 / workers, 16, kMaxConnections);
}

}  // namespace

Control::Control(ProxyConfig config, UniqueFd contract)
    : config_(std::move(config)),
      contract_(std::move(contract)),
      started_(Clock::now()),
      instance_(
          fmt::format("{:x}-{:x}", ::getpid(), std::chrono::system_clock::now().time_since_epoch().count())),
      deadline_(*this),
      retry_(*this) {}

Control::~Control() {
  if (xds_ != nullptr) xds_->stop();
  if (certificates_ != nullptr) certificates_->stop();
  for (auto& worker : workers_) worker->stop();
  workers_.clear();
  queries_.reset();
}

Result<void> Control::start() {
  FL_TRY_ASSIGN(reactor_, Reactor::create());
  FL_TRY_ASSIGN(queries_,
                net::QueryServer::listen(*reactor_, config_.listen_socket, 0600,
                                         [this](std::string_view verb, std::string_view argument,
                                                const net::QueryPeer&) { return answer(verb, argument); }));
  probe_kernel();
  return reactor_->watch_level(contract_, *this);
}

// Takes a listener on loopback: nothing that may be done once the process is locked in.
void Control::probe_kernel() {
  kernel_support_ = tls::probe_kernel_tls();
  kernel_use_.after = config_.kernel_tls.after;
  kernel_use_.rekeys = kernel_support_.rekey;
  kernel_use_.on = config_.kernel_tls.enabled && kernel_support_.usable();
  if (!kernel_support_.usable()) log::info("proxy", "kernel TLS is not used: {}", kernel_support_.detail);
}

int Control::run(const Confinement& locked) {
  locked_ = locked;
  send_to_keeper(contract::Hello{});
  reactor_->run();
  return exit_code_;
}

void Control::leave(int code) {
  if (successor_) vanish();
  if (leaving_) return;
  leaving_ = true;
  exit_code_ = code;
  reactor_->stop();
}

// ---- the keeper
// ---------------------------------------------------------------------------------------------------------

void Control::on_io(uint32_t) noexcept {
  while (!leaving_) {
    auto received = contract::receive(contract_);
    if (!received) {
      log::error("proxy", "keeper: {}", received.error().text());
      return leave(1);
    }
    if (received->state == contract::ReceiveState::kWouldBlock) return;
    if (received->state == contract::ReceiveState::kClosed) {
      log::warn("proxy", "the keeper is gone, leaving");
      return leave(1);
    }
    if (!handle(std::move(received->packet))) return leave(1);
  }
}

bool Control::handle(contract::Packet packet) {
  auto& message = packet.message;
  if (auto* hello = std::get_if<contract::Welcome>(&message)) {
    Result<void> result =
        hello->version == contract::kVersion
            ? welcome(*hello, std::move(packet.fds))
            : Error(ErrorKind::kProtocol, fmt::format("keeper speaks version {}", hello->version));
    if (!result) log::error("proxy", "welcome: {}", result.error().text());
    return result.has_value();
  }
  if (workers_.empty()) {
    log::error("proxy", "the keeper did not say welcome first");
    return false;
  }
  if (auto* added = std::get_if<contract::PodAdded>(&message)) {
    add_pod(std::move(*added), std::move(packet.fds));
  } else if (auto* removed = std::get_if<contract::PodRemoved>(&message)) {
    remove_pod(removed->pod);
  } else if (auto* sockets = std::get_if<contract::Sockets>(&message)) {
    give_sockets(*sockets, std::move(packet.fds));
  } else if (auto* order = std::get_if<contract::Drain>(&message)) {
    drain(order->deadline_ms);
  } else if (std::holds_alternative<contract::Ready>(message)) {
    all_pods_known_ = true;
    tell_when_ready();
  } else if (std::holds_alternative<contract::HandOver>(message) && packet.fds.size() == 1) {
    hand_over(std::move(packet.fds[0]));
  } else if (std::holds_alternative<contract::TakeOver>(message) && packet.fds.size() <= 1) {
    take_over(std::move(packet.fds));
  } else {
    log::error("proxy", "unexpected message of the keeper");
    return false;
  }
  return true;
}

Result<void> Control::welcome(const contract::Welcome& welcome, std::vector<UniqueFd> maps) {
  if (maps.size() != 3 || !workers_.empty()) return Error(ErrorKind::kProtocol, "want three maps, once");
  destinations_ = std::make_unique<ebpf::Destinations>(std::move(maps[0]));
  originals_ = std::make_unique<ebpf::OriginalDestinations>(std::move(maps[1]));
  clients_ = std::make_unique<ebpf::ClientNames>(std::move(maps[2]));
  successor_ = welcome.successor;
  if (!successor_) FL_TRY(clients_->forget_all());
  FL_TRY(start_workers());
  xds_ = std::make_unique<state::XdsClient>(config_.controller, [this](state::SnapshotPtr snapshot) {
    reactor_->send([this, snapshot = std::move(snapshot)] { apply_snapshot(snapshot); });
  });
  certificates_ = std::make_unique<state::CertificateClient>(
      config_.controller, config_.certificate_ttl,
      [this](std::shared_ptr<const tls::Credentials> credentials) {
        reactor_->send([this, credentials = std::move(credentials)] { have_credentials(credentials); });
      });
  certificates_->start();
  xds_->start();
  return {};
}

void Control::have_credentials(const std::shared_ptr<const tls::Credentials>& credentials) {
  if (!identities_.contains(credentials->id())) return;  // forgotten while it was on its way
  for (auto& worker : workers_) worker->set_credentials(credentials);
  held_.insert(credentials->id());
  tell_when_ready();
}

Result<void> Control::start_workers() {
  Worker::Shared shared;
  shared.originals = originals_.get();
  shared.clients = clients_.get();
  shared.need_sockets = [this](Worker& worker, contract::PodId pod, int family) {
    reactor_->send([this, &worker, pod, family] { need_sockets(worker, pod, family); });
  };
  shared.kernel = &kernel_use_;
  shared.successor = successor_;
  shared.max_connections = connections_per_worker(config_.workers);
  for (unsigned i = 0; i < config_.workers; ++i) {
    FL_TRY_ASSIGN(auto worker, Worker::create(shared));
    worker->start();
    workers_.push_back(std::move(worker));
  }
  return {};
}

void Control::add_pod(contract::PodAdded pod, std::vector<UniqueFd> listeners) {
  if (listeners.size() != (pod.has_v6 ? 4u : 2u)) {
    log::error("proxy", "pod {}/{} came with {} listeners, ignoring it", pod.ns, pod.name, listeners.size());
    return;
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    std::vector<UniqueFd> copies;
    for (const UniqueFd& listener : listeners) {
      auto copy = duplicate(listener);
      if (copy) copies.push_back(std::move(*copy));
    }
    if (copies.size() != listeners.size()) {
      log::error("proxy", "pod {}/{}: out of file descriptors", pod.ns, pod.name);
      continue;
    }
    workers_[i]->add_pod(pod, std::move(copies));
  }
  pods_[pod.pod] = std::move(pod);
  refresh_identities();
}

void Control::remove_pod(contract::PodId pod) {
  pods_.erase(pod);
  std::erase_if(askers_, [pod](const auto& entry) { return entry.first.first == pod; });
  for (auto& worker : workers_) worker->remove_pod(pod);
  refresh_identities();
}

void Control::need_sockets(Worker& worker, contract::PodId pod, int family) {
  if (!pods_.contains(pod)) return;
  askers_[{pod, family}].push_back(&worker);
  send_to_keeper(contract::NeedSockets{pod, static_cast<uint8_t>(family), contract::kSocketBatch});
}

void Control::give_sockets(const contract::Sockets& sockets, std::vector<UniqueFd> fds) {
  const auto found = askers_.find({sockets.pod, sockets.family});
  if (found == askers_.end() || found->second.empty()) return;  // the pod went meanwhile
  Worker* worker = found->second.front();
  found->second.pop_front();
  worker->give_sockets(sockets.pod, sockets.family, std::move(fds));
}

void Control::send_to_keeper(contract::Message message) {
  if (outgoing_.size() >= kMaxOutgoing) {
    log::error("proxy", "the keeper does not read: {} messages wait", outgoing_.size());
    return leave(1);
  }
  outgoing_.push_back(std::move(message));
  flush_to_keeper();
}

void Control::flush_to_keeper() {
  while (!outgoing_.empty()) {
    auto sent = contract::send(contract_, outgoing_.front());
    if (!sent) {
      log::error("proxy", "keeper: {}", sent.error().text());
      return leave(1);
    }
    if (!*sent) {
      reactor_->timers().arm(retry_, reactor_->now() + kRetry);
      return;
    }
    outgoing_.pop_front();
  }
}

void Control::drain(uint32_t deadline_ms) {
  if (draining_workers_ != 0 || given_) return;
  if (giver_ != nullptr) giver_->give_up("the agent is stopping");
  log::info("proxy", "draining for at most {} ms", deadline_ms);
  draining_workers_ = workers_.size();
  reactor_->timers().arm(deadline_, reactor_->now() + std::chrono::milliseconds(deadline_ms));
  for (auto& worker : workers_) {
    worker->drain([this] {
      reactor_->send([this] {
        if (--draining_workers_ == 0) leave(0);
      });
    });
  }
}

// ---- mesh state
// ---------------------------------------------------------------------------------------------------------

// Workers first, the capture map after the last of them: what is captured can be resolved.
void Control::apply_snapshot(state::SnapshotPtr snapshot) {
  if (giver_ != nullptr || taker_ != nullptr || given_) {
    waiting_ = std::move(snapshot);  // it could end connections that are being moved
    return;
  }
  snapshot_ = snapshot;
  auto missing = std::make_shared<size_t>(workers_.size());
  for (auto& worker : workers_) {
    worker->set_snapshot(snapshot, [this, snapshot, missing] {
      reactor_->send([this, snapshot, missing] {
        if (--*missing == 0) snapshot_taken(snapshot);
      });
    });
  }
  refresh_identities();
}

void Control::snapshot_taken(const state::SnapshotPtr& snapshot) {
  if (snapshot != snapshot_) return;  // a newer one is on its way
  in_force_ = true;
  if (successor_) return tell_when_ready();  // fl_dests is the old proxy's
  const Result<void> written = destinations_->replace(snapshot->destinations());
  if (!written) log::error("proxy", "capture map: {}", written.error().text());
  if (written && !destinations_written_) {
    destinations_written_ = true;
    log::info("proxy", "synced: {} workloads, {} services, {} policies", snapshot->workloads().size(),
              snapshot->services().size(), snapshot->policies().size());
    send_to_keeper(contract::Synced{});
  }
}

// A certificate for every identity of the pods here, as the mesh knows them.
void Control::refresh_identities() {
  if (snapshot_ == nullptr) return;
  std::set<SpiffeId> wanted;
  for (const auto& [id, pod] : pods_) {
    for (const IpAddress& address : pod.addresses) {
      const auto workload = snapshot_->workload(address);
      if (workload == nullptr || workload->ns != pod.ns) continue;
      if (workload->identity.service_account == pod.service_account) wanted.insert(workload->identity);
    }
  }
  for (const SpiffeId& id : identities_) {
    if (wanted.contains(id)) continue;
    certificates_->forget(id);
    held_.erase(id);
    for (auto& worker : workers_) worker->drop_credentials(id);
  }
  identities_ = std::move(wanted);
  std::map<SpiffeId, std::string> unheld;
  for (const SpiffeId& id : identities_) {
    const Result<void> held = certificates_->want(id);  // idempotent
    if (held) continue;
    if (!unheld_.contains(id)) log::error("proxy", "{}", held.error().text());
    unheld.emplace(id, held.error().text());
  }
  unheld_ = std::move(unheld);
  tell_when_ready();
}

// ---- queries
// ------------------------------------------------------------------------------------------------------------

std::vector<WorkerReport> Control::gather_reports(const std::function<ReportWish(size_t)>& wish_of) {
  std::vector<std::future<WorkerReport>> pending;
  for (size_t i = 0; i < workers_.size(); ++i) {
    auto promise = std::make_shared<std::promise<WorkerReport>>();
    pending.push_back(promise->get_future());
    workers_[i]->report(wish_of(i), [promise, i](WorkerReport report) {
      report.worker = i;
      promise->set_value(std::move(report));
    });
  }
  std::vector<WorkerReport> reports;
  for (auto& future : pending) {
    // A worker turn is milliseconds; one that hangs is left out rather than waited for.
    if (future.wait_for(kReportDeadline) == std::future_status::ready) reports.push_back(future.get());
  }
  return reports;
}

// A page; without an argument the rows of the first one alone.
std::string Control::connections(std::string_view argument) {
  const Answerer self{instance_, workers_.size()};
  const auto question = page_question(argument, self);
  if (!question) return error_json(question.error().text());
  if (question->of_another) return error_json("the proxy was restarted meanwhile: ask again");
  const auto reports = gather_reports([&](size_t worker) {
    return ReportWish{question->cursor.empty() ? UINT64_MAX : question->cursor[worker], {}};
  });
  return argument.empty() ? connections_json(reports) : connections_page_json(self, reports);
}

// What came since the cursor; without an argument all rows alone.
std::string Control::decisions(std::string_view argument) {
  const Answerer self{instance_, workers_.size()};
  const auto question = page_question(argument, self);
  if (!question) return error_json(question.error().text());
  const auto reports = gather_reports(
      [&](size_t worker) { return ReportWish{0, question->cursor.empty() ? 0 : question->cursor[worker]}; });
  return argument.empty() ? decisions_json(reports) : decisions_page_json(self, *question, reports);
}

// Settings that may change while it runs: "ktls=on", "ktls=off". What has moved to the kernel stays there.
std::string Control::set(std::string_view argument) {
  if (argument != "ktls=on" && argument != "ktls=off")
    return error_json(fmt::format("no setting '{}': there is ktls=on and ktls=off", argument));
  const bool on = argument == "ktls=on";
  if (on && !kernel_support_.usable()) return error_json(kernel_support_.detail);
  kernel_use_.on = on;
  log::info("proxy", "kernel TLS is turned {}", on ? "on" : "off");
  return config_json(config_, kernel_use_.on);
}

std::vector<state::CertificateClient::Status> Control::certificate_states() const {
  if (certificates_ == nullptr) return {};
  auto states = certificates_->status();
  for (const auto& [id, why] : unheld_) {
    states.emplace_back().id = id;
    states.back().last_error = why;
  }
  return states;
}

std::string Control::answer(std::string_view verb, std::string_view argument) {
  static const state::Snapshot kEmpty;
  const state::Snapshot& snapshot = snapshot_ != nullptr ? *snapshot_ : kEmpty;
  if (verb == "workloads") return workloads_json(snapshot);
  if (verb == "services") return services_json(snapshot);
  if (verb == "policies") return policies_json(snapshot, config_.node);
  if (verb == "authz") {
    if (snapshot_ == nullptr) return error_json("the agent does not know the mesh yet");
    const auto question = authz_question(argument);
    if (!question) return error_json(question.error().text());
    const auto answers = check_authz(snapshot, *question);
    return answers ? authz_json(*answers) : error_json(answers.error().text());
  }
  if (verb == "connections") return connections(argument);
  if (verb == "decisions") return decisions(argument);
  if (verb == "config") return config_json(config_, kernel_use_.on);
  if (verb == "set") return set(argument);
  if (verb == "certs") return certificates_json(certificate_states());
  if (verb != "status") return error_json(fmt::format("unknown question '{}'", verb));
  ProxyStatus status;
  status.node = config_.node;
  status.uptime = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - started_);
  status.workers = workers_.size();
  status.ready = destinations_written_;
  status.locked = locked_;
  status.kernel_tls = kernel_support_;
  status.kernel_tls_on = kernel_use_.on;
  status.controller_address = config_.controller.address;
  if (xds_ != nullptr) status.controller = xds_->status();
  return status_json(status, snapshot, gather_reports([](size_t) { return ReportWish{}; }));
}

}  // namespace fairlead::proxy
