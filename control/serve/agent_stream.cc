#include "control/serve/agent_stream.h"

#include <utility>

#include "control/serve/call.h"
#include "control/serve/discovery_service.h"

namespace fairlead::serve {
namespace {

constexpr size_t kMaxNames = 200000;  // that one stream asks for by name
constexpr std::string_view kUrlPrefix = "type.googleapis.com/";

}  // namespace

AgentStream::AgentStream(DiscoveryService& service, std::string node, std::string peer)
    : service_(service),
      node_(std::move(node)),
      peer_(std::move(peer)),
      policies_(kPolicyType),
      addresses_(kAddressType) {
  for (Type* type : {&policies_, &addresses_}) type->status.type = type->url.substr(kUrlPrefix.size());
}

AgentStatus AgentStream::status() const {
  const std::lock_guard lock(mutex_);
  AgentStatus status{node_, peer_, {}};
  for (const Type* type : {&addresses_, &policies_}) {
    status.types.push_back(type->status);
    status.types.back().in_flight = !type->in_flight.empty();
  }
  return status;
}

void AgentStream::state_changed() {
  const std::lock_guard lock(mutex_);
  send_next();
}

void AgentStream::OnReadDone(bool ok) {
  const std::lock_guard lock(mutex_);
  if (!ok) return finish(grpc::Status::OK);
  if (!take_request()) return finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many names"});
  send_next();
  if (!closing_) StartRead(&request_);
}

void AgentStream::finish(const grpc::Status& status) {
  if (!std::exchange(closing_, true)) Finish(status);
}

// False: it asks for more than we remember.
bool AgentStream::take_request() {
  for (Type* type : {&policies_, &addresses_}) {
    if (request_.type_url() != type->url) continue;  // other types are never answered
    take_answer(*type);
    type->subscription.update(request_);
    return type->subscription.names() <= kMaxNames;
  }
  return true;
}

void AgentStream::take_answer(Type& type) {
  // The answer to anything but the push in flight is out of date.
  if (request_.response_nonce().empty() || request_.response_nonce() != type.in_flight) return;
  type.in_flight.clear();
  if (request_.has_error_detail()) {
    // Not sent again until it changes: it would be refused again.
    ++type.status.rejected;
    type.status.last_rejection = printable(request_.error_detail().message());
    service_.backend().notice(log::Level::kWarn, fmt::format("node {} rejects {}: {}", node_,
                                                             type.status.type, type.status.last_rejection));
  } else {
    ++type.status.acknowledged;
  }
  service_.backend().agents_changed();
}

void AgentStream::send_next() {
  if (writing_ || closing_) return;
  const PublishedPtr state = service_.state();
  if (state == nullptr || !policies_.in_flight.empty()) return;
  if (push(policies_, state, Subscription::Removals::kLater)) return;
  if (!addresses_.in_flight.empty()) return;
  if (push(addresses_, state, Subscription::Removals::kNow)) return;
  push(policies_, state, Subscription::Removals::kNow);
}

// False: there is nothing to tell.
bool AgentStream::push(Type& type, const PublishedPtr& state, Subscription::Removals removals) {
  auto response = type.subscription.next(type.url, state, removals);
  if (!response) return false;
  response_ = std::move(*response);
  type.in_flight = std::to_string(next_nonce_++);
  response_.set_nonce(type.in_flight);
  ++type.status.pushes;
  writing_ = true;
  StartWrite(&response_);
  service_.backend().agents_changed();
  return true;
}

void AgentStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  response_.Clear();  // an idle agent costs no copy of the mesh
  if (ok) send_next();
}

void AgentStream::OnDone() {
  service_.remove(this);
  delete this;
}

}  // namespace fairlead::serve
