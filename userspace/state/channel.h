// The gRPC channel to the controller and the metadata of a call: TLS with the roots of a file, a bearer token
// of a file, both read anew every time. Thread: any; one for a SharedChannel.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "state/clients.h"

namespace fairlead::state {

Result<std::shared_ptr<grpc::Channel>> open_channel(const ControllerEndpoint& endpoint);
// One channel for many calls: as long as the roots do not change and the calls come through.
class SharedChannel {
 public:
  Result<std::shared_ptr<grpc::Channel>> get(const ControllerEndpoint& endpoint);
  // How a call on `channel` ended.
  void note(const std::shared_ptr<grpc::Channel>& channel, const grpc::Status& status);

 private:
  std::string roots_;
  std::shared_ptr<grpc::Channel> channel_;
};

Result<void> add_metadata(const ControllerEndpoint& endpoint, grpc::ClientContext& context);
Error error_of(const grpc::Status& status, std::string_view operation);

}  // namespace fairlead::state
