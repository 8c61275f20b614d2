// The counter of each fault of a peer, and of each event of kernel TLS.
#pragma once

#include "hbone/fault.h"
#include "proxy/counters.h"
#include "proxy/kernel_use.h"

namespace fairlead::proxy {

inline uint64_t& counter_of(Counters& counters, hbone::Fault fault) noexcept {
  using hbone::Fault;
  switch (fault) {
    case Fault::kProtocol: return counters.peer_protocol_error;
    case Fault::kFrameSize: return counters.peer_frame_size;
    case Fault::kFlowControl: return counters.peer_flow_control;
    case Fault::kStreamClosed: return counters.peer_stream_closed;
    case Fault::kCompression: return counters.peer_compression;
    case Fault::kRapidReset: return counters.peer_rapid_reset;
    case Fault::kMadeReset: return counters.peer_made_reset;
    case Fault::kTooManyStreams: return counters.peer_too_many_streams;
    case Fault::kContinuation: return counters.peer_continuation_flood;
    case Fault::kHeaderList: return counters.peer_header_list;
    case Fault::kPing: return counters.peer_ping_flood;
    case Fault::kSettings: return counters.peer_settings_flood;
    case Fault::kPriority: return counters.peer_priority_flood;
    case Fault::kWindowUpdate: return counters.peer_window_flood;
    case Fault::kEmptyData: return counters.peer_empty_data_flood;
    case Fault::kOtherFrames: return counters.peer_frame_flood;
    case Fault::kNotReading: return counters.peer_not_reading;
    case Fault::kSilent: return counters.peer_silent;
    case Fault::kStream: return counters.peer_broken_stream;
    case Fault::kRequest: return counters.peer_no_connect;
  }
  return counters.peer_protocol_error;
}

inline uint64_t& counter_of(Counters& counters, KernelEvent event) noexcept {
  switch (event) {
    case KernelEvent::kTransmits: return counters.ktls_transmit;
    case KernelEvent::kReceives: return counters.ktls_receive;
    case KernelEvent::kRefused: return counters.ktls_refused;
    case KernelEvent::kBadRecord: return counters.ktls_bad_record;
    case KernelEvent::kKeyUpdate: return counters.ktls_key_update;
    case KernelEvent::kBroken: break;
  }
  return counters.ktls_error;
}

}  // namespace fairlead::proxy
