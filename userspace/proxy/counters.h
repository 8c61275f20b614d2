// Counters of one worker: plain integers, summed when somebody asks. The names are the JSON keys of `fairlead
// status`.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace fairlead::proxy {

// hbone::Fault by name; proxy/peer_faults.h maps them.
#define FL_PEER_FAULT_COUNTERS(X)                                                      \
  X(peer_protocol_error, "tunnels ended: frames that HTTP/2 does not allow")           \
  X(peer_frame_size, "tunnels ended: a frame of impossible length")                    \
  X(peer_flow_control, "tunnels ended: data or credit beyond the window")              \
  X(peer_stream_closed, "tunnels ended: frames on a stream that the peer had ended")   \
  X(peer_compression, "tunnels ended: HPACK that does not decode")                     \
  X(peer_rapid_reset, "tunnels ended: streams opened and reset")                       \
  X(peer_made_reset, "tunnels ended: streams that the peer made us reset")             \
  X(peer_too_many_streams, "tunnels ended: streams beyond the limit, again and again") \
  X(peer_continuation_flood, "tunnels ended: a header block without end")              \
  X(peer_header_list, "tunnels ended: a header list beyond the limit")                 \
  X(peer_ping_flood, "tunnels ended: PING")                                            \
  X(peer_settings_flood, "tunnels ended: SETTINGS")                                    \
  X(peer_priority_flood, "tunnels ended: PRIORITY")                                    \
  X(peer_window_flood, "tunnels ended: WINDOW_UPDATE")                                 \
  X(peer_empty_data_flood, "tunnels ended: DATA without payload")                      \
  X(peer_frame_flood, "tunnels ended: other frames that bring nothing")                \
  X(peer_not_reading, "tunnels ended: the peer asks and does not read the answers")    \
  X(peer_silent, "tunnels ended: the peer does not answer a keep-alive PING")          \
  X(peer_broken_stream, "streams reset: frames or headers that are no tunnel")         \
  X(peer_no_connect, "streams answered 400: no CONNECT, or without a target")

#define FL_PROXY_COUNTERS(X)                                                           \
  X(outbound_accepted, "captured connections accepted")                                \
  X(outbound_no_original, "without an original destination: reset")                    \
  X(outbound_unresolved, "to a destination the mesh no longer has: reset")             \
  X(outbound_failed, "whose tunnel or answer failed: reset")                           \
  X(outbound_retried, "tried at another endpoint of their service")                    \
  X(outbound_refused, "refused by the peer's policy")                                  \
  X(refusals_unrecorded, "failed and not shown by `fairlead why`: many")               \
  X(outbound_plain, "to endpoints outside the mesh")                                   \
  X(inbound_accepted, "connections to enrolled pods accepted")                         \
  X(inbound_tunnels, "tunnels accepted")                                               \
  X(inbound_streams, "streams accepted")                                               \
  X(inbound_plain, "plaintext connections accepted")                                   \
  X(inbound_denied, "refused by policy")                                               \
  X(cut_by_policy, "open connections that a changed policy ended")                     \
  X(audit_matched, "connections that an AUDIT policy marked")                          \
  X(dry_run_differs, "decided otherwise than with dry-run policies")                   \
  X(inbound_bad_request, "streams whose destination is no address")                    \
  X(inbound_wrong_target, "streams to a destination that is not the pod's")            \
  X(application_refused, "the application did not accept")                             \
  X(handshake_failed, "TLS handshakes failed")                                         \
  X(source_limited, "refused: their source holds its share already")                   \
  X(connections_full, "refused: the worker has all it may have")                       \
  X(tunnels_opened, "tunnels opened")                                                  \
  X(tunnels_failed, "tunnels that ended with an error")                                \
  FL_PEER_FAULT_COUNTERS(X)                                                            \
  X(ktls_transmit, "directions whose records the kernel makes, since the start")       \
  X(ktls_receive, "directions whose records the kernel opens, since the start")        \
  X(ktls_refused, "directions that the kernel would not take")                         \
  X(ktls_bad_record, "tunnels ended: the kernel found a record that is not authentic") \
  X(ktls_key_update, "tunnels ended: a new key that the kernel cannot take")           \
  X(ktls_error, "tunnels ended: other errors of the kernel's records")                 \
  X(bytes_spliced, "bytes that did not pass user space")                               \
  X(accept_backoff, "times accept() was out of file descriptors")                      \
  X(connections_reset, "connections reset")                                            \
  X(connections_closed, "connections ended in order")                                  \
  X(bytes_to_applications, "bytes")                                                    \
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
