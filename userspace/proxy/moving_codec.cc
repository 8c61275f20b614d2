#include "proxy/moving_codec.h"

#include <algorithm>
#include <unordered_set>

#include "base/bytes.h"
#include "proxy/connection.h"
#include "proxy/limits.h"
#include "proxy/record_socket.h"

namespace fairlead::proxy {
namespace {

constexpr size_t kMaxText = 4096;
constexpr size_t kMaxAvoided = 256;
constexpr size_t kMaxMovedStreams = 65536;
// Longer than any clock of a connection runs ahead.
constexpr uint64_t kMaxTime = uint64_t{100} * 365 * 86400 * 1000;

// One description of every field (fields(), below) serves both ways: Writer and Reader offer the same verbs.
class Writer {
 public:
  explicit Writer(Parcel& parcel) : parcel_(parcel), out_(parcel.bytes) {}
  static constexpr bool kReads = false;

  void number(uint8_t& value) { out_.u8(value); }
  void number(uint32_t& value) { out_.u32(value); }
  void number(uint64_t& value) { out_.u64(value); }
  void number(int32_t& value) { out_.u32(static_cast<uint32_t>(value)); }
  void flag(bool& value) { out_.u8(value ? 1 : 0); }
  template <class Enum>
  void choice(Enum& value, Enum) {
    out_.u8(static_cast<uint8_t>(value));
  }
  void time(Milliseconds& value) {
    out_.u64(static_cast<uint64_t>(std::clamp<int64_t>(value.count(), 0, int64_t{kMaxTime})));
  }
  void text(std::string& value) {
    out_.u32(static_cast<uint32_t>(value.size()));
    parcel_.bytes.append(value);
  }
  void block(Buffer& value) {
    out_.u32(static_cast<uint32_t>(value.size()));
    out_.bytes(value.span());
  }
  void raw(std::span<uint8_t> value) { out_.bytes(value); }
  void address(SocketAddress& value) {
    out_.bytes(value.ip.octets());
    out_.u16(value.port);
  }
  void socket(UniqueFd& value) {
    out_.u8(value ? 1 : 0);
    if (value) parcel_.fds.push_back(std::move(value));
  }
  template <class T>
  void list(std::vector<T>& values, size_t) {
    out_.u32(static_cast<uint32_t>(values.size()));
    for (T& value : values) fields(*this, value);
  }
  void http2(hbone::ConnectionState& value) {
    Buffer bytes;
    hbone::encode(value, bytes);
    block(bytes);
  }
  void check(bool) {}

 private:
  Parcel& parcel_;
  ByteWriter out_;
};

// How many bytes a Writer is going to write: they are allocated once, and no copy of them is left behind.
class Counter {
 public:
  static constexpr bool kReads = false;
  [[nodiscard]] size_t bytes() const { return bytes_; }

  template <class Number>
  void number(Number&) {
    bytes_ += sizeof(Number);
  }
  void flag(bool&) { ++bytes_; }
  template <class Enum>
  void choice(Enum&, Enum) {
    ++bytes_;
  }
  void time(Milliseconds&) { bytes_ += 8; }
  void text(std::string& value) { bytes_ += 4 + value.size(); }
  void block(Buffer& value) { bytes_ += 4 + value.size(); }
  void raw(std::span<uint8_t> value) { bytes_ += value.size(); }
  void address(SocketAddress&) { bytes_ += 18; }
  void socket(UniqueFd&) { ++bytes_; }
  template <class T>
  void list(std::vector<T>& values, size_t) {
    bytes_ += 4;
    for (T& value : values) fields(*this, value);
  }
  void http2(hbone::ConnectionState& value) {
    Buffer bytes;
    hbone::encode(value, bytes);
    block(bytes);
  }
  void check(bool) {}

 private:
  size_t bytes_ = 0;
};

class Reader {
 public:
  explicit Reader(Parcel& parcel) : parcel_(parcel), in_(parcel.bytes.span()) {}
  static constexpr bool kReads = true;

