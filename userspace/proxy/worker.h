// One thread of the proxy: a reactor with its pods, tunnels and connections. A connection never changes its
// worker and workers share nothing but immutable snapshots and credentials; everything else arrives by
// mailbox. Thread: the methods below "from any thread" post to the worker; all others belong to the worker's
// own thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "contract/keeper_proxy.h"
#include "ebpf/flow_maps.h"
#include "event/reactor.h"
#include "proxy/connection.h"
#include "proxy/counters.h"
#include "proxy/decisions.h"
#include "proxy/kernel_use.h"
#include "proxy/pod.h"
#include "proxy/source_limits.h"
#include "state/snapshot.h"
#include "tls/credentials.h"

namespace fairlead::proxy {

class Acceptor;
class InboundTunnels;

// What a report is to tell besides counts. A worker stands still while it writes one: at most
// kMaxReportedConnections.
struct ReportWish {
  uint64_t connections_below = 0;          // those with smaller ids, the youngest first; 0: none
  std::optional<uint64_t> decisions_from;  // their numbers
};

struct WorkerReport {
  size_t worker = 0;
  Counters counters;
  std::vector<std::pair<std::string, ConnectionRecord>> connections;  // "ns/pod"
  uint64_t connections_left_below = 0;                                // what to ask for next; 0: that was all
  std::vector<DecisionRecord> decisions;                              // the oldest first
  uint64_t decisions_end = 0;                                         // the next one's number
  uint64_t decisions_missed = 0;  // were asked for and are no longer known
  size_t inbound = 0;
  size_t outbound = 0;
  size_t tunnels = 0;
};

class Worker {
 public:
  struct Shared {
    ebpf::OriginalDestinations* originals = nullptr;  // thread-safe: one bpf(2) call each
    ebpf::ClientNames* clients = nullptr;
    // Asks the control thread for sockets; may be called from this worker's thread.
    std::function<void(Worker&, contract::PodId, int family)> need_sockets;
    size_t max_connections = kMaxConnections;
    const KernelUse* kernel = nullptr;  // null: records stay in user space
  };

  static Result<std::unique_ptr<Worker>> create(Shared shared);
  ~Worker();

  // --- from any thread
  // -----------------------------------------------------------------------------------------
  void start();
  void stop();  // joins
  void add_pod(contract::PodAdded info, std::vector<UniqueFd> listeners);
  void remove_pod(contract::PodId pod);
  void give_sockets(contract::PodId pod, int family, std::vector<UniqueFd> sockets);
  // `taken` runs on this worker once new connections see the snapshot.
  void set_snapshot(state::SnapshotPtr snapshot, std::function<void()> taken);
  void set_credentials(std::shared_ptr<const tls::Credentials> credentials);
  void drop_credentials(SpiffeId id);      // its key is wiped when the last handshake with it is over
  void drain(std::function<void()> idle);  // stop accepting; `idle` runs on this worker when nothing is left
  void report(ReportWish wish, std::function<void(WorkerReport)> done);

  // --- the worker's own thread
  // -----------------------------------------------------------------------------------
  Reactor& reactor() noexcept { return *reactor_; }
  Counters& counters() noexcept { return counters_; }
  Decisions& decisions() noexcept { return decisions_; }
  const Shared& shared() const noexcept { return shared_; }
  [[nodiscard]] const state::SnapshotPtr& snapshot() const noexcept { return snapshot_; }
  [[nodiscard]] std::shared_ptr<const tls::Credentials> credentials(const SpiffeId& id) const;
  [[nodiscard]] size_t pick(size_t count) {
    return std::uniform_int_distribution<size_t>(0, count - 1)(random_);
  }
  [[nodiscard]] uint64_t new_id() noexcept { return next_id_++; }  // of a connection or a tunnel
  [[nodiscard]] bool full() const noexcept { return connection_count_ >= shared_.max_connections; }
  // Judges by the pod's policies whether the connection's peer may reach its endpoint, and remembers the
  // verdict. Who was let in is judged again whenever the policies of the pod change, and cut off if need be.
  bool admit(const Pod& pod, ConnectionRecord& record);
  // Remembers that a connection could not be made; `reason` is a literal, `detail` what met it.
  void refused(const Pod& pod, const ConnectionRecord& record, std::string_view reason, std::string detail);
  // Owned by the worker's table from here on, until it finishes.
  void start_connection(std::unique_ptr<Connection> connection);
  // The same, for callers that are in the middle of something.
  void start_at_turn_end(std::unique_ptr<Connection> connection);
  SourceLimits& handshakes() noexcept { return handshakes_; }
  InboundTunnels& inbound_tunnels() noexcept { return *inbound_tunnels_; }
  void tunnel_opened() noexcept { ++tunnels_; }
  void tunnel_closed() noexcept {
    --tunnels_;
    check_idle();
  }

 private:
  friend class Connection;
  explicit Worker(Shared shared, std::unique_ptr<Reactor> reactor);
  void link(Connection& connection) noexcept;
  void unlink(Connection& connection) noexcept;
  void set_accepting(bool accepting);
  void check_idle() noexcept;
  void refresh_pods();
  void judge_again(const std::unordered_set<const Pod*>& pods);
  template <class Test>
  void abort_where(Test test);  // every connection of which it is true
  [[nodiscard]] static DecisionRecord decision_on(const Pod& pod, const ConnectionRecord& connection);
  WorkerReport make_report(const ReportWish& wish);
  void report_connections(uint64_t below, WorkerReport& report);

  Shared shared_;
  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
  std::minstd_rand random_;
  Counters counters_;
  Decisions decisions_;
  state::SnapshotPtr snapshot_;
  std::unordered_map<SpiffeId, std::shared_ptr<const tls::Credentials>> credentials_;
  std::unordered_map<contract::PodId, std::shared_ptr<Pod>> pods_;
  std::unordered_map<contract::PodId, std::vector<std::unique_ptr<Acceptor>>> acceptors_;
  SourceLimits handshakes_{kMaxHandshakesPerSource, kMaxHandshakes};
  std::unique_ptr<InboundTunnels> inbound_tunnels_;
  Connection* connections_ = nullptr;  // the youngest, which has the greatest id
  Connection* bookmark_ = nullptr;     // where the last report broke off: the next one need not walk there
  size_t connection_count_ = 0;
  size_t inbound_count_ = 0;
  uint64_t next_id_ = 1;
  size_t tunnels_ = 0;
  bool draining_ = false;
  std::function<void()> idle_;
};

}  // namespace fairlead::proxy
