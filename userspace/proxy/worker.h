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
#include "proxy/moving.h"
#include "proxy/pod.h"
#include "proxy/source_limits.h"
#include "state/snapshot.h"
#include "tls/credentials.h"

namespace fairlead::proxy {

class Acceptor;
class Arrival;
class InboundTunnels;
struct Moved;

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
    // It takes over from another process: connections wait in the backlog until activate().
    bool successor = false;
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

  // --- moving to a successor and from a predecessor (proxy/moving.h), from any thread; the callbacks run on
  // this worker
  // Stops accepting, lets handshakes end (kHandshakesFinish), packs every connection and stands still: only
  // report() is answered, everything else waits. An Error: nothing was frozen, it goes on.
  void freeze(std::function<void(Result<std::vector<Parcel>>)> packed);
  void thaw();  // goes on as if nothing had been asked
  void let_go(
      std::function<void()> gone);  // of a frozen one: forgets all, without a trace on sockets and maps
  // Of a successor that knows its pods and the mesh: makes what is in the parcels. Connections of pods that
  // are gone are left out. After an Error nothing is kept.
  void unpack(std::vector<Parcel> parcels, std::function<void(Result<void>)> ready);
  void activate();  // serves, with everything that was unpacked

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
  void handshake_begins() noexcept { ++handshakes_under_way_; }
  void handshake_ended() noexcept;
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
  // Runs `message` on this worker, later while nothing may change.
  void tell(std::function<void()> message);
  void set_accepting(bool accepting);
  void drop_acceptors(contract::PodId pod);
  [[nodiscard]] bool may_accept() const noexcept {
    return life_ == Life::kServing && snapshot_ != nullptr && !draining_;  // without, nothing can be judged
  }
  void pack();
  void on_handshakes_waited() noexcept;
  [[nodiscard]] Result<std::vector<Parcel>> make_parcels() const;
  Result<void> take_in(Arrival& arrival, Moved moved);
  void take_in_all(std::vector<Parcel> parcels, const std::function<void(Result<void>)>& ready);
  void begin_to_serve();
  void forget_all() noexcept;  // without a trace
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
  size_t handshakes_under_way_ = 0;
  bool draining_ = false;
  // kWaking: a successor that does not serve yet; kFreezing: handshakes are waited for.
  enum class Life : uint8_t { kWaking, kServing, kFreezing, kFrozen, kGone };
  Life life_;
  bool moved_in_ = false;                    // what is here must not be touched before activate()
  std::vector<std::function<void()>> kept_;  // messages for afterwards
  std::function<void(Result<std::vector<Parcel>>)> packed_;
  Alarm<Worker, &Worker::on_handshakes_waited> handshakes_waited_;
  std::function<void()> idle_;
};

// From the first step of a handshake to its last: a freeze waits for it.
class HandshakeUnderWay {
 public:
  explicit HandshakeUnderWay(Worker& worker) noexcept : worker_(worker) { worker.handshake_begins(); }
  HandshakeUnderWay(const HandshakeUnderWay&) = delete;
  HandshakeUnderWay& operator=(const HandshakeUnderWay&) = delete;
  ~HandshakeUnderWay() { worker_.handshake_ended(); }

 private:
  Worker& worker_;
};

}  // namespace fairlead::proxy
