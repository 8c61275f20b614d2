// Bounds-checked reading and writing of binary messages in network byte order.
// A reader that ran past the end stays failed: read everything, then ask ok() once.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/buffer.h"

namespace fairlead {

class ByteReader {
 public:
  explicit ByteReader(std::span<const uint8_t> bytes) noexcept : bytes_(bytes) {}

  [[nodiscard]] bool ok() const noexcept { return ok_; }
  [[nodiscard]] bool at_end() const noexcept { return bytes_.empty(); }
  [[nodiscard]] size_t remaining() const noexcept { return bytes_.size(); }

  uint8_t u8() noexcept { return static_cast<uint8_t>(integer(1)); }
  uint16_t u16() noexcept { return static_cast<uint16_t>(integer(2)); }
  uint32_t u24() noexcept { return static_cast<uint32_t>(integer(3)); }
  uint32_t u32() noexcept { return static_cast<uint32_t>(integer(4)); }
  uint64_t u64() noexcept { return integer(8); }
  std::span<const uint8_t> take(size_t count) noexcept {
    if (!ok_ || count > bytes_.size()) {
      ok_ = false;
      return {};
    }
    auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  // A string behind its 16-bit length.
  std::string string16() {
    auto text = take(u16());
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

 private:
  uint64_t integer(size_t width) noexcept {
    uint64_t value = 0;
    for (uint8_t byte : take(width)) value = value << 8 | byte;
    return value;
  }

  std::span<const uint8_t> bytes_;
  bool ok_ = true;
};

class ByteWriter {
 public:
  explicit ByteWriter(Buffer& out) noexcept : out_(out) {}

  void u8(uint8_t value) { integer(value, 1); }
  void u16(uint16_t value) { integer(value, 2); }
  void u24(uint32_t value) { integer(value, 3); }
  void u32(uint32_t value) { integer(value, 4); }
  void u64(uint64_t value) { integer(value, 8); }
  void bytes(std::span<const uint8_t> value) { out_.append(value); }
  void string16(std::string_view text) {
    u16(static_cast<uint16_t>(text.size()));
    out_.append(text);
  }

 private:
  void integer(uint64_t value, size_t width) {
    auto room = out_.prepare(width);
    for (size_t i = 0; i < width; ++i) room[i] = static_cast<uint8_t>(value >> (8 * (width - 1 - i)));
    out_.commit(width);
  }

  Buffer& out_;
};

}  // namespace fairlead
