// What every proxied connection is to its worker: a record that can be listed, a set-up task, and a way to
// end. Ownership: the worker's table; finish() takes it out and destroys it at the end of the turn. Thread:
// the worker's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/net_types.h"
#include "base/spiffe_id.h"
#include "event/reactor.h"
#include "event/task.h"
#include "proxy/moving_state.h"
#include "state/snapshot.h"
#include "tls/record.h"

namespace fairlead::proxy {

struct Departure;
class Arrival;
class Pod;
class Worker;

enum class TunnelKind : uint8_t { kNone, kInPlace, kHbone };
std::string_view to_string(TunnelKind kind) noexcept;

// How the records of a connection's tunnel are made; both directions, the tunnel's whole life.
struct TunnelRecords {
  tls::CipherSuite cipher{};
  bool kernel_sends = false;
  bool kernel_receives = false;
  bool ulp = false;  // what the kernel says of the socket
  uint64_t sent = 0;
  uint64_t received = 0;
};

struct ConnectionRecord {
  uint64_t id = 0;
  bool inbound = false;
  TunnelKind tunnel = TunnelKind::kNone;
  uint64_t tunnel_id = 0;     // which one, among those of its worker; 0: none
  SocketAddress source;       // the true client
  SocketAddress destination;  // as the client asked
  SocketAddress endpoint;     // the application
  std::shared_ptr<const state::Service> service;
  std::shared_ptr<const SpiffeId> peer;  // null: plaintext
  uint64_t sent = 0;                     // to the application's peer
  uint64_t received = 0;
  uint64_t spliced = 0;  // of both, what did not pass user space
  std::optional<TunnelRecords> records;
  TimePoint since{};
  std::string_view state = "connecting";  // a literal
  bool judged = false;                    // policy let `peer` from `source` in to `endpoint`
};

class Connection : public Deferred {
 public:
  Connection(Worker& worker, std::shared_ptr<Pod> pod, bool inbound);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void start() { (task_ = run()).start(); }
  [[nodiscard]] virtual ConnectionRecord record() const { return record_; }
  [[nodiscard]] const Pod& pod() const noexcept { return *pod_; }
  // Ends at once, by reset: the pod is gone or the drain is over.
  virtual void abort() noexcept = 0;

  // --- moving (proxy/moving.h)
  // Adds itself to what moves; one that cannot or need not move adds nothing.
  virtual Result<void> move_out(Departure&) const { return {}; }
  // Of one that moved in: goes on.
  virtual void activate() {}
  // It is a successor's: only our copies are closed. Destroyed next.
  void let_go() noexcept;

 protected:
  virtual void release() noexcept {}  // the part of let_go() behind the set-up task
  [[nodiscard]] RecordFacts facts() const;
  // `peer`: of its tunnel; without one, that of the facts.
  void take_facts(const RecordFacts& facts, Arrival& arrival, std::shared_ptr<const SpiffeId> peer);
  [[nodiscard]] bool finished() const noexcept { return finished_; }
  virtual Task<void> run() = 0;
  // Frees the set-up frame: what follows is event-driven. Called as the last act of run().
  void set_up_done();
  // Takes the connection out of the table; it is destroyed at the end of this turn. `orderly`: whole, or
  // reset.
  void finish(bool orderly) noexcept;

  Worker& worker_;
  std::shared_ptr<Pod> pod_;
  ConnectionRecord record_;

 private:
  friend class Worker;
  Task<void> task_;
  Connection* next_ = nullptr;
  Connection* previous_ = nullptr;
  bool finished_ = false;
};

}  // namespace fairlead::proxy
