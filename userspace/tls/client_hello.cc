// classify(): a look at the first bytes of a connection without taking them (RFC 8446 §4.1.2, §5.1).
#include <algorithm>

#include "base/bytes.h"
#include "tls/handshake.h"

namespace fairlead::tls {
namespace {

constexpr uint8_t kHandshakeRecord = 22;
constexpr uint8_t kClientHello = 1;
constexpr uint16_t kAlpnExtension = 16;
constexpr size_t kMaxClientHello = 16 * 1024;

enum class Part { kWhole, kNeedMore, kBroken };

// Joins the handshake bytes of the records at the front until the ClientHello is whole.
Part join_records(std::span<const uint8_t> bytes, Buffer& hello) {
  for (size_t wanted = 4;;) {
    if (hello.size() >= 4) {
      const uint8_t* head = hello.data();
      if (head[0] != kClientHello) return Part::kBroken;
      wanted = 4 + (static_cast<size_t>(head[1]) << 16 | static_cast<size_t>(head[2]) << 8 | head[3]);
      if (wanted > kMaxClientHello) return Part::kBroken;
      if (hello.size() >= wanted) {
        hello.truncate(wanted);
        return Part::kWhole;
      }
    }
    if (!bytes.empty() && bytes[0] != kHandshakeRecord) return Part::kBroken;
    if (bytes.size() > 1 && bytes[1] != 3) return Part::kBroken;
    if (bytes.size() < kRecordHeader) return Part::kNeedMore;
    const size_t length = static_cast<size_t>(bytes[3]) << 8 | bytes[4];
    if (length == 0 || length > kMaxPlaintext) return Part::kBroken;
    const auto body = bytes.subspan(kRecordHeader);
    hello.append(body.first(std::min(length, body.size())));
    if (body.size() < length && hello.size() < wanted) {
      // The head of the message may already show that it is none of ours.
      return hello.size() >= 1 && hello.data()[0] != kClientHello ? Part::kBroken : Part::kNeedMore;
    }
    bytes = body.subspan(std::min(length, body.size()));
  }
}

bool alpn_offers_tunnel(std::span<const uint8_t> extension) {
  ByteReader in(extension);
  ByteReader list(in.take(in.u16()));
  while (in.ok() && list.ok() && !list.at_end()) {
    const auto name = list.take(list.u8());
    if (std::equal(name.begin(), name.end(), kInPlaceAlpn.begin(), kInPlaceAlpn.end())) return true;
  }
  return false;
}

bool offers_tunnel(std::span<const uint8_t> hello) {
  ByteReader in(hello);
  (void)in.take(4 + 2 + 32);   // message header, legacy version, random
  (void)in.take(in.u8());      // legacy session id
  (void)in.take(in.u16());     // cipher suites
  (void)in.take(in.u8());      // legacy compression methods
  ByteReader extensions(in.take(in.u16()));
  while (in.ok() && extensions.ok() && !extensions.at_end()) {
    const uint16_t type = extensions.u16();
    const auto body = extensions.take(extensions.u16());
    if (extensions.ok() && type == kAlpnExtension) return alpn_offers_tunnel(body);
  }
  return false;
}

}  // namespace

FirstBytes classify(std::span<const uint8_t> bytes) noexcept {
  if (bytes.empty()) return FirstBytes::kNeedMore;
  Buffer hello;
  switch (join_records(bytes, hello)) {
    case Part::kNeedMore: return bytes.size() > 2 * kMaxClientHello ? FirstBytes::kOther : FirstBytes::kNeedMore;
    case Part::kBroken: return FirstBytes::kOther;
    case Part::kWhole: return offers_tunnel(hello.span()) ? FirstBytes::kTunnel : FirstBytes::kOther;
  }
  return FirstBytes::kOther;
}

}  // namespace fairlead::tls
