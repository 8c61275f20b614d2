// HTTP/2 frame headers and the frames that carry no HPACK (RFC 9113 §4, §6). Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/buffer.h"
#include "base/bytes.h"
#include "hbone/connection.h"

namespace fairlead::hbone {

inline constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr size_t kFrameHeader = 9;

enum class FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kRstStream = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoaway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};

constexpr uint8_t kFlagEndStream = 0x1;
constexpr uint8_t kFlagAck = 0x1;
constexpr uint8_t kFlagEndHeaders = 0x4;
constexpr uint8_t kFlagPadded = 0x8;
constexpr uint8_t kFlagPriority = 0x20;

enum class Setting : uint16_t {
  kHeaderTableSize = 1,
  kEnablePush = 2,
  kMaxConcurrentStreams = 3,
  kInitialWindowSize = 4,
  kMaxFrameSize = 5,
  kMaxHeaderListSize = 6,
};

struct FrameHeader {
  uint32_t length = 0;
  FrameType type = FrameType::kData;
  uint8_t flags = 0;
  StreamId stream = 0;
  [[nodiscard]] bool has(uint8_t flag) const noexcept { return (flags & flag) != 0; }
};

inline FrameHeader parse_header(const uint8_t* bytes) noexcept {
  FrameHeader header;
  header.length = static_cast<uint32_t>(bytes[0]) << 16 | static_cast<uint32_t>(bytes[1]) << 8 | bytes[2];
  header.type = static_cast<FrameType>(bytes[3]);
  header.flags = bytes[4];
  header.stream = (static_cast<uint32_t>(bytes[5]) << 24 | static_cast<uint32_t>(bytes[6]) << 16 |
                   static_cast<uint32_t>(bytes[7]) << 8 | bytes[8]) &
                  0x7fffffff;  // the reserved bit is ignored
  return header;
}

inline void write_header(uint8_t* out, uint32_t length, FrameType type, uint8_t flags,
                         StreamId stream) noexcept {
  out[0] = static_cast<uint8_t>(length >> 16);
  out[1] = static_cast<uint8_t>(length >> 8);
  out[2] = static_cast<uint8_t>(length);
  out[3] = static_cast<uint8_t>(type);
  out[4] = flags;
  for (int i = 0; i < 4; ++i) out[5 + i] = static_cast<uint8_t>(stream >> (24 - 8 * i));
}

inline void append_header(Buffer& out, uint32_t length, FrameType type, uint8_t flags, StreamId stream) {
  write_header(out.prepare(kFrameHeader).data(), length, type, flags, stream);
  out.commit(kFrameHeader);
}

}  // namespace fairlead::hbone
