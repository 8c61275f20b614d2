#include "proxy/application.h"

#include "proxy/handshaking.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

ClientName& ClientName::operator=(ClientName&& other) noexcept {
  std::swap(worker_, other.worker_);
  std::swap(pod_, other.pod_);
  std::swap(local_, other.local_);
  return *this;
}

ClientName::~ClientName() {
  if (worker_ == nullptr) return;
  (void)worker_->shared().clients->forget(pod_,
                                          local_);  // ignoring: the pod's removal forgets all of its names
}

Task<Result<ApplicationSocket>> connect_application(Worker& worker, std::shared_ptr<Pod> pod,
                                                    SocketAddress own, SocketAddress client) {
  const int family = own.family();
  Result<UniqueFd> socket = co_await pod->take_socket(family);
  if (!socket) co_return Error(std::move(socket).error());
  ApplicationSocket application{std::move(*socket), {}};
  net::set_reset_on_close(application.fd);  // the relay takes it back at an orderly end
  const SocketAddress any_port{own.ip, 0};
  FL_CO_TRY(net::bind(application.fd, any_port, family));
  auto local = net::local_address(application.fd);
  if (!local) co_return Error(std::move(local).error());
  FL_CO_TRY(worker.shared().clients->publish(pod->id(), *local, client));
  application.name = ClientName(worker, pod->id(), *local);
  FL_CO_TRY(net::connect(application.fd, own, family));
  Result<void> connected =
      co_await finish_connect(worker.reactor(), application.fd, worker.reactor().now() + kConnectDeadline);
  if (!connected) co_return Error(std::move(connected).error());
  co_return application;
}

}  // namespace fairlead::proxy
