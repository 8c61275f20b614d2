// One agent's discovery stream. Make before break: policies come before the workloads that name them and go
// after them, so that an agent never finds a policy missing that is merely on its way. Thread: any of gRPC's
// and the publisher's; everything is behind one lock. Deletes itself when gRPC is done with it.
#pragma once

#include <array>
#include <mutex>
#include <string>

#include "control/serve/server.h"
#include "control/serve/subscription.h"
#include "discovery.grpc.pb.h"

namespace fairlead::serve {

class DiscoveryService;

class AgentStream final
    : public grpc::ServerBidiReactor<envoy::service::discovery::v3::DeltaDiscoveryRequest,
                                     envoy::service::discovery::v3::DeltaDiscoveryResponse> {
 public:
  AgentStream(DiscoveryService& service, std::string node, std::string peer);

  void begin() { StartRead(&request_); }
  void refuse(const grpc::Status& status) { Finish(status); }
  void state_changed();
  [[nodiscard]] AgentStatus status() const;
  [[nodiscard]] const std::string& node() const { return node_; }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  struct Type {
    explicit Type(std::string_view type_url) : url(type_url) {}
    std::string url;
    Subscription subscription;
    std::string in_flight;  // nonce; empty: none. One push of a type at a time
    TypeStatus status;
  };

  // All of these under the lock.
  bool take_request();
  void take_answer(Type& type);
  void send_next();
  bool push(Type& type, const PublishedPtr& state, Subscription::Removals removals);
  void finish(const grpc::Status& status);

  DiscoveryService& service_;
  const std::string node_;
  const std::string peer_;
  mutable std::mutex mutex_;
  envoy::service::discovery::v3::DeltaDiscoveryRequest request_;
  envoy::service::discovery::v3::DeltaDiscoveryResponse response_;
  Type policies_;
  Type addresses_;
  uint64_t next_nonce_ = 1;
  bool writing_ = false;
  bool closing_ = false;
};

}  // namespace fairlead::serve