  [[nodiscard]] bool good() const { return good_ && in_.ok(); }
  [[nodiscard]] bool at_end() const { return in_.at_end() && next_fd_ == parcel_.fds.size(); }

  void number(uint8_t& value) { value = in_.u8(); }
  void number(uint32_t& value) { value = in_.u32(); }
  void number(uint64_t& value) { value = in_.u64(); }
  void number(int32_t& value) { value = static_cast<int32_t>(in_.u32()); }
  void flag(bool& value) {
    const uint8_t byte = in_.u8();
    check(byte <= 1);
    value = byte == 1;
  }
  template <class Enum>
  void choice(Enum& value, Enum last) {
    const uint8_t byte = in_.u8();
    check(byte <= static_cast<uint8_t>(last));
    value = static_cast<Enum>(byte);
  }
  void time(Milliseconds& value) {
    const uint64_t count = in_.u64();
    check(count <= kMaxTime);
    value = Milliseconds(static_cast<int64_t>(std::min(count, kMaxTime)));
  }
  void text(std::string& value) {
    const uint32_t size = in_.u32();
    check(size <= kMaxText);
    const auto bytes = good() ? in_.take(size) : std::span<const uint8_t>();
    value.assign(bytes.begin(), bytes.end());
  }
  void block(Buffer& value) {
    value.clear();
    value.append(in_.take(in_.u32()));
  }
  void raw(std::span<uint8_t> value) {
    const auto bytes = in_.take(value.size());
    std::copy(bytes.begin(), bytes.end(), value.begin());
  }
  void address(SocketAddress& value) {
    in6_addr octets{};
    raw({reinterpret_cast<uint8_t*>(&octets), sizeof octets});
    value.ip = IpAddress::v6(octets);
    value.port = in_.u16();
  }
  void socket(UniqueFd& value) {
    bool there = false;
    flag(there);
    if (!there) return;
    check(next_fd_ < parcel_.fds.size());
    if (good()) value = std::move(parcel_.fds[next_fd_++]);
  }
  template <class T>
  void list(std::vector<T>& values, size_t most) {
    const uint32_t count = in_.u32();
    check(count <= most);
    for (uint32_t i = 0; i < count && good(); ++i) fields(*this, values.emplace_back());
  }
  void http2(hbone::ConnectionState& value) {
    auto state = hbone::decode(in_.take(in_.u32()));
    check(state.has_value());
    if (state) value = std::move(*state);
  }
  void check(bool holds) { good_ = good_ && holds; }

