// Counters of one worker: plain integers, summed when somebody asks. The names are the JSON keys of `fairlead
// status`.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fairlead::proxy {

#define FL_PROXY_COUNTERS(X)                                               \
  X(outbound_accepted, "captured connections accepted")                    \
  X(outbound_no_original, "without an original destination: reset")        \
  X(outbound_unresolved, "to a destination the mesh no longer has: reset") \
  X(outbound_failed, "whose tunnel or answer failed: reset")               \
  X(outbound_refused, "refused by the peer's policy")                      \
  X(outbound_plain, "to endpoints outside the mesh")                       \
  X(inbound_accepted, "connections to enrolled pods accepted")             \
  X(inbound_tunnels, "tunnels accepted")                                   \
  X(inbound_streams, "streams accepted")                                   \
  X(inbound_plain, "plaintext connections accepted")                       \
  X(inbound_denied, "refused by policy")                                   \
  X(cut_by_policy, "open connections that a changed policy ended")         \
  X(inbound_bad_request, "streams with an impossible destination")         \
  X(application_refused, "the application did not accept")                 \
  X(handshake_failed, "TLS handshakes failed")                             \
  X(source_limited, "refused: their source holds its share already")       \
  X(connections_full, "refused: the worker has all it may have")           \
  X(tunnels_opened, "tunnels opened")                                      \
  X(tunnels_failed, "tunnels that ended with an error")                    \
  X(accept_backoff, "times accept() was out of file descriptors")          \
  X(connections_reset, "connections reset")                                \
  X(connections_closed, "connections ended in order")                      \
  X(bytes_to_applications, "bytes")                                        \
  X(bytes_from_applications, "bytes")

struct Counters {
#define FL_MEMBER(name, help) uint64_t name = 0;
  FL_PROXY_COUNTERS(FL_MEMBER)
#undef FL_MEMBER

  void add(const Counters& other) noexcept {
#define FL_ADD(name, help) name += other.name;
    FL_PROXY_COUNTERS(FL_ADD)
#undef FL_ADD
  }
  template <class Visitor>
  void each(Visitor visitor) const {
#define FL_VISIT(name, help) visitor(std::string_view(#name), name);
    FL_PROXY_COUNTERS(FL_VISIT)
#undef FL_VISIT
  }
};

}  // namespace fairlead::proxy
