// The privileged process of the agent: BPF programs on pods, sockets inside pod namespaces, and the proxy's
// life. It never reads a byte that came from the network and holds no key.
//
// Its memory is pods.json in the run directory and the pins under the BPF directory: a keeper that starts
// finds the pods again, re-attaches in place and opens the same listeners; capture never stops in between, it
// fails closed. Thread: the one that calls run().
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "contract/keeper_proxy.h"
#include "ebpf/datapath.h"
#include "enroll/pod_spec.h"
#include "event/reactor.h"
#include "keeper/node_addresses.h"
#include "keeper/pod_sockets.h"
#include "keeper/proxy_child.h"
#include "net/query.h"

namespace fairlead::keeper {

struct KeeperConfig {
  std::string node;
  std::string run_directory;
  std::string bpf_directory;
  std::string config_path;  // for the proxy
  uid_t proxy_uid = 65532;
  size_t proxy_locked_memory = 0;  // what the proxy may lock into RAM, for its keys
  std::chrono::milliseconds drain_deadline{25000};
};

class Keeper final : private IoHandler {
 public:
  explicit Keeper(KeeperConfig config);
  ~Keeper();
  // Until SIGTERM or SIGINT. Pins stay: pods without an agent fail closed.
  Result<void> run();

 private:
  struct Pod {
    enroll::PodSpec spec;
    PodNamespace where;
    UniqueFd netns;
    PodListeners listeners;
  };
  // The reactor's view of the signal fd, beside the contract socket.
  struct SignalWatch final : IoHandler {
    explicit SignalWatch(Keeper& k) noexcept : keeper(k) {}
    void on_io(uint32_t) noexcept override { keeper.on_signal(); }
    Keeper& keeper;
  };

  Result<void> set_up();
  Result<void> prepare_directories();
  void recall_pods();
  Result<uint64_t> add_pod(enroll::PodSpec spec);
  Result<void> attach(Pod& pod, BorrowedFd cgroup);
  Result<void> remove_pod(const std::string& uid);
  Result<void> save() const;

  void on_io(uint32_t events) noexcept override;  // the contract socket
  void proxy_started(UniqueFd contract);
  void proxy_exited() noexcept;
  void greet_proxy();
  bool handle(contract::Packet packet);
  void give_sockets(const contract::NeedSockets& need);
  void tell_pod(const Pod& pod);
  void tell(contract::Message message, std::vector<UniqueFd> fds = {});
  void flush();
  void drop_outgoing() noexcept;
  void on_retry() noexcept { flush(); }
  void on_signal() noexcept;
  void on_drained() noexcept;

  std::string answer(std::string_view verb, std::string_view argument, const net::QueryPeer& peer);
  std::string pods_json() const;
  std::string status_json() const;

  struct Outgoing {
    contract::Message message;
    std::vector<UniqueFd> fds;
  };

  KeeperConfig config_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<ebpf::Datapath> datapath_;
  std::unique_ptr<NodeAddresses> node_addresses_;
  std::unique_ptr<ProxyChild> proxy_;
  std::unique_ptr<net::QueryServer> queries_;
  UniqueFd home_;  // our own network namespace
  uint64_t home_cookie_ = 0;
  UniqueFd signals_;
  SignalWatch signal_watch_;
  UniqueFd contract_;
  std::deque<Outgoing> outgoing_;
  size_t outgoing_fds_ = 0;
  std::map<std::string, Pod> pods_;  // by uid
  bool proxy_greeted_ = false;
  bool proxy_synced_ = false;
  bool ever_synced_ = false;  // fl_dests has held the mesh in this keeper's life
  bool leaving_ = false;
  TimePoint started_;
  Alarm<Keeper, &Keeper::on_retry> retry_;
  Alarm<Keeper, &Keeper::on_drained> drained_;
};

// Detaches everything and removes the run directory's files: the node as it was.
Result<void> clean_up(const KeeperConfig& config);

}  // namespace fairlead::keeper
