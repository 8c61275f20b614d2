// HPACK (RFC 7541) by nghttp2, and the two header lists of a CONNECT tunnel. Bounded by hbone/limits.h.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/buffer.h"
#include "base/result.h"
#include "hbone/connection.h"
#include "hbone/state.h"

struct nghttp2_hd_deflater;
struct nghttp2_hd_inflater;

namespace fairlead::hbone {

class HeaderEncoder {
 public:
  HeaderEncoder();
  ~HeaderEncoder();
  // Appends a header block.
  Result<void> request(const ConnectRequest& request, Buffer& out);
  Result<void> response(int status, Buffer& out);
  // SETTINGS_HEADER_TABLE_SIZE of the peer; the next block says so (RFC 7541 §4.2).
  void limit_table(uint32_t size) noexcept;
  [[nodiscard]] uint32_t table_limit() const noexcept { return limit_; }
  // Goes on for an encoder of another process, whose table is not known here: the next block has the peer's
  // decoder forget it (RFC 7541 §4.2: down to 0, then up to `limit`).
  void begin_anew(uint32_t limit) noexcept;

 private:
  uint32_t limit_;
  nghttp2_hd_deflater* deflater_ = nullptr;
};

// A block that decoded; `malformed` says why it breaks RFC 9113 §8 – the stream's fault, not the
// connection's.
struct HeaderList {
  static constexpr unsigned kMethod = 1, kAuthority = 2, kStatus = 4, kScheme = 8, kPath = 16;
  std::string method;
  std::string authority;
  int status = 0;
  ConnectRequest request;
  unsigned pseudo = 0;         // which pseudo-headers there are
  std::string_view malformed;  // a literal, empty: well-formed

  // What is wrong with it as a request; empty: nothing. CONNECT has neither scheme nor path (RFC 9113 §8.5),
  // every other method has both (§8.3.1).
  [[nodiscard]] std::string_view broken_request() const noexcept;
  [[nodiscard]] bool broken_response(bool ends_stream) const noexcept;
};

class HeaderDecoder {
 public:
  HeaderDecoder();
  ~HeaderDecoder();
  // Errors are connection errors (COMPRESSION_ERROR): the table is out of step.
  Result<HeaderList> decode(std::span<const uint8_t> block);
  [[nodiscard]] TableState table() const;
  Result<void> resume(const TableState& table);  // of a decoder that has decoded nothing

 private:
  nghttp2_hd_inflater* inflater_ = nullptr;
};

}  // namespace fairlead::hbone
