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
// Of a policy; their configuration is a StringValue. AUDIT: none. Targets: "service:NS/HOSTNAME" or
// "gateway", comma-separated. Notes: one a line.
inline constexpr std::string_view kAuditExtension = "fairlead.dev/audit";
inline constexpr std::string_view kTargetsExtension = "fairlead.dev/targets";
inline constexpr std::string_view kNotesExtension = "fairlead.dev/notes";
inline constexpr std::string_view kStaticStrict = "istio_converted_static_strict";

// HOST_NETWORK workloads keep their addresses (they may be endpoints); the snapshot does not find them by
// these. `network`: the agent's own.
Result<Workload> decode_workload(const istio::workload::Workload& message, std::string_view network = {});
// Without endpoints: those come from the workloads.
Result<Service> decode_service(const istio::workload::Service& message, std::string_view network = {});
// Never fails for what it does not understand: that makes rules undecidable, an unknown action a DENY, an
// unknown scope the whole mesh. Refused: no name; the scope of a namespace without one.
Result<policy::Policy> decode_policy(const istio::security::Authorization& message);
// What stands in for a policy that was refused: denies everything in its scope.
policy::Policy unreadable_policy(std::string_view resource, policy::Scope scope);

}  // namespace fairlead::state
