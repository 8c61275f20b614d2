#include "proxy/pod.h"

#include <algorithm>

#include "proxy/tunnel_pool.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

Pod::Pod(Worker& worker, contract::PodAdded info)
    : worker_(worker), info_(std::move(info)), tunnels_(std::make_unique<TunnelPool>(worker, *this)) {}

Pod::~Pod() = default;

bool Pod::owns(const IpAddress& address) const noexcept {
  return std::find(info_.addresses.begin(), info_.addresses.end(), address) != info_.addresses.end();
}

void Pod::refresh(const state::Snapshot& snapshot) {
  workload_ = nullptr;
  for (const IpAddress& address : info_.addresses) {
    auto found = snapshot.workload(address);
    if (found == nullptr || found->ns != info_.ns || found->identity.service_account != info_.service_account)
      continue;
    workload_ = std::move(found);
    break;
  }
  changed_.notify_all();
}

Task<std::shared_ptr<const tls::Credentials>> Pod::credentials(TimePoint deadline) {
  for (;;) {
    if (workload_ != nullptr) {
      auto credentials = worker_.credentials(workload_->identity);
      if (credentials != nullptr) co_return credentials;
    }
    const bool told = co_await changed_.wait(worker_.reactor(), deadline);
    if (!told || gone) co_return nullptr;
  }
}

void Pod::ask(int family) {
  Stock& wanted = stock(family);
  if (wanted.asked || gone) return;
  wanted.asked = true;
  worker_.shared().need_sockets(worker_, info_.pod, family);
}

Task<Result<UniqueFd>> Pod::take_socket(int family) {
  Stock& wanted = stock(family);
  const TimePoint deadline = worker_.reactor().now() + kSocketDeadline;
  while (wanted.sockets.empty()) {
    ask(family);
    const bool told = co_await wanted.arrived.wait(worker_.reactor(), deadline);
    if (gone) co_return Error(ErrorKind::kCancelled, "the pod is gone");
    if (!told) co_return Error(ErrorKind::kTimeout, "the keeper made no socket in time");
  }
  UniqueFd socket = std::move(wanted.sockets.back());
  wanted.sockets.pop_back();
  if (wanted.sockets.size() < kSocketStockLow) ask(family);
  co_return socket;
}

void Pod::give_sockets(int family, std::vector<UniqueFd> sockets) {
  Stock& given = stock(family);
  given.asked = false;
  // The keeper could not make any: whoever waits gives up at its deadline, and the next one asks again.
  // Asking at once would only spin.
  if (sockets.empty()) return;
  for (UniqueFd& socket : sockets) given.sockets.push_back(std::move(socket));
  given.arrived.notify_all();
}

void Pod::suspect(const SocketAddress& endpoint) {
  std::erase_if(suspects_, [&](const auto& known) { return known.first == endpoint; });
  if (suspects_.size() >= kMaxSuspects) suspects_.erase(suspects_.begin());
  suspects_.emplace_back(endpoint, worker_.reactor().now() + kSuspectFor);
}

std::vector<SocketAddress> Pod::suspects() {
  std::erase_if(suspects_,
                [now = worker_.reactor().now()](const auto& known) { return known.second <= now; });
  std::vector<SocketAddress> list;
  for (const auto& [endpoint, until] : suspects_) list.push_back(endpoint);
  return list;
}

}  // namespace fairlead::proxy
