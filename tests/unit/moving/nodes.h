// Two nodes in one process: one has a pod whose applications connect, the other a pod whose applications are
// connected to; each node is a Worker, which can be replaced by a successor at any moment. Everything is
// on loopback, under addresses of this process's own; of the kernel's programs only their maps are there. The
// applications of the second pod are in a network namespace, so that its agent can have their port outside.
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
  explicit Mesh(bool in_place);
  // False: this machine does not let us make BPF maps.
  [[nodiscard]] bool ready() const { return originals != nullptr && clients != nullptr; }

  SocketAddress front, back;  // the pods' addresses, port 0
  SocketAddress service;      // of `back`
  SocketAddress outside;      // a workload that is not in the mesh
  SocketAddress self;         // an application of `front`
  bool in_place;
  uint16_t application = 0;  // its port in `back`
  std::vector<UniqueFd> application_listeners;
  // Sockets that a pod is not given: whoever is being set up waits.
  std::atomic<contract::PodId> withheld = 0;
  state::SnapshotPtr open, closed;  // `closed`: a policy denies everything to `back`
  std::vector<std::shared_ptr<const tls::Credentials>> credentials;
  std::unique_ptr<ebpf::OriginalDestinations> originals;
  std::unique_ptr<ebpf::ClientNames> clients;
  [[nodiscard]] size_t client_names() const;  // published now
  // What the keeper does: sockets of a pod.
  std::vector<UniqueFd> sockets(contract::PodId pod, int family) const;
  void capture(const SocketAddress& from, const SocketAddress& agent, const SocketAddress& to) const;

 private:
  void in_back(const std::function<void()>& function) const;  // in its network namespace

  UniqueFd originals_map_, clients_map_, netns_;
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
  [[nodiscard]] SocketAddress inbound() const { return inbound_; }
  void give_withheld();
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
  SocketAddress outbound_, inbound_;
  std::vector<UniqueFd> listeners_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace fairlead::proxy::testing
