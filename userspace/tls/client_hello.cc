// classify(): a look at the first bytes of a connection without taking them (RFC 8446 §4.1.2, §5.1).
#include "tls/handshake.h"

namespace fairlead::tls {
namespace {

constexpr uint8_t kHandshakeRecord = 22;
constexpr uint8_t kClientHello = 1;
constexpr uint16_t kAlpnExtension = 16;
constexpr uint16_t kLegacyVersion = 0x0303;
constexpr uint32_t kMaxSessionId = 32;

// The bytes of handshake messages with the record headers between them taken out. Once it ran out of bytes,
// or met one that cannot be, it stays so and reads zeros.
class HelloReader {
 public:
  explicit HelloReader(std::span<const uint8_t> bytes) noexcept : bytes_(bytes) {}

  [[nodiscard]] bool ok() const noexcept { return state_ == State::kOk; }
  [[nodiscard]] size_t position() const noexcept { return position_; }
  // The message ends there: what reads on is broken, not short.
  void end_at(size_t end) noexcept { end_ = end; }
  [[nodiscard]] FirstBytes outcome() const noexcept {
    return state_ == State::kShort ? FirstBytes::kNeedMore : FirstBytes::kOther;
  }

  uint32_t integer(int width) noexcept {
    uint32_t value = 0;
    for (int i = 0; i < width; ++i) value = value << 8 | next();
    return value;
  }
  void skip(size_t count) noexcept {
    for (size_t i = 0; i < count && ok(); ++i) (void)next();
  }
  // What the reader must find true to go on.
  void expect(bool condition) noexcept {
    if (ok() && !condition) state_ = State::kBroken;
  }

 private:
  enum class State { kOk, kShort, kBroken };

  uint8_t next() noexcept {
    expect(position_ < end_);
    if (record_left_ == 0) read_header();
    const uint8_t byte = raw();
    if (!ok()) return 0;
    --record_left_;
    ++position_;
    return byte;
  }
  uint8_t raw() noexcept {
    if (ok() && at_ == bytes_.size()) state_ = State::kShort;
    return ok() ? bytes_[at_++] : 0;
  }
  void read_header() noexcept {
    expect(raw() == kHandshakeRecord);
    expect(raw() == 3);
    expect(raw() <= 4);
    const size_t high = raw();
    expect(high <= kMaxPlaintext >> 8);
    record_left_ = high << 8 | raw();
    expect(record_left_ > 0 && record_left_ <= kMaxPlaintext);
  }

  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
  size_t record_left_ = 0;
  size_t position_ = 0;  // in the message
  size_t end_ = kMaxClientHello;
  State state_ = State::kOk;
};

bool matches_in_place(HelloReader& in, size_t length) noexcept {
  bool same = length == kInPlaceAlpn.size();
  for (size_t i = 0; i < length && in.ok(); ++i) {
    const auto byte = static_cast<char>(in.integer(1));
    same = same && byte == kInPlaceAlpn[i];
  }
  return same && in.ok();
}

// RFC 7301 §3.1: a list of names, none empty, that fills the extension.
bool alpn_offers_tunnel(HelloReader& in, size_t end) noexcept {
  const size_t list = in.integer(2);
  in.expect(list > 0 && in.position() + list == end);
  bool found = false;
  while (in.ok() && in.position() < end) {
    const size_t length = in.integer(1);
    in.expect(length > 0 && in.position() + length <= end);
    found = matches_in_place(in, length) || found;
  }
  return found;
}

void skip_to_extensions(HelloReader& in) noexcept {
  in.expect(in.integer(2) == kLegacyVersion);
  in.skip(32);  // random
  const uint32_t session_id = in.integer(1);
  in.expect(session_id <= kMaxSessionId);
  in.skip(session_id);
  const uint32_t suites = in.integer(2);
  in.expect(suites >= 2 && suites % 2 == 0 && suites <= kMaxClientHello);
  in.skip(suites);
  const uint32_t compressions = in.integer(1);
  in.expect(compressions >= 1);
  in.skip(compressions);
}

}  // namespace

FirstBytes classify(std::span<const uint8_t> bytes) noexcept {
  HelloReader in(bytes);
  in.expect(in.integer(1) == kClientHello);
  const size_t length = in.integer(3);
  in.expect(length <= kMaxClientHello - 4);
  const size_t end = 4 + length;
  in.end_at(end);
  skip_to_extensions(in);
  const size_t extensions = in.integer(2);
  in.expect(in.position() + extensions == end);
  bool found = false;
  while (in.ok() && in.position() < end) {
    const uint32_t type = in.integer(2);
    const size_t size = in.integer(2);
    in.expect(in.position() + size <= end);
    if (type != kAlpnExtension) {
      in.skip(size);
      continue;
    }
    in.expect(!found);
    found = alpn_offers_tunnel(in, in.position() + size);
    in.expect(found);  // the application's own TLS
  }
  return in.ok() && found ? FirstBytes::kTunnel : in.outcome();
}

bool holds_record(std::span<const uint8_t> bytes) noexcept {
  if (bytes.empty()) return false;
  if (bytes[0] != kHandshakeRecord) return true;  // for the handshake to refuse
  if (bytes.size() < kRecordHeader) return false;
  const size_t length = static_cast<size_t>(bytes[3]) << 8 | bytes[4];
  return length > kMaxPlaintext || bytes.size() >= kRecordHeader + length;
}

}  // namespace fairlead::tls
