// What a peer did to have its connection, or one of its streams, ended: counted by cause.
#pragma once

#include <cstdint>

namespace fairlead::hbone {

enum class Fault : uint8_t {
  // The connection was ended.
  kProtocol,        // frames that HTTP/2 does not allow
  kFrameSize,       // a frame of impossible length
  kFlowControl,     // more data than there was credit, or credit beyond 2^31-1
  kStreamClosed,    // frames on a stream that the peer had ended
  kCompression,     // HPACK that does not decode
  kRapidReset,      // streams opened and reset (CVE-2023-44487)
  kMadeReset,       // streams that it made us reset (CVE-2025-8671)
  kTooManyStreams,  // streams beyond the limit, again and again
  kContinuation,    // a header block without end
  kHeaderList,      // a header list beyond the limit
  kPing,            // floods of frames that bring nothing
  kSettings,
  kPriority,
  kWindowUpdate,
  kEmptyData,
  kOtherFrames,
  kNotReading,  // it asks and does not read the answers
  kSilent,      // it says nothing, not even to a PING; the transport's owner has the clock
  // A stream was ended.
  kStream,   // frames or headers that are no CONNECT tunnel: RST_STREAM
  kRequest,  // no CONNECT, or without a target: 400
};

}  // namespace fairlead::hbone
