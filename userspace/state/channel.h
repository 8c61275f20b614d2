// The gRPC channel to the controller and the metadata of a call: TLS with the roots of a file, a bearer token
// of a file, both read anew every time. Thread: any.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "base/result.h"
#include "state/clients.h"

namespace fairlead::state {

Result<std::shared_ptr<grpc::Channel>> open_channel(const ControllerEndpoint& endpoint);
Result<void> add_metadata(const ControllerEndpoint& endpoint, grpc::ClientContext& context);
Error error_of(const grpc::Status& status, std::string_view operation);

}  // namespace fairlead::state
