#include "proxy/connection.h"

#include "proxy/worker.h"

namespace fairlead::proxy {
namespace {

// Carries a finished set-up frame to the end of the turn: a coroutine cannot free the frame it runs in.
struct SpentTask final : Deferred {
  explicit SpentTask(Task<void> spent) noexcept : task(std::move(spent)) {}
  Task<void> task;
};

}  // namespace

std::string_view to_string(TunnelKind kind) noexcept {
  switch (kind) {
    case TunnelKind::kNone: return "none";
    case TunnelKind::kInPlace: return "in-place";
    case TunnelKind::kHbone: return "hbone";
  }
  return "none";
}

Connection::Connection(Worker& worker, std::shared_ptr<Pod> pod, bool inbound)
    : worker_(worker), pod_(std::move(pod)) {
  record_.inbound = inbound;
  record_.since = worker.reactor().now();
  worker_.link(*this);
}

Connection::~Connection() {
  if (!finished_) worker_.unlink(*this);
}

void Connection::set_up_done() {
  worker_.reactor().defer_destroy(std::make_unique<SpentTask>(std::move(task_)));
}

void Connection::finish(bool orderly) noexcept {
  if (finished_) return;
  finished_ = true;
  ++(orderly ? worker_.counters().connections_closed : worker_.counters().connections_reset);
  worker_.unlink(*this);
  worker_.reactor().defer_destroy(std::unique_ptr<Deferred>(this));
}

}  // namespace fairlead::proxy
