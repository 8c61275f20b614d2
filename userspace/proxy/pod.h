// One enrolled pod as one worker sees it: who it is, its listeners, its stock of unconnected sockets, its
// tunnels. Thread: the worker's. Ownership: shared by its connections, so that it outlives them; `gone` says
// it was removed.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/net_types.h"
#include "base/spiffe_id.h"
#include "contract/keeper_proxy.h"
#include "event/task.h"
#include "event/wait.h"
#include "proxy/limits.h"
#include "state/snapshot.h"
#include "tls/credentials.h"

namespace fairlead::proxy {

class TunnelPool;
class Worker;

class Pod {
 public:
  Pod(Worker& worker, contract::PodAdded info);
  ~Pod();

  [[nodiscard]] contract::PodId id() const noexcept { return info_.pod; }
  [[nodiscard]] const contract::PodAdded& info() const noexcept { return info_; }
  [[nodiscard]] std::string full_name() const { return info_.ns + "/" + info_.name; }
  // The keeper told of the same pod once more: connections and tunnels go on.
  void renew(contract::PodAdded info) { info_ = std::move(info); }
  [[nodiscard]] bool owns(const IpAddress& address) const noexcept;
  TunnelPool& tunnels() noexcept { return *tunnels_; }

  // Looks itself up in the snapshot by address; the entry must carry the namespace and service account that
  // the keeper was told, else the address belongs to somebody else's past.
  void refresh(const state::Snapshot& snapshot);
  [[nodiscard]] const std::shared_ptr<const state::Workload>& workload() const noexcept { return workload_; }
  // The pod's workload and credentials, waiting for them at start. Null when they do not come in time.
  Task<std::shared_ptr<const tls::Credentials>> credentials(TimePoint deadline);
  void notify() noexcept { changed_.notify_all(); }

  // A TCP socket made in the pod's network namespace. Waits for the keeper when the stock is empty.
  Task<Result<UniqueFd>> take_socket(int family);
  void give_sockets(int family, std::vector<UniqueFd> sockets);

  // Endpoints that gave no tunnel a moment ago.
  void suspect(const SocketAddress& endpoint);
  [[nodiscard]] std::vector<SocketAddress> suspects();

  bool gone = false;

 private:
  struct Stock {
    std::vector<UniqueFd> sockets;
    bool asked = false;
    Signal arrived;
  };
  Stock& stock(int family) noexcept { return family == AF_INET ? stock4_ : stock6_; }
  void ask(int family);

  Worker& worker_;
  contract::PodAdded info_;
  std::shared_ptr<const state::Workload> workload_;
  std::unique_ptr<TunnelPool> tunnels_;
  Stock stock4_;
  Stock stock6_;
  Signal changed_;
  std::vector<std::pair<SocketAddress, TimePoint>> suspects_;  // until when; in the order of that
};

}  // namespace fairlead::proxy
