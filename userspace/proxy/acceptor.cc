#include "proxy/acceptor.h"

#include "base/log.h"
#include "net/socket.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

Acceptor::Acceptor(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd listener, bool inbound)
    : worker_(worker),
      pod_(std::move(pod)),
      listener_(std::move(listener)),
      inbound_(inbound),
      back_off_(*this) {}

Acceptor::~Acceptor() {
  close();
}

void Acceptor::open() {
  if (open_) return;
  const Result<void> watched = worker_.reactor().watch_level(listener_, *this, true);
  open_ = watched.has_value();
  if (!watched) log::error("acceptor", "{}: {}", pod_->full_name(), watched.error().text());
}

void Acceptor::close() noexcept {
  back_off_.cancel();
  if (open_) worker_.reactor().unwatch(listener_);
  open_ = false;
}

void Acceptor::on_io(uint32_t) noexcept {
  if (!open_) return;
  for (size_t i = 0; i < kMaxAcceptsPerEvent; ++i) {
    auto connection = net::accept(listener_);
    if (!connection) {
      // EINVAL: it does not listen any more, the pod is gone and this acceptor will be.
      if (connection.error().code() != EINVAL) ++worker_.counters().accept_backoff;
      close();
      worker_.reactor().timers().arm(back_off_, worker_.reactor().now() + kAcceptBackOff);
      return;
    }
    if (!connection->has_value()) return;
    accepted(std::move((*connection)->fd), (*connection)->peer);
  }
}

void Acceptor::accepted(UniqueFd fd, const SocketAddress& peer) {
  ++(inbound_ ? worker_.counters().inbound_accepted : worker_.counters().outbound_accepted);
  // An application must not take our death for the end: what the outbound listener accepts is born that way.
  if (worker_.full()) {
    ++worker_.counters().connections_full;
    return net::set_reset_on_close(fd);
  }
  if (inbound_) {
    worker_.start_connection(std::make_unique<InboundConnection>(worker_, pod_, std::move(fd), peer));
  } else {
    worker_.start_connection(std::make_unique<OutboundConnection>(worker_, pod_, std::move(fd), peer));
  }
}

}  // namespace fairlead::proxy
