// Two nodes in one process: one has a pod whose applications connect, the other a pod whose applications are
// connected to; each node is a Worker, which can be replaced by a successor at any moment. Everything is
// on loopback, under addresses of this process's own; of the kernel's programs only their maps are there.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "ebpf/flow_maps.h"
#include "proxy/worker.h"
#include "state/snapshot_builder.h"
#include "tls/credentials.h"

namespace fairlead::proxy::testing {

constexpr contract::PodId kFront = 1, kBack = 2;
constexpr uint16_t kServicePort = 80;

// What both nodes know, and the maps that they share.
class Mesh {
 public:
  Mesh();
  // False: this machine does not let us make BPF maps.
  [[nodiscard]] bool ready() const { return originals != nullptr && clients != nullptr; }

  SocketAddress front, back;  // the pods' addresses, port 0
  SocketAddress service;      // of `back`
  uint16_t application = 0;   // its port in `back`
  UniqueFd application_listener;
  state::SnapshotPtr open, closed;  // `closed`: a policy denies everything to `back`
  std::vector<std::shared_ptr<const tls::Credentials>> credentials;
  std::unique_ptr<ebpf::OriginalDestinations> originals;
  std::unique_ptr<ebpf::ClientNames> clients;
  [[nodiscard]] size_t client_names() const;  // published now
  void capture(const SocketAddress& from, const SocketAddress& agent, const SocketAddress& to) const;

 private:
  UniqueFd originals_map_, clients_map_;
};

// What happens between freeze() and the end.
enum class Move {
  kCommit,
  kThaw,           // at once
  kSuccessorDies,  // it has unpacked everything
  kCutShort,       // a parcel, which the successor refuses
  kFdLost,
};

class Node {
 public:
  Node(Mesh& mesh, contract::PodId pod);
  ~Node();
  Worker& worker() { return *worker_; }
  [[nodiscard]] SocketAddress outbound() const { return outbound_; }
  void move(Move how = Move::kCommit);
  WorkerReport report();
  void set_snapshot(const state::SnapshotPtr& snapshot);
  // Of the successors to come.
  state::SnapshotPtr snapshot;

  // From the call of freeze() to its answer, and to the activation of the successor.
  std::vector<std::chrono::microseconds> packing, pauses;
  size_t parcels = 0;
  size_t bytes = 0;

 private:
  std::unique_ptr<Worker> make(bool successor);

  Mesh& mesh_;
  contract::PodAdded info_;
  SocketAddress outbound_;
  std::vector<UniqueFd> listeners_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace fairlead::proxy::testing
