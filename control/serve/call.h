// What both services take from a call: the bearer token, and text of a peer made fit for a log. Private to
// the folder.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

namespace fairlead::serve {

// The bearer token of a call ("Bearer " or, as sidecars send it, "Istio "); empty when there is none.
std::string_view token_of(const grpc::CallbackServerContext& context);
// At most `maximum` bytes, everything but printable ASCII replaced: a peer must not be able to write log
// lines.
std::string printable(std::string_view text, size_t maximum = 512);
grpc::Status unauthenticated();

}  // namespace fairlead::serve
