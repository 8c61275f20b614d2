#include "control/serve/discovery_service.h"

#include "control/serve/agent_stream.h"
#include "control/serve/call.h"

namespace fairlead::serve {
namespace {

constexpr size_t kMaxStreams = 5000;
constexpr size_t kMaxStreamsPerNode =
    8;  // an agent, its successor, and streams that nobody has noticed to be dead

}  // namespace

grpc::ServerBidiReactor<envoy::service::discovery::v3::DeltaDiscoveryRequest,
                        envoy::service::discovery::v3::DeltaDiscoveryResponse>*
DiscoveryService::DeltaAggregatedResources(grpc::CallbackServerContext* context) {
  const auto node = backend_.node_of(token_of(*context));
  auto* stream = new AgentStream(*this, node ? *node : std::string(), context->peer());  // OnDone deletes it
  if (!node) {
    backend_.notice(log::Level::kWarn,
                    fmt::format("discovery refused to {}: {}", context->peer(), node.error().text()));
    stream->refuse(unauthenticated());
  } else if (!add(stream)) {
    backend_.notice(log::Level::kWarn, fmt::format("discovery refused to node {}: too many streams", *node));
    stream->refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams"});
  } else {
    backend_.notice(log::Level::kInfo,
                    fmt::format("agent of node {} connected from {}", *node, context->peer()));
    backend_.agents_changed();
    stream->begin();
  }
  return stream;
}

PublishedPtr DiscoveryService::state() const {
  const std::lock_guard lock(state_mutex_);
  return state_;
}

void DiscoveryService::set_state(const model::Mesh& mesh) {
  PublishedPtr next = encode(mesh, state());
  {
    const std::lock_guard lock(state_mutex_);
    state_ = std::move(next);
  }
  const std::lock_guard lock(mutex_);
  for (AgentStream* stream : streams_) stream->state_changed();
}

std::vector<AgentStatus> DiscoveryService::agents() const {
  const std::lock_guard lock(mutex_);
  std::vector<AgentStatus> list;
  for (const AgentStream* stream : streams_) list.push_back(stream->status());
  return list;
}

bool DiscoveryService::add(AgentStream* stream) {
  const std::lock_guard lock(mutex_);
  size_t& of_node = streams_by_node_[stream->node()];
  if (streams_.size() >= kMaxStreams || of_node >= kMaxStreamsPerNode) {
    if (of_node == 0) streams_by_node_.erase(stream->node());
    return false;
  }
  ++of_node;
  streams_.insert(stream);
  return true;
}

void DiscoveryService::remove(AgentStream* stream) {
  {
    const std::lock_guard lock(mutex_);
    if (streams_.erase(stream) == 0) return;  // it was refused
    const auto of_node = streams_by_node_.find(stream->node());
    if (--of_node->second == 0) streams_by_node_.erase(of_node);
  }
  backend_.notice(log::Level::kInfo, fmt::format("agent of node {} disconnected", stream->node()));
  backend_.agents_changed();
}

}  // namespace fairlead::serve
