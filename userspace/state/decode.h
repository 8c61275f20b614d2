// From wire messages to plain structs: protobuf stops here. Unknown enum values and unknown kinds of match
// make a match undecidable rather than being skipped (architecture: what cannot be decided is denied).
#pragma once

#include "authorization.pb.h"
#include "base/result.h"
#include "state/snapshot.h"
#include "workload.pb.h"

namespace fairlead::state {

inline constexpr std::string_view kInPlaceExtension = "fairlead.dev/in-place";
inline constexpr std::string_view kNotInPlaceExtension = "fairlead.dev/not-in-place";
inline constexpr std::string_view kStaticStrict = "istio_converted_static_strict";

// Addresses of HOST_NETWORK workloads are left out: they belong to the node.
Result<Workload> decode_workload(const istio::workload::Workload& message);
// Without endpoints: those come from the workloads.
Result<Service> decode_service(const istio::workload::Service& message);
// Never fails for what it does not understand; only a message without a name is refused.
Result<policy::Policy> decode_policy(const istio::security::Authorization& message);

}  // namespace fairlead::state
