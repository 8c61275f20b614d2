#include "hbone/hpack.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/bytes.h"
#include "base/net_types.h"
#include "hbone/limits.h"

namespace fairlead::hbone {
namespace {

constexpr uint32_t kTableSize = 4096;  // RFC 9113 §6.5.2, the default both sides keep
constexpr size_t kStaticEntries = 61;  // RFC 7541, appendix A
constexpr uint8_t kSizeUpdate = 0x20;  // §6.3
constexpr uint8_t kIndexed = 0x40;     // §6.2.1

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NONE};
}

Result<void> deflate(nghttp2_hd_deflater* deflater, std::span<const nghttp2_nv> fields, Buffer& out) {
  const size_t bound = nghttp2_hd_deflate_bound(deflater, fields.data(), fields.size());
  const auto room = out.prepare(bound);
  const ssize_t length = nghttp2_hd_deflate_hd(deflater, room.data(), bound, fields.data(), fields.size());
  if (length < 0) return Error(ErrorKind::kProtocol, "HPACK deflate", static_cast<int>(length));
  out.commit(static_cast<size_t>(length));
  return {};
}

bool connection_specific(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames = {"connection", "keep-alive", "proxy-connection",
                                                      "transfer-encoding", "upgrade"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

// Collects fields into a HeaderList and notes the first offence.
class Collector {
 public:
  explicit Collector(HeaderList& list) : list_(list) {}

  // False: beyond the limits, which ends the connection.
  bool add(std::string_view name, std::string_view value) {
    total_ += name.size() + value.size() + 32;
    if (++fields_ > kMaxHeaderFields || total_ > kMaxHeaderList) return false;
    // RFC 9113 §8.2.1, upper case included.
    if (nghttp2_check_header_name(bytes(name), name.size()) == 0) offend("a name of other characters");
    if (nghttp2_check_header_value_rfc9113(bytes(value), value.size()) == 0)
      offend("a value of other characters");
    if (name.starts_with(':')) {
      pseudo(name, value);
    } else {
      regular_seen_ = true;
      regular(name, value);
    }
    return true;
  }

 private:
  static const uint8_t* bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

  void offend(std::string_view why) {
    if (list_.malformed.empty()) list_.malformed = why;
  }

  void pseudo(std::string_view name, std::string_view value) {
    if (regular_seen_) offend("pseudo-header behind regular ones");
    unsigned which = 0;
    if (name == ":method") which = HeaderList::kMethod, list_.method = value;
    if (name == ":authority") which = HeaderList::kAuthority, list_.authority = value;
    if (name == ":scheme") which = HeaderList::kScheme;
    if (name == ":path" && !value.empty()) which = HeaderList::kPath;
    if (name == ":status") {
      which = HeaderList::kStatus;
      list_.status = static_cast<int>(parse_number(value, 999).value_or(0));
      if (list_.status < 100 || value.size() != 3) offend("status out of range");
    }
    if (which == 0) offend("unknown pseudo-header");
    if ((list_.pseudo & which) != 0) offend("pseudo-header twice");
    list_.pseudo |= which;
  }

  void regular(std::string_view name, std::string_view value) {
    if (connection_specific(name) || (name == "te" && value != "trailers"))
      offend("connection-specific header");
    if (name == "forwarded") list_.request.forwarded = value;
    if (name == "baggage") list_.request.baggage = value;
    if (name == "traceparent") list_.request.traceparent = value;
  }

  HeaderList& list_;
  size_t fields_ = 0;
  size_t total_ = 0;
  bool regular_seen_ = false;
};

std::string_view view(const uint8_t* bytes, size_t length) {
  return {reinterpret_cast<const char*>(bytes), length};
}

// RFC 7541 §5.1: `bits` of the first byte are the integer's, `pattern` has the others.
void append_integer(Buffer& out, uint8_t pattern, int bits, size_t value) {
  ByteWriter writer(out);
  const size_t most = (size_t{1} << bits) - 1;
  if (value < most) return writer.u8(static_cast<uint8_t>(pattern | value));
  writer.u8(static_cast<uint8_t>(pattern | most));
  for (value -= most; value >= 128; value >>= 7) writer.u8(static_cast<uint8_t>(128 | (value & 127)));
  writer.u8(static_cast<uint8_t>(value));
}

}  // namespace

std::string_view HeaderList::broken_request() const noexcept {
  if (!malformed.empty()) return malformed;
  if ((pseudo & kStatus) != 0) return "status in a request";
  if ((pseudo & kMethod) == 0) return "no method";
  const unsigned target = pseudo & (kScheme | kPath);
  if (method == "CONNECT" && target != 0) return "scheme or path with CONNECT";
  if (method != "CONNECT" && target != (kScheme | kPath)) return "no scheme or no path";
  return {};
}

// An interim answer does not end the stream, and HTTP/2 knows no 101 (RFC 9113 §8.1, §8.6).
bool HeaderList::broken_response(bool ends_stream) const noexcept {
  return !malformed.empty() || pseudo != kStatus || status == 101 || (status < 200 && ends_stream);
}

HeaderEncoder::HeaderEncoder() : limit_(kTableSize) {
  (void)nghttp2_hd_deflate_new(&deflater_, kTableSize);
}  // ignoring: fails only without memory
HeaderEncoder::~HeaderEncoder() {
  nghttp2_hd_deflate_del(deflater_);
}

Result<void> HeaderEncoder::request(const ConnectRequest& request, Buffer& out) {
  std::vector<nghttp2_nv> fields = {field(":method", "CONNECT"), field(":authority", request.authority)};
  if (!request.baggage.empty()) fields.push_back(field("baggage", request.baggage));
  if (!request.forwarded.empty()) fields.push_back(field("forwarded", request.forwarded));
  if (!request.traceparent.empty()) fields.push_back(field("traceparent", request.traceparent));
  return deflate(deflater_, fields, out);
}

Result<void> HeaderEncoder::response(int status, Buffer& out) {
  const std::string text = std::to_string(status);
  const std::array<nghttp2_nv, 1> fields = {field(":status", text)};
  return deflate(deflater_, fields, out);
}

void HeaderEncoder::limit_table(uint32_t size) noexcept {
  // ignoring: fails only without memory, when a table grows; ours never passes what it was made with
  limit_ = std::min<uint32_t>(size, kTableSize);
  (void)nghttp2_hd_deflate_change_table_size(deflater_, limit_);
}

void HeaderEncoder::begin_anew(uint32_t limit) noexcept {
  limit_table(0);
  limit_table(limit);
}

HeaderDecoder::HeaderDecoder() {
  (void)nghttp2_hd_inflate_new(&inflater_);
}  // ignoring: fails only without memory
HeaderDecoder::~HeaderDecoder() {
  nghttp2_hd_inflate_del(inflater_);
}

Result<HeaderList> HeaderDecoder::decode(std::span<const uint8_t> block) {
  HeaderList list;
  Collector collector(list);
  for (;;) {
    nghttp2_nv header{};
    int flags = 0;
    const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &header, &flags, block.data(), block.size(), 1);
    if (used < 0) return Error(ErrorKind::kProtocol, "HPACK inflate", static_cast<int>(used));
    block = block.subspan(static_cast<size_t>(used));
    if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0 &&
        !collector.add(view(header.name, header.namelen), view(header.value, header.valuelen))) {
      return Error(ErrorKind::kExhausted, "header list beyond the limit");
    }
    if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) break;
    if (used == 0 && (flags & NGHTTP2_HD_INFLATE_EMIT) == 0)
      return Error(ErrorKind::kProtocol, "header block cut short");
  }
  nghttp2_hd_inflate_end_headers(inflater_);
  list.request.authority = list.authority;
  return list;
}

