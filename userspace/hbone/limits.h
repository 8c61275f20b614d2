// Every maximum of an HTTP/2 tunnel connection.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fairlead::hbone {

constexpr size_t kMaxOutput = 120 * 1024;       // frames that wait to be sent; beyond, streams are held back
constexpr size_t kMaxOutputHard = 1024 * 1024;  // control frames on top: the peer does not read
constexpr size_t kMaxHeaderBlock = 16 * 1024;   // HEADERS with its CONTINUATIONs, compressed
constexpr size_t kMaxHeaderList = 16 * 1024;    // uncompressed, RFC 9113 §6.5.2
constexpr size_t kMaxHeaderFields = 64;
constexpr int kMaxContinuations = 8;
constexpr size_t kMaxControlPayload = 4096;  // of SETTINGS, GOAWAY, PRIORITY and unknown frames
constexpr int kMaxIdleFrames = 20000;        // in a row without payload or a new stream; calm() forgives
// Streams that ended in a reset before their answer, or by the peer's fault. A stream that is answered pays
// one off, calm() all.
constexpr int kMaxResetDebt = 1000;
constexpr size_t kClosedRemembered = 32;     // streams whose end is remembered, to judge late frames
constexpr size_t kMaxPieces = 32;            // of payload handed on together
constexpr uint32_t kMaxWindow = 0x7fffffff;  // RFC 9113 §6.9.1
constexpr uint32_t kDefaultWindow = 65535;
constexpr uint32_t kDefaultMaxFrame = 16384;
constexpr uint32_t kConnectionTopUp = 1u << 30;  // received before the connection window is raised again
constexpr size_t kStreamsBeforeSettings = 100;   // assumed limit of the peer until its SETTINGS came

}  // namespace fairlead::hbone
