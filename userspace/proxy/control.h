// The control thread of the proxy: everything that is slow or rare. Talks to the keeper, takes snapshots and
// certificates from their clients' threads, hands all of it to the workers, answers local queries. Thread:
// run() and everything private on the caller's thread; the clients' callbacks only post.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "contract/keeper_proxy.h"
#include "ebpf/flow_maps.h"
#include "event/reactor.h"
#include "net/query.h"
#include "proxy/pages_json.h"
#include "proxy/parcel_giver.h"
#include "proxy/parcel_taker.h"
#include "proxy/proxy_main.h"
#include "proxy/reports_json.h"
#include "proxy/worker.h"
#include "state/clients.h"
#include "tls/kernel_tls.h"

namespace fairlead::proxy {

class Control final : private IoHandler, private ParcelGiver::Owner, private ParcelTaker::Owner {
 public:
  Control(ProxyConfig config, UniqueFd contract);
  ~Control();
  // Opens what takes opening: after it, the process may lock itself in.
  Result<void> start();
  // Until the keeper says drain and all is quiet, or is gone. The exit code of the process.
  int run(const Confinement& locked);
  [[nodiscard]] const ProxyConfig& config() const noexcept { return config_; }

 private:
  void on_io(uint32_t events) noexcept override;  // the contract socket
  bool handle(contract::Packet packet);
  Result<void> welcome(const contract::Welcome& welcome, std::vector<UniqueFd> maps);
  void have_credentials(const std::shared_ptr<const tls::Credentials>& credentials);
  Result<void> start_workers();
  void add_pod(contract::PodAdded pod, std::vector<UniqueFd> listeners);
  void remove_pod(contract::PodId pod);
  void give_sockets(const contract::Sockets& sockets, std::vector<UniqueFd> fds);
  void need_sockets(Worker& worker, contract::PodId pod, int family);
  void send_to_keeper(contract::Message message);
  void flush_to_keeper();
  void drain(uint32_t deadline_ms);
  void leave(int code);
  void on_deadline() noexcept { leave(0); }
  void on_retry() noexcept { flush_to_keeper(); }

  void apply_snapshot(state::SnapshotPtr snapshot);
  void snapshot_taken(const state::SnapshotPtr& snapshot);
  void refresh_identities();

  // Changing hands (control_hand_over.cc). As the old proxy:
  void hand_over(UniqueFd to_successor);
  void packed(uint64_t attempt, size_t worker, Result<std::vector<Parcel>> parcels);
  void giving_failed(const std::string& why) override;
  void committed() override;
  void giving_done() override;
  void leave_when_gone();
  // As the successor:
  void tell_when_ready();
  void take_over(std::vector<UniqueFd> from_old);
  void unpack(std::vector<std::vector<Parcel>> by_worker) override;
  void taken() override;
  void taking_failed(const std::string& why) override;
  [[noreturn]] void vanish() noexcept;

  std::string answer(std::string_view verb, std::string_view argument);
  [[nodiscard]] std::vector<state::CertificateClient::Status> certificate_states() const;
  // `wish_of(worker)`; of a worker that does not answer in time there is no report.
  std::vector<WorkerReport> gather_reports(const std::function<ReportWish(size_t)>& wish_of);
  void probe_kernel();
  std::string set(std::string_view argument);
  std::string connections(std::string_view argument);
  std::string decisions(std::string_view argument);

  ProxyConfig config_;
  Confinement locked_;
  UniqueFd contract_;
  std::unique_ptr<Reactor> reactor_;
  std::unique_ptr<ebpf::Destinations> destinations_;
  std::unique_ptr<ebpf::OriginalDestinations> originals_;
  std::unique_ptr<ebpf::ClientNames> clients_;
  std::unique_ptr<state::XdsClient> xds_;
  std::unique_ptr<state::CertificateClient> certificates_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<net::QueryServer> queries_;
  tls::KernelTlsSupport kernel_support_;  // as the self-test left it
  KernelUse kernel_use_;
  state::SnapshotPtr snapshot_;
  bool destinations_written_ = false;
  std::map<contract::PodId, contract::PodAdded> pods_;
  std::set<SpiffeId> identities_;
  std::map<SpiffeId, std::string> unheld_;  // of these, and why no certificate is fetched for them
  // Who asked for sockets, in the order of the keeper's answers.
  std::map<std::pair<contract::PodId, int>, std::deque<Worker*>> askers_;
  std::deque<contract::Message> outgoing_;
  size_t draining_workers_ = 0;
  std::unique_ptr<ParcelGiver> giver_;
  std::unique_ptr<ParcelTaker> taker_;
  uint64_t attempt_ = 0;  // to hand over; what a worker says of an earlier one is late
  std::vector<ParcelGiver::Load> loads_;
  size_t packing_ = 0;    // workers that have not answered
  size_t unpacking_ = 0;  // the same
  size_t letting_go_ = 0;
  bool given_ = false;           // the connections are a successor's
  bool successor_ = false;       // another proxy serves still: nothing may be touched
  bool all_pods_known_ = false;  // the keeper said Ready
  bool told_ready_ = false;
  bool in_force_ = false;       // every worker has the mesh state
  state::SnapshotPtr waiting_;  // came while connections changed hands
  std::set<SpiffeId> held_;     // identities with a certificate
  int exit_code_ = 0;
  bool leaving_ = false;
  TimePoint started_;
  std::string instance_;  // this process, and no other before or after it
  Alarm<Control, &Control::on_deadline> deadline_;
  Alarm<Control, &Control::on_retry> retry_;
};

}  // namespace fairlead::proxy
