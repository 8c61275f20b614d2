// Delta ADS for many agents: one reactor per stream, no thread of its own. Private to the folder.
// Locks: the service's before a stream's before the state's.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "control/serve/published.h"
#include "control/serve/server.h"
#include "discovery.grpc.pb.h"

namespace fairlead::serve {

class AgentStream;

class DiscoveryService final
    : public envoy::service::discovery::v3::AggregatedDiscoveryService::CallbackService {
 public:
  explicit DiscoveryService(const Backend& backend) : backend_(backend) {}

  grpc::ServerBidiReactor<envoy::service::discovery::v3::DeltaDiscoveryRequest,
                          envoy::service::discovery::v3::DeltaDiscoveryResponse>*
  DeltaAggregatedResources(grpc::CallbackServerContext* context) override;

  [[nodiscard]] PublishedPtr state() const;
  void set_state(const model::Mesh& mesh);  // one caller at a time
  [[nodiscard]] std::vector<AgentStatus> agents() const;

  // For the streams.
  [[nodiscard]] const Backend& backend() const { return backend_; }
  void remove(AgentStream* stream);

 private:
  bool add(AgentStream* stream);

  const Backend& backend_;
  mutable std::mutex mutex_;
  std::set<AgentStream*> streams_;
  std::map<std::string, size_t> streams_by_node_;
  mutable std::mutex state_mutex_;
  PublishedPtr state_;
};

}  // namespace fairlead::serve