TableState HeaderDecoder::table() const {
  TableState table;
  table.limit = static_cast<uint32_t>(nghttp2_hd_inflate_get_max_dynamic_table_size(inflater_));
  // Entries are numbered from 1: those of the static table, then the dynamic ones, the youngest first.
  for (size_t i = nghttp2_hd_inflate_get_num_table_entries(inflater_); i > kStaticEntries; --i) {
    const nghttp2_nv* entry = nghttp2_hd_inflate_get_table_entry(inflater_, i);
    table.fields.push_back(
        {std::string(view(entry->name, entry->namelen)), std::string(view(entry->value, entry->valuelen))});
  }
  return table;
}

// A block that only fills the table: a size update, then literals with incremental indexing (RFC 7541
// §6.2.1).
Result<void> HeaderDecoder::resume(const TableState& table) {
  Buffer block;
  append_integer(block, kSizeUpdate, 5, table.limit);
  for (const auto& [name, value] : table.fields) {
    append_integer(block, kIndexed, 6, 0);
    for (const std::string* text : {&name, &value}) {
      append_integer(block, 0, 7, text->size());
      block.append(*text);
    }
  }
  while (!block.empty()) {
    nghttp2_nv header{};
    int flags = 0;
    const ssize_t used = nghttp2_hd_inflate_hd2(inflater_, &header, &flags, block.data(), block.size(), 1);
    if (used <= 0) return Error(ErrorKind::kProtocol, "HPACK table", static_cast<int>(used));
    block.consume(static_cast<size_t>(used));
  }
  nghttp2_hd_inflate_end_headers(inflater_);
  if (nghttp2_hd_inflate_get_num_table_entries(inflater_) != kStaticEntries + table.fields.size())
    return Error(ErrorKind::kProtocol, "HPACK table: more than fits");
  return {};
}

}  // namespace fairlead::hbone
