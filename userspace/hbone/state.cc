#include "hbone/state.h"

#include <unordered_set>

#include "base/bytes.h"
#include "hbone/connection_impl.h"

namespace fairlead::hbone {
namespace {

constexpr size_t kMaxTableFields = 4096 / 32;  // each counts 32 bytes besides its text (RFC 7541 §4.1)
constexpr size_t kMaxMovedStreams = 65536;

Error malformed(std::string_view what) {
  return {ErrorKind::kProtocol, fmt::format("state of an HTTP/2 connection: {}", what)};
}

uint8_t flags_of(std::initializer_list<bool> flags) {
  uint8_t bits = 0;
  for (const bool flag : flags) bits = static_cast<uint8_t>(bits << 1 | (flag ? 1 : 0));
  return bits;
}

// ---- writing

void write_block(ByteWriter& out, std::span<const uint8_t> bytes) {
  out.u32(static_cast<uint32_t>(bytes.size()));
  out.bytes(bytes);
}

void write_stream(ByteWriter& out, const StreamState& stream) {
  out.u32(stream.id);
  out.u64(static_cast<uint64_t>(stream.send_window));
  out.u64(static_cast<uint64_t>(stream.receive_window));
  out.u32(stream.window);
  out.u32(stream.unacknowledged);
  out.u64(stream.moved);
  out.u8(
      flags_of({stream.local_closed, stream.remote_closed, stream.opened, stream.answered, stream.blocked}));
}

void write_table(ByteWriter& out, const TableState& table) {
  out.u32(table.limit);
  out.u16(static_cast<uint16_t>(table.fields.size()));
  for (const auto& [name, value] : table.fields) {
    out.string16(name);
    out.string16(value);
  }
}

void write_reading(ByteWriter& out, const ConnectionState& state) {
  out.u8(static_cast<uint8_t>(state.reading));
  out.bytes(state.header_bytes);
  out.u8(state.header_fill);
  out.u8(state.preface_fill);
  out.u32(state.current.length);
  out.u8(static_cast<uint8_t>(state.current.type));
  out.u8(state.current.flags);
  out.u32(state.current.stream);
  write_block(out, state.payload.span());
  out.u32(state.data_left);
  out.u8(state.padding);
  write_block(out, state.header_block.span());
  out.u32(state.header_stream);
  out.u8(state.continuations);
  out.u8(
      flags_of({state.padding_known, state.data_dropped, state.first_frame_seen, state.header_end_stream}));
}

// ---- reading

struct Flags {
  uint8_t bits;
  bool take() {  // the last one that was written first
    const bool flag = (bits & 1) != 0;
    bits >>= 1;
    return flag;
  }
};

Buffer read_block(ByteReader& in) {
  Buffer block;
  block.append(in.take(in.u32()));
  return block;
}

StreamState read_stream(ByteReader& in, bool& good) {
  StreamState stream;
  stream.id = in.u32();
  stream.send_window = static_cast<int64_t>(in.u64());
  stream.receive_window = static_cast<int64_t>(in.u64());
  stream.window = in.u32();
  stream.unacknowledged = in.u32();
  stream.moved = in.u64();
  Flags flags{in.u8()};
  stream.blocked = flags.take();
  stream.answered = flags.take();
  stream.opened = flags.take();
  stream.remote_closed = flags.take();
  stream.local_closed = flags.take();
  good = good && flags.bits == 0;
  return stream;
}

bool read_table(ByteReader& in, TableState& table) {
  table.limit = in.u32();
  const size_t count = in.u16();
  if (count > kMaxTableFields) return false;
  for (size_t i = 0; i < count && in.ok(); ++i) {
    std::string name = in.string16();
    std::string value = in.string16();
    table.fields.push_back({std::move(name), std::move(value)});
  }
  return true;
}

bool read_reading(ByteReader& in, ConnectionState& state) {
  state.reading = static_cast<Reading>(in.u8());
  const auto header = in.take(kFrameHeader);
  std::copy(header.begin(), header.end(), state.header_bytes.begin());
  state.header_fill = in.u8();
  state.preface_fill = in.u8();
  state.current.length = in.u32();
  state.current.type = static_cast<FrameType>(in.u8());
  state.current.flags = in.u8();
  state.current.stream = in.u32();
  state.payload = read_block(in);
  state.data_left = in.u32();
  state.padding = in.u8();
  state.header_block = read_block(in);
  state.header_stream = in.u32();
  state.continuations = in.u8();
  Flags flags{in.u8()};
  state.header_end_stream = flags.take();
  state.first_frame_seen = flags.take();
  state.data_dropped = flags.take();
  state.padding_known = flags.take();
  return flags.bits == 0;
}

// ---- what a Connection could not be in

bool is_window(int64_t window) {
  return window >= -int64_t{kMaxWindow} && window <= int64_t{kMaxWindow};
}

bool good_settings(const ConnectionState& state) {
  const Settings& ours = state.settings;
  return ours.initial_window <= kMaxWindow && ours.max_window <= kMaxWindow &&
         ours.max_frame >= kDefaultMaxFrame && ours.max_frame <= 0xffffff &&
         state.peer_initial_window <= kMaxWindow && state.peer_max_frame >= kDefaultMaxFrame &&
         state.peer_max_frame <= 0xffffff;
}

bool good_reading(const ConnectionState& state) {
  const bool inside = state.data_left > 0 && state.data_left <= state.current.length;
  if (state.header_fill >= kFrameHeader || state.current.length > 0xffffff ||
      state.header_block.size() > kMaxHeaderBlock || state.continuations > kMaxContinuations ||
      (state.reading != Reading::kHeader && state.header_fill != 0) ||
      (state.reading != Reading::kPayload && !state.payload.empty()))
    return false;
  switch (state.reading) {
    case Reading::kPreface:
      return state.role == Connection::Role::kServer && state.preface_fill < kPreface.size();
    case Reading::kHeader: return true;
    case Reading::kData:
      return inside && state.current.type == FrameType::kData && state.padding <= state.data_left;
    case Reading::kPayload:
      return state.payload.size() < state.current.length && state.current.length <= kMaxHeaderBlock;
    case Reading::kSkipped: return inside;
  }
  return false;
}

bool good_stream(const ConnectionState& state, const StreamState& stream) {
  const bool client = state.role == Connection::Role::kClient;
  return stream.id % 2 == 1 && (client ? stream.id < state.next_local : stream.id <= state.highest_remote) &&
         is_window(stream.send_window) && is_window(stream.receive_window) && stream.window <= kMaxWindow &&
         stream.unacknowledged <= kMaxWindow && !(stream.local_closed && stream.remote_closed);
}

bool good_streams(const ConnectionState& state) {
  std::unordered_set<StreamId> seen;
  bool may_be_blocked = true;  // those that are held back come first
  for (const StreamState& stream : state.streams) {
    if (!good_stream(state, stream) || !seen.insert(stream.id).second) return false;
    if (stream.blocked && !may_be_blocked) return false;
    may_be_blocked = stream.blocked;
  }
  return state.next_local % 2 == 1 && state.next_local <= kMaxWindow + 2 &&
         state.highest_remote <= kMaxWindow && is_window(state.send_window);
}

}  // namespace

void encode(const ConnectionState& state, Buffer& buffer) {
  ByteWriter out(buffer);
  out.u8(state.role == Connection::Role::kServer ? 1 : 0);
  out.u32(state.settings.initial_window);
  out.u32(state.settings.max_window);
  out.u32(state.settings.max_frame);
  out.u32(state.settings.max_concurrent_streams);
  out.u64(state.settings.bulk_after);
  write_block(out, state.output.span());
  write_table(out, state.table);
  out.u32(state.encoder_limit);
  write_reading(out, state);
  out.u32(static_cast<uint32_t>(state.streams.size()));
  for (const StreamState& stream : state.streams) write_stream(out, stream);
  out.u32(state.next_local);
  out.u32(state.highest_remote);
  out.u64(static_cast<uint64_t>(state.send_window));
  out.u32(state.received_since_update);
  out.u32(state.peer_initial_window);
  out.u32(state.peer_max_frame);
  out.u64(state.peer_max_streams);
  out.u64(state.pongs);
  out.u32(state.idle_frames);
  out.u32(state.reset_debt);
  for (const Ended& ended : state.ended) {
    out.u32(ended.id);
    out.u8(static_cast<uint8_t>(ended.end));
  }
  out.u8(static_cast<uint8_t>(state.leaving));
  out.u8(flags_of({state.settings_seen, state.goaway_received}));
}

namespace {

// False: a field out of its range. Running past the end shows in the reader.
bool read(ByteReader& in, ConnectionState& state) {
  const uint8_t role = in.u8();
  state.role = role == 1 ? Connection::Role::kServer : Connection::Role::kClient;
  bool good = role <= 1;
  state.settings.initial_window = in.u32();
  state.settings.max_window = in.u32();
  state.settings.max_frame = in.u32();
  state.settings.max_concurrent_streams = in.u32();
  state.settings.bulk_after = in.u64();
  state.output = read_block(in);
  good = good && read_table(in, state.table);
  state.encoder_limit = in.u32();
  good = good && read_reading(in, state);
  const size_t streams = in.u32();
  good = good && streams <= kMaxMovedStreams;
  for (size_t i = 0; i < streams && good && in.ok(); ++i) state.streams.push_back(read_stream(in, good));
  state.next_local = in.u32();
  state.highest_remote = in.u32();
  state.send_window = static_cast<int64_t>(in.u64());
  state.received_since_update = in.u32();
  state.peer_initial_window = in.u32();
  state.peer_max_frame = in.u32();
  state.peer_max_streams = in.u64();
  state.pongs = in.u64();
  state.idle_frames = in.u32();
  state.reset_debt = in.u32();
  for (Ended& ended : state.ended) {
    ended.id = in.u32();
    ended.end = static_cast<End>(in.u8());
    good = good && ended.end <= End::kByPeer;
  }
  state.leaving = static_cast<Leaving>(in.u8());
  Flags flags{in.u8()};
  state.goaway_received = flags.take();
  state.settings_seen = flags.take();
  return good && flags.bits == 0 && state.leaving <= Leaving::kSaid && state.idle_frames <= kMaxIdleFrames &&
         state.reset_debt <= kMaxResetDebt && state.received_since_update < kConnectionTopUp &&
         state.output.size() <= 2 * kMaxOutputHard;
}

}  // namespace

Result<ConnectionState> decode(std::span<const uint8_t> bytes) {
  ByteReader in(bytes);
  ConnectionState state;
  if (!read(in, state)) return malformed("a field is out of its range");
  if (!in.ok() || !in.at_end()) return malformed("wrong length");
  if (!good_settings(state)) return malformed("settings that nobody may have");
  if (!good_reading(state)) return malformed("a frame that cannot be half read so");
  if (!good_streams(state)) return malformed("streams that cannot be");
  return state;
}

// ---- Connection

ConnectionState Connection::Impl::state() const {
  ConnectionState state;
  state.role = role;
  state.settings = settings;
  state.output.append(output.span());
  state.table = decoder.table();
  state.encoder_limit = encoder.table_limit();
  state.reading = reading;
  state.header_bytes = header_bytes;
  state.header_fill = static_cast<uint8_t>(header_fill);
  state.preface_fill = static_cast<uint8_t>(preface_fill);
  state.current = current;
  state.payload.append(payload.span());
  state.data_left = data_left;
  state.padding = static_cast<uint8_t>(padding);
  state.padding_known = padding_known;
  state.data_dropped = data_dropped;
  state.first_frame_seen = first_frame_seen;
  state.header_block.append(header_block.span());
  state.header_stream = header_stream;
  state.header_end_stream = header_end_stream;
  state.continuations = static_cast<uint8_t>(continuations);
  const auto add = [&state](const Stream& stream) {
    state.streams.push_back({stream.id, stream.send_window, stream.receive_window, stream.window,
                             stream.unacknowledged, stream.moved, stream.local_closed, stream.remote_closed,
                             stream.opened, stream.answered, stream.blocked});
  };
  for (const Stream* stream = blocked.front(); stream != nullptr; stream = stream->next_blocked) add(*stream);
  for (const auto& [id, stream] : streams) {
    if (!stream.blocked) add(stream);
  }
  state.next_local = next_local;
  state.highest_remote = highest_remote;
  state.send_window = send_window;
  state.received_since_update = received_since_update;
  state.peer_initial_window = peer_initial_window;
  state.peer_max_frame = peer_max_frame;
  state.peer_max_streams = peer_max_streams;
  state.pongs = pongs;
  state.idle_frames = static_cast<uint32_t>(idle_frames);
  state.reset_debt = static_cast<uint32_t>(reset_debt);
  for (size_t i = 0; i < ended.size(); ++i) state.ended[i] = ended[(ended_next + i) % ended.size()];
  state.leaving = leaving;
  state.settings_seen = settings_seen;
  state.goaway_received = goaway_received;
  return state;
}

Result<void> Connection::Impl::resume(ConnectionState state) {
  if (state.role != role) return malformed("another role");
  FL_TRY(decoder.resume(state.table));
  encoder.begin_anew(state.encoder_limit);
  settings = state.settings;
  output = std::move(state.output);
  reading = state.reading;
  header_bytes = state.header_bytes;
  header_fill = state.header_fill;
  preface_fill = state.preface_fill;
  current = state.current;
  payload = std::move(state.payload);
  data_left = state.data_left;
  padding = state.padding;
  padding_known = state.padding_known;
  data_dropped = state.data_dropped;
  first_frame_seen = state.first_frame_seen;
  header_block = std::move(state.header_block);
  header_stream = state.header_stream;
  header_end_stream = state.header_end_stream;
  continuations = state.continuations;
  for (const StreamState& was : state.streams) {
    Stream& stream = streams[was.id];
    stream.id = was.id;
    stream.send_window = was.send_window;
    stream.receive_window = was.receive_window;
    stream.window = was.window;
    stream.unacknowledged = was.unacknowledged;
    stream.local_closed = was.local_closed;
    stream.remote_closed = was.remote_closed;
    stream.opened = was.opened;
    stream.answered = was.answered;
    count(stream, was.moved);
    if (was.blocked) blocked.push(stream);
  }
  next_local = state.next_local;
  highest_remote = state.highest_remote;
  send_window = state.send_window;
  received_since_update = state.received_since_update;
  peer_initial_window = state.peer_initial_window;
  peer_max_frame = state.peer_max_frame;
  peer_max_streams = state.peer_max_streams;
  pongs = state.pongs;
  idle_frames = static_cast<int>(state.idle_frames);
  reset_debt = static_cast<int>(state.reset_debt);
  ended = state.ended;
  ended_next = 0;
  leaving = state.leaving;
  settings_seen = state.settings_seen;
  goaway_received = state.goaway_received;
  return {};
}

ConnectionState Connection::state() const {
  return impl_->state();
}
Result<void> Connection::resume(ConnectionState state) {
  return impl_->resume(std::move(state));
}
void Connection::attach(StreamId id, StreamHandler& handler) noexcept {
  Stream* stream = impl_->find(id);
  if (stream != nullptr) stream->handler = &handler;
}

}  // namespace fairlead::hbone
