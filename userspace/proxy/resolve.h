// Where a captured connection goes: original destination → service → endpoint → how to get there. Pure.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "base/net_types.h"
#include "state/snapshot.h"

namespace fairlead::proxy {

struct Target {
  enum class Kind {
    kTunnelInPlace,  // to a Fairlead agent, on the application's own port
    kTunnelHbone,    // to port 15008
    kSelf,           // the pod itself: over lo, policy judged here
    kPlain,          // an endpoint outside the mesh
    kRefused,        // nobody to talk to; `why` says it
  };
  Kind kind = Kind::kRefused;
  std::shared_ptr<const state::Workload> workload;
  std::shared_ptr<const state::Service> service;  // null when reached by pod address
  SocketAddress endpoint;                         // the application: pod address and target port
  std::string_view why;
};

// `own`: addresses of the asking pod. `pick(n)` gives a number in [0, n). `avoid`: endpoints that a Service
// is not to be reached by, because they failed; with none left, nobody is there to talk to.
Target resolve(const state::Snapshot& snapshot, std::span<const IpAddress> own, const SocketAddress& original,
               const std::function<size_t(size_t)>& pick, std::span<const SocketAddress> avoid = {});

}  // namespace fairlead::proxy