 private:
  Parcel& parcel_;
  ByteReader in_;
  size_t next_fd_ = 0;
  bool good_ = true;
};

// ---- the fields
// -------------------------------------------------------------------------------------------------------

template <class Codec>
void fields(Codec& io, SocketAddress& address) {
  io.address(address);
}

template <class Codec>
void fields(Codec& io, SpiffeId& id) {
  std::string uri = Codec::kReads ? std::string() : id.uri();
  io.text(uri);
  if constexpr (Codec::kReads) {
    auto parsed = SpiffeId::parse(uri);
    io.check(parsed.has_value());
    if (parsed) id = std::move(*parsed);
  }
}

template <class Codec>
void fields(Codec& io, PipeState& pipe) {
  io.socket(pipe.read_end);
  io.socket(pipe.write_end);
  io.number(pipe.holds);
  if constexpr (Codec::kReads) {
    const bool there = pipe.holds > 0;
    io.check(static_cast<bool>(pipe.read_end) == there && static_cast<bool>(pipe.write_end) == there);
  }
}

template <class Codec>
void fields(Codec& io, ClientNameState& name) {
  io.flag(name.published);
  io.address(name.local);
}

template <class Codec>
void fields(Codec& io, RecordFacts& record) {
  io.number(record.tunnel);
  io.check(record.tunnel <= static_cast<uint8_t>(TunnelKind::kHbone));
  io.address(record.source);
  io.address(record.destination);
  io.address(record.endpoint);
  io.text(record.service);
  io.text(record.peer);
  io.check(record.peer.empty() || SpiffeId::parse(record.peer).has_value());
  io.flag(record.judged);
  io.time(record.age);
}

template <class Codec>
void fields(Codec& io, RecordSocketState& records) {
  io.socket(records.fd);
  io.check(!Codec::kReads || static_cast<bool>(records.fd));
  constexpr auto kLastPlace = static_cast<uint8_t>(RecordSocket::Place::kRefused);
  io.number(records.transmits);
  io.number(records.receives);
  io.check(records.transmits <= kLastPlace && records.receives <= kLastPlace);
  io.number(records.seal.sequence);
  io.number(records.open.sequence);
  io.number(records.sealed_records);
  io.number(records.opened.records);
  io.block(records.opened.handshake);
  io.number(records.opened.key_updates);
  io.number(records.opened.tickets);
  io.number(records.opened.idle_records);
  io.flag(records.opened.closed);
  io.block(records.received);
  io.block(records.sealed);
  io.number(records.sent_at_most);
  io.number(records.type);
  io.flag(records.pending_record);
  io.flag(records.owes_update);
  io.flag(records.owes_close);
  io.flag(records.rekeys);
  io.flag(records.worn);
}

template <class Codec>
void fields(Codec& io, TunnelState& tunnel) {
  fields(io, tunnel.peer);
  fields(io, tunnel.records);
  io.http2(tunnel.streams);
  io.flag(tunnel.asked);
  io.flag(tunnel.peer_closed);
  io.time(tunnel.heard_ago);
  io.time(tunnel.idle_in);
  io.time(tunnel.quiet_in);
  io.time(tunnel.calm_in);
  io.number(tunnel.bulk_written);
  io.number(tunnel.bulk_read);
  fields(io, tunnel.pipe);
  io.number(tunnel.before);
  io.flag(tunnel.header_next);
  io.flag(tunnel.farewell);
  io.time(tunnel.farewell_in);
  io.check(tunnel.before <= tunnel.streams.output.size());
}

template <class Codec>
void fields(Codec& io, StreamRelayState& relay) {
  io.number(relay.stream);
  io.flag(relay.on_stream);
  io.socket(relay.application);
  fields(io, relay.pipe);
  io.block(relay.pending);
  io.block(relay.said);
  io.number(relay.said_again);
  io.number(relay.sent);
  io.number(relay.received);
  io.number(relay.status);
  io.flag(relay.relaying);
  io.flag(relay.refused);
  io.flag(relay.peer_ended);
  io.flag(relay.write_side_closed);
  io.flag(relay.read_side_closed);
  io.check(relay.said.empty() || relay.said_again <= relay.said.size());  // kept once it was let go
  io.check(!(relay.write_side_closed && relay.read_side_closed));
}

template <class Codec>
void fields(Codec& io, SocketRelayState& sockets) {
  for (SocketRelayState::Side& side : sockets.sides) {
    io.socket(side.fd);
    io.check(!Codec::kReads || static_cast<bool>(side.fd));
    io.block(side.backlog);
    io.number(side.moved);
    io.flag(side.ended);
    io.flag(side.shut);
  }
  io.flag(sockets.guard);
}

template <class Codec>
void fields(Codec& io, SetUpState& set_up) {
  io.list(set_up.avoid, kMaxAvoided);
  io.number(set_up.tries);
  io.number(set_up.refused);
  io.time(set_up.give_up_in);
  io.time(set_up.tunnel_in);
  io.time(set_up.answer_in);
  io.text(set_up.identity);
  io.check(set_up.identity.empty() || SpiffeId::parse(set_up.identity).has_value());
  io.flag(set_up.in_place);
}

template <class Codec>
void fields(Codec& io, OutboundState& outbound) {
  io.choice(outbound.stage, Stage::kSockets);
  fields(io, outbound.record);
  io.address(outbound.client);
  io.socket(outbound.application);
  io.block(outbound.said);
  fields(io, outbound.set_up);
  fields(io, outbound.name);
  const bool asked = outbound.stage == Stage::kAsked;
  if (asked || outbound.stage == Stage::kStream) fields(io, outbound.relay);
  if (outbound.stage == Stage::kSockets) fields(io, outbound.sockets);
  if constexpr (Codec::kReads) {
    const bool own = static_cast<bool>(outbound.application);
    const bool relays = static_cast<bool>(outbound.relay.application);
    if (outbound.stage == Stage::kSettingUp) io.check(own);
    if (asked) io.check(own != relays && !outbound.relay.relaying && !outbound.set_up.identity.empty());
    if (outbound.stage == Stage::kStream) io.check(!own && relays && outbound.relay.relaying);
    if (outbound.stage == Stage::kSockets) io.check(!own);
  }
}

template <class Codec>
void fields(Codec& io, InboundState& inbound) {
  io.choice(inbound.stage, Stage::kSockets);
  io.check(inbound.stage == Stage::kSettingUp || inbound.stage == Stage::kSockets);
  fields(io, inbound.record);
  io.address(inbound.peer);
  io.socket(inbound.fd);
  io.block(inbound.received);
  fields(io, inbound.name);
  if (inbound.stage == Stage::kSockets) fields(io, inbound.sockets);
  if constexpr (Codec::kReads)
    io.check(static_cast<bool>(inbound.fd) == (inbound.stage == Stage::kSettingUp));
}

template <class Codec>
void fields(Codec& io, InboundStreamState& stream) {
  io.choice(stream.stage, Stage::kSockets);
  io.check(stream.stage == Stage::kSettingUp || stream.stage == Stage::kStream);
  fields(io, stream.record);
  for (std::string* text : {&stream.request.authority, &stream.request.forwarded, &stream.request.baggage,
                            &stream.request.traceparent}) {
    Buffer bytes;  // as long as a header list may be
    if constexpr (!Codec::kReads) bytes.append(*text);
    io.block(bytes);
    io.check(bytes.size() <= hbone::kMaxHeaderList);
    if constexpr (Codec::kReads) text->assign(bytes.span().begin(), bytes.span().end());
  }
  fields(io, stream.name);
  fields(io, stream.relay);
  if constexpr (Codec::kReads) {
    const bool relaying = stream.stage == Stage::kStream;
    io.check(stream.relay.relaying == relaying);
    io.check(static_cast<bool>(stream.relay.application) == relaying);
  }
}

template <class Codec>
void fields(Codec& io, OutboundTunnelState& tunnel) {
  io.address(tunnel.address);
  fields(io, tunnel.identity);
  io.flag(tunnel.in_place);
  io.number(tunnel.peer_limit);
  fields(io, tunnel.tunnel);
  io.list(tunnel.connections, kMaxMovedStreams);
}

template <class Codec>
void fields(Codec& io, InboundTunnelState& tunnel) {
  io.address(tunnel.local);
  io.address(tunnel.peer);
  io.flag(tunnel.in_place);
  fields(io, tunnel.tunnel);
  io.list(tunnel.streams, kMaxMovedStreams);
}

template <class Codec>
void secrets(Codec& io, RecordSocketState& records) {
  for (tls::RecordState* state : {&records.seal, &records.open}) {
    tls::TrafficSecret& secret = state->secret;
    auto suite = static_cast<uint32_t>(secret.suite);
    auto length = static_cast<uint32_t>(secret.length);
    io.number(suite);
    io.number(length);
    const bool aes128 = suite == static_cast<uint32_t>(tls::CipherSuite::kAes128GcmSha256);
    io.check(aes128 || suite == static_cast<uint32_t>(tls::CipherSuite::kAes256GcmSha384));
    io.check(length == (aes128 ? 32u : 48u));
    io.raw(secret.bytes);
    secret.suite = static_cast<tls::CipherSuite>(suite);
    secret.length = std::min<size_t>(length, secret.bytes.size());
  }
}

// ---- what belongs together
// --------------------------------------------------------------------------------------------------------

// Every stream has one connection, and every connection its own stream.
template <class Connections>
bool paired(const hbone::ConnectionState& http2, const Connections& connections) {
  std::unordered_set<hbone::StreamId> streams;
  for (const hbone::StreamState& stream : http2.streams) streams.insert(stream.id);
  if (streams.size() != connections.size()) return false;
  for (const auto& connection : connections) {
    if (!connection.relay.on_stream || streams.erase(connection.relay.stream) == 0) return false;
  }
  return true;
}

bool holds_together(const OutboundTunnelState& tunnel) {
  const bool stages = std::ranges::all_of(tunnel.connections, [](const OutboundState& connection) {
    return connection.stage == Stage::kAsked || connection.stage == Stage::kStream;
  });
  return stages && tunnel.tunnel.streams.role == hbone::Connection::Role::kClient &&
         paired(tunnel.tunnel.streams, tunnel.connections);
}

bool holds_together(const InboundTunnelState& tunnel) {
  return tunnel.tunnel.streams.role == hbone::Connection::Role::kServer &&
         paired(tunnel.tunnel.streams, tunnel.streams);
}

// Without a tunnel: both directions are through, but for what waits for the application.
bool only_delivers(const StreamRelayState& relay) {
  return relay.relaying && !relay.on_stream && relay.peer_ended && relay.read_side_closed;
}

bool holds_together(const OutboundState& connection) {
  if (connection.stage == Stage::kStream) return only_delivers(connection.relay);
  return !connection.relay.on_stream && (connection.stage != Stage::kAsked || connection.relay.status != 0);
}

bool holds_together(const InboundStreamState& stream) {
  return only_delivers(stream.relay);
}

bool holds_together(const InboundState&) {
  return true;
}

template <class Codec, class State>
void everything(Codec& io, State& state) {
  fields(io, state);
  if constexpr (requires { state.tunnel.records; }) {
    secrets(io, state.tunnel.records);
  }
}

template <class Codec>
void write_all(Codec& out, Moved& moved) {
  uint32_t version = kParcelVersion;
  out.number(version);
  auto kind = static_cast<uint8_t>(moved.what.index());
  out.number(kind);
  out.number(moved.pod);
  std::visit([&](auto& state) { everything(out, state); }, moved.what);
}

template <size_t Kind = 0>
bool read_kind(uint8_t kind, Reader& in, Moved& moved) {
  if constexpr (Kind < std::variant_size_v<decltype(moved.what)>) {
    if (kind != Kind) return read_kind<Kind + 1>(kind, in, moved);
    auto& state = moved.what.template emplace<Kind>();
    everything(in, state);
    return in.good() && in.at_end() && holds_together(state);
  }
  return false;
}

}  // namespace

Parcel pack_parcel(Moved moved) {
  Counter counter;
  write_all(counter, moved);
  Parcel parcel;
  (void)parcel.bytes.prepare(counter.bytes());
  Writer out(parcel);
  write_all(out, moved);
  return parcel;
}

Result<Moved> unpack_parcel(Parcel parcel) {
  const auto refuse = [](std::string why) {
    return Error(ErrorKind::kProtocol, "parcel: " + std::move(why));
  };
  if (parcel.bytes.size() > kMaxParcel) return refuse("too long");
  Reader in(parcel);
  uint32_t version = 0;
  in.number(version);
  if (!in.good() || version < kOldestParcelVersion || version > kParcelVersion)
    return refuse(fmt::format("version {}", version));
  Moved moved;
  uint8_t kind = 0;
  in.number(kind);
  in.number(moved.pod);
  if (!read_kind(kind, in, moved))
    return refuse(fmt::format("kind {} of {} bytes with {} file descriptors does not read", kind,
                              parcel.bytes.size(), parcel.fds.size()));
  return moved;
}

}  // namespace fairlead::proxy
