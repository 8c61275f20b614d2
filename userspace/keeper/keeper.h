// The privileged process of the agent: BPF programs on pods, sockets inside pod namespaces, and the proxy's
// life. It never reads a byte that came from the network and holds no key.
//
// Its memory is pods.json in the run directory and the pins under the BPF directory: a keeper that starts
// finds the pods again, re-attaches in place and opens the same listeners; capture never stops in between, it
// fails closed. Where an agent runs already (agent_lock.h) a keeper is its successor: it asks for the node
// (taking.h) and is given it whole, or ends and has changed nothing. Thread: the one that calls run().
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "contract/keeper_proxy.h"
#include "ebpf/datapath.h"
#include "enroll/pod_spec.h"
#include "event/reactor.h"
#include "keeper/giving.h"
#include "keeper/node_addresses.h"
#include "keeper/pod_sockets.h"
#include "keeper/proxy_child.h"
#include "keeper/taking.h"
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
  bool stay_when_given = false;  // to a successor: until a signal, instead of ending at once
};

class Keeper final : private IoHandler, private Giving::Agent, private Taking::Agent {
 public:
  explicit Keeper(KeeperConfig config);
  ~Keeper();
  // Until SIGTERM or SIGINT, or until a successor has taken over. Pins stay: pods without an agent fail
  // closed. An error: it could not begin, or is a successor that was not given the node.
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
  void find_agent() noexcept;  // is there one? Else this is it
  Result<void> begin(UniqueFd lock);
  Result<void> prepare_datapath();
  void make_proxy(bool successor);
  Result<void> listen(const std::string& suffix);
  void recall_pods();
  void recall_pod(enroll::PodSpec spec);
  void end(Result<void> outcome) noexcept;
  void stay() noexcept;
  void listen_again();
  Result<uint64_t> add_pod(enroll::PodSpec spec);
  Result<void> attach(Pod& pod, BorrowedFd cgroup);
  Result<void> remove_pod(const std::string& uid);
  Result<void> save() const;

  void on_io(uint32_t events) noexcept override;  // the contract socket
  void proxy_started(UniqueFd contract);
  void proxy_exited() noexcept;
  void greet_proxy();
  bool handle(contract::Packet packet);
  bool handle_hand_over(const contract::Message& message);
  void give_sockets(const contract::NeedSockets& need);
  void tell_pod(const Pod& pod);
  void tell(contract::Message message, std::vector<UniqueFd> fds = {});
  void flush();
  void drop_outgoing() noexcept;
  void on_retry() noexcept { flush(); }
  void on_find() noexcept { find_agent(); }
  void on_signal() noexcept;
  void stop() noexcept;
  void on_drained() noexcept;

  // The running agent's side of a hand-over (keeper_giving.cc).
  std::string reason_to_refuse(const contract::hand_over::Ask& ask) override;
  contract::hand_over::Offer offer() override;
  void offer_pods() override;
  Result<bool> tell_proxy_to_hand_over(UniqueFd to_successor) override;
  Result<UniqueFd> copy_of_lock() override;
  void go_on(const Outcome& outcome) override;
  void giving_away() override;
  void given_away() override;
  void offer_pod(const Pod& pod);

  // The successor's (keeper_taking.cc).
  Result<void> ask_for_node(UniqueFd socket);
  Result<void> take_pod(contract::hand_over::OfferedPod pod, std::vector<UniqueFd> fds) override;
  void drop_pod(const std::string& uid) override;
  Result<void> start_successor_proxy() override;
  Result<void> tell_proxy_to_take_over(std::vector<UniqueFd> from_old) override;
  std::optional<UniqueFd> try_lock() override;
  void take_charge(UniqueFd lock) override;
  void give_up(Error why) override;
  void take_names();
  void attach_again(std::vector<std::string> uids);  // one per turn of the loop

  std::string answer(std::string_view verb, std::string_view argument, const net::QueryPeer& peer);
  std::string answer_about_pods(std::string_view verb, std::string_view argument);
  std::string pods_json() const;
  std::string status_json() const;

  struct Outgoing {
    contract::Message message;
    std::vector<UniqueFd> fds;
  };

  KeeperConfig config_;
  UniqueFd lock_;  // of the run directory: this is the node's agent
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<ebpf::Datapath> datapath_;
  std::unique_ptr<NodeAddresses> node_addresses_;
  std::unique_ptr<ProxyChild> proxy_;
  std::unique_ptr<net::QueryServer> queries_;
  std::unique_ptr<Giving> giving_;
  std::unique_ptr<Taking> taking_;
  std::set<std::string> unknown_;         // uids that were offered and have been removed since
  std::vector<IpAddress> own_addresses_;  // of the node, as they were told last
  struct {
    uint32_t taken = 0;   // in this row of agents
    uint32_t failed = 0;  // the same
    std::string last_failure;
  } hand_overs_;
  UniqueFd home_;  // our own network namespace
  uint64_t home_cookie_ = 0;
  UniqueFd signals_;
  SignalWatch signal_watch_;
  UniqueFd contract_;
  std::deque<Outgoing> outgoing_;
  size_t outgoing_fds_ = 0;
  std::map<std::string, Pod> pods_;                // by uid
  std::map<std::string, enroll::PodSpec> closed_;  // captured, and could not be taken up again
  bool proxy_greeted_ = false;
  bool proxy_synced_ = false;
  bool proxy_is_successor_ = false;  // this one was greeted so
  bool ever_synced_ = false;         // fl_dests has held the mesh in this keeper's life
  bool leaving_ = false;
  bool given_ = false;       // the node is a successor's
  bool stop_asked_ = false;  // by a signal, while connections changed hands
  Result<void> outcome_;
  TimePoint started_;
  TimePoint find_until_;
  Alarm<Keeper, &Keeper::on_retry> retry_;
  Alarm<Keeper, &Keeper::on_find> find_;
  Alarm<Keeper, &Keeper::on_drained> drained_;
};

// Detaches everything and removes the run directory's files: the node as it was. Refused while an agent runs.
Result<void> clean_up(const KeeperConfig& config);

}  // namespace fairlead::keeper
