#include "proxy/worker.h"

#include "base/log.h"
#include "proxy/acceptor.h"
#include "proxy/inbound.h"
#include "proxy/judge.h"
#include "proxy/tunnel_pool.h"

namespace fairlead::proxy {
namespace {

policy::ConnectionFacts facts_of(const ConnectionRecord& record) {
  return {record.peer.get(), record.source.ip, record.endpoint.ip, record.endpoint.port};
}

// Starts a connection at the end of the turn; owns it until then.
struct LateStart final : Deferred, TurnEndHook {
  explicit LateStart(std::unique_ptr<Connection> late) noexcept : connection(std::move(late)) {}
  void on_turn_end() noexcept override {
    if (connection != nullptr) connection.release()->start();  // from here on its own: finish() destroys it
  }
  std::unique_ptr<Connection> connection;
};

}  // namespace

Result<std::unique_ptr<Worker>> Worker::create(Shared shared) {
  FL_TRY_ASSIGN(auto reactor, Reactor::create());
  return std::unique_ptr<Worker>(new Worker(std::move(shared), std::move(reactor)));
}

Worker::Worker(Shared shared, std::unique_ptr<Reactor> reactor)
    : shared_(std::move(shared)),
      reactor_(std::move(reactor)),
      random_(std::random_device{}()),
      inbound_tunnels_(std::make_unique<InboundTunnels>(*this)),
      life_(shared_.successor ? Life::kWaking : Life::kServing),
      handshakes_waited_(*this) {}

Worker::~Worker() {
  stop();
  if (moved_in_) forget_all();  // a successor that came to nothing
  acceptors_.clear();
  while (connections_ != nullptr) connections_->abort();  // takes itself out of the list
  for (auto& [id, pod] : pods_) pod->tunnels().close_all();
  inbound_tunnels_.reset();
  pods_.clear();
  reactor_->run_turn(0);  // deferred destruction while everything they refer to is alive
}

void Worker::start() {
  thread_ = std::thread([this] { reactor_->run(); });
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  reactor_->stop();
  thread_.join();
}

// ---- messages
// -----------------------------------------------------------------------------------------------------------

void Worker::add_pod(contract::PodAdded info, std::vector<UniqueFd> listeners) {
  // std::function wants copyable captures: the fds travel in a shared_ptr.
  auto fds = std::make_shared<std::vector<UniqueFd>>(std::move(listeners));
  tell([this, info = std::move(info), fds] {
    const contract::PodId id = info.pod;
    drop_acceptors(id);
    auto& pod = pods_[id];
    if (pod != nullptr) {
      pod->renew(info);
    } else {
      pod = std::make_shared<Pod>(*this, info);
    }
    if (snapshot_ != nullptr) pod->refresh(*snapshot_);
    for (size_t i = 0; i < fds->size(); ++i) {
      const bool inbound = i % 2 == 1;  // outbound, inbound; per family (contract/keeper_proxy.h)
      acceptors_[id].push_back(std::make_unique<Acceptor>(*this, pod, std::move((*fds)[i]), inbound));
    }
    if (may_accept()) set_accepting(true);
  });
}

void Worker::remove_pod(contract::PodId id) {
  tell([this, id] {
    drop_acceptors(id);
    auto node = pods_.extract(id);
    if (node.empty()) return;
    Pod& pod = *node.mapped();
    pod.gone = true;
    pod.notify();
    abort_where([&pod](const Connection& connection) { return &connection.pod() == &pod; });
    pod.tunnels().close_all();
    inbound_tunnels_->close_of(id);
  });
}

void Worker::give_sockets(contract::PodId id, int family, std::vector<UniqueFd> sockets) {
  auto fds = std::make_shared<std::vector<UniqueFd>>(std::move(sockets));
  tell([this, id, family, fds] {
    const auto found = pods_.find(id);
    if (found != pods_.end()) found->second->give_sockets(family, std::move(*fds));
  });
}

void Worker::set_snapshot(state::SnapshotPtr snapshot, std::function<void()> taken) {
  tell([this, snapshot = std::move(snapshot), taken = std::move(taken)] {
    const bool first = snapshot_ == nullptr;
    snapshot_ = snapshot;
    refresh_pods();
    if (first && may_accept()) set_accepting(true);
    taken();
  });
}

void Worker::set_credentials(std::shared_ptr<const tls::Credentials> credentials) {
  tell([this, credentials = std::move(credentials)] {
    credentials_[credentials->id()] = credentials;
    for (auto& [id, pod] : pods_) pod->notify();
  });
}

void Worker::drop_credentials(SpiffeId id) {
  tell([this, id = std::move(id)] { credentials_.erase(id); });
}

void Worker::drain(std::function<void()> idle) {
  tell([this, idle = std::move(idle)] {
    draining_ = true;
    idle_ = idle;
    set_accepting(false);
    inbound_tunnels_->drain();
    for (auto& [id, pod] : pods_) pod->tunnels().drain();
    check_idle();
  });
}

void Worker::report(ReportWish wish, std::function<void(WorkerReport)> done) {
  reactor_->send([this, wish, done = std::move(done)] { done(make_report(wish)); });
}

// ---- the worker's own
// ---------------------------------------------------------------------------------------------------

// Events of their listeners may be in this turn's batch.
void Worker::drop_acceptors(contract::PodId pod) {
  auto node = acceptors_.extract(pod);
  if (node.empty()) return;
  for (auto& acceptor : node.mapped()) {
    acceptor->close();
    reactor_->defer_destroy(std::move(acceptor));
  }
}

void Worker::set_accepting(bool accepting) {
  for (auto& [id, acceptors] : acceptors_) {
    for (auto& acceptor : acceptors) accepting ? acceptor->open() : acceptor->close();
  }
}

std::shared_ptr<const tls::Credentials> Worker::credentials(const SpiffeId& id) const {
  const auto found = credentials_.find(id);
  return found == credentials_.end() ? nullptr : found->second;
}

// A snapshot shares what did not change with the one before: another workload means other policies, perhaps.
void Worker::refresh_pods() {
  std::unordered_set<const Pod*> changed;
  for (auto& [id, pod] : pods_) {
    const auto before = pod->workload();
    pod->refresh(*snapshot_);
    if (before != nullptr && pod->workload() != nullptr && pod->workload() != before)
      changed.insert(pod.get());
  }
  if (!changed.empty()) judge_again(changed);
}

void Worker::judge_again(const std::unordered_set<const Pod*>& pods) {
  abort_where([&](Connection& connection) {
    const Pod& pod = connection.pod();
    const ConnectionRecord& record = connection.record_;
    if (!record.judged || !pods.contains(&pod)) return false;
    if (judge(pod.workload().get(), facts_of(record)).allowed) return false;
    ++counters_.cut_by_policy;
    (void)admit(pod, connection.record_);  // for the reason, which `fairlead why` shows
    return true;
  });
}

template <class Test>
void Worker::abort_where(Test test) {
  for (Connection *connection = connections_, *next = nullptr; connection != nullptr; connection = next) {
    next = connection->next_;
    if (test(*connection)) connection->abort();
  }
}

DecisionRecord Worker::decision_on(const Pod& pod, const ConnectionRecord& connection) {
  DecisionRecord record;
  record.inbound = connection.inbound;
  record.pod = pod.full_name();
  record.source = connection.source;
  record.endpoint = connection.endpoint;
  if (connection.service != nullptr) record.service = connection.service->full_name();
  return record;
}

bool Worker::admit(const Pod& pod, ConnectionRecord& connection) {
  const state::Workload* workload = pod.workload().get();
  const policy::ConnectionFacts facts = facts_of(connection);
  const policy::Decision decision = judge(workload, facts);
  DecisionRecord record = decision_on(pod, connection);
  if (connection.peer != nullptr) record.principal = connection.peer->principal();
  record.destination = connection.endpoint;
  record.allowed = decision.allowed;
  record.policy = decision.policy();
  record.rule = decision.rule;
  record.reason = decision.reason;
  record.remarks = remarks(workload, facts);
  const auto& dry_run = record.remarks.dry_run;
  if (!record.remarks.audits.empty()) ++counters_.audit_matched;
  if (dry_run && dry_run->allowed != decision.allowed) ++counters_.dry_run_differs;
  decisions_.record(std::move(record));
  if (!decision.allowed) ++counters_.inbound_denied;
  connection.judged = decision.allowed;
  return decision.allowed;
}

void Worker::refused(const Pod& pod, const ConnectionRecord& connection, std::string_view reason,
                     std::string detail) {
  DecisionRecord record = decision_on(pod, connection);
  if (pod.workload() != nullptr) record.principal = pod.workload()->identity.principal();
  record.destination = connection.destination;
  record.reason = reason;
  record.detail = std::move(detail);
  record.detail.resize(std::min(record.detail.size(), kMaxRefusalDetail));
  if (!decisions_.record_refusal(std::move(record), reactor_->now())) ++counters_.refusals_unrecorded;
}

void Worker::start_connection(std::unique_ptr<Connection> connection) {
  connection.release()->start();
}

void Worker::start_at_turn_end(std::unique_ptr<Connection> connection) {
  auto late = std::make_unique<LateStart>(std::move(connection));
  reactor_->at_turn_end(*late);
  reactor_->defer_destroy(std::move(late));  // after the hooks of this turn
}

void Worker::link(Connection& connection) noexcept {
  connection.record_.id = new_id();
  connection.next_ = connections_;
  if (connections_ != nullptr) connections_->previous_ = &connection;
  connections_ = &connection;
  ++connection_count_;
  if (connection.record_.inbound) ++inbound_count_;
}

void Worker::unlink(Connection& connection) noexcept {
  (connection.previous_ != nullptr ? connection.previous_->next_ : connections_) = connection.next_;
  if (connection.next_ != nullptr) connection.next_->previous_ = connection.previous_;
  if (bookmark_ == &connection) bookmark_ = connection.next_;
  --connection_count_;
  if (connection.record_.inbound) --inbound_count_;
  check_idle();
}

void Worker::check_idle() noexcept {
  if (draining_ && idle_ && connection_count_ == 0 && tunnels_ == 0) std::exchange(idle_, nullptr)();
}

WorkerReport Worker::make_report(const ReportWish& wish) {
  WorkerReport report;
  report.counters = counters_;
  report.tunnels = tunnels_;
  report.inbound = inbound_count_;
  report.outbound = connection_count_ - inbound_count_;
  if (wish.decisions_from) {
    report.decisions = decisions_.from(*wish.decisions_from);
    report.decisions_end = decisions_.end();
    report.decisions_missed = decisions_.oldest() - std::min(*wish.decisions_from, decisions_.oldest());
  }
  if (wish.connections_below != 0) report_connections(wish.connections_below, report);
  return report;
}

void Worker::report_connections(uint64_t below, WorkerReport& report) {
  const auto id_of = [](const Connection* connection) { return connection->record_.id; };
  Connection* connection = bookmark_;
  const bool begins_here = connection != nullptr && id_of(connection) < below &&
                           (connection->previous_ == nullptr || id_of(connection->previous_) >= below);
  if (!begins_here) connection = connections_;
  while (connection != nullptr && id_of(connection) >= below) connection = connection->next_;
  if (connection != nullptr) report.connections.reserve(std::min(connection_count_, kMaxReportedConnections));
  for (; connection != nullptr && report.connections.size() < kMaxReportedConnections;
       connection = connection->next_)
    report.connections.emplace_back(connection->pod().full_name(), connection->record());
  bookmark_ = connection;
  if (connection != nullptr) report.connections_left_below = report.connections.back().second.id;
}

}  // namespace fairlead::proxy
