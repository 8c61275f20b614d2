// Parcels: the bytes of what moves, behind a version, and the file descriptors in the order in which the
// bytes speak of them. unpack_parcel() takes hostile bytes: what it gives is whole and within every bound,
// and every connection refers to a stream that its tunnel has. Pure.
#pragma once

#include <variant>

#include "base/result.h"
#include "proxy/moving.h"
#include "proxy/moving_state.h"

namespace fairlead::proxy {

// A stream that is over, and whose application has not read all of it, moves without a tunnel.
struct Moved {
  contract::PodId pod = 0;
  std::variant<OutboundTunnelState, InboundTunnelState, OutboundState, InboundState, InboundStreamState> what;
};

// Empties `moved` of its file descriptors.
Parcel pack_parcel(Moved moved);
Result<Moved> unpack_parcel(Parcel parcel);

}  // namespace fairlead::proxy
