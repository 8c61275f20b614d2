// The receiving half of a Connection: bytes in any split → frames → streams.
#include <algorithm>

#include "hbone/connection_impl.h"

namespace fairlead::hbone {

Result<void> Connection::Impl::receive(std::span<const uint8_t> in) {
  Result<void> result;
  while (!in.empty() && result && !dead) {
    size_t used = 0;
    switch (reading) {
      case Reading::kPreface: used = take_preface(in, result); break;
      case Reading::kHeader: used = take_header(in, result); break;
      case Reading::kData: used = take_data(in, result); break;
      case Reading::kPayload: used = take_payload(in, result); break;
      case Reading::kSkipped: used = take_skipped(in); break;
    }
    in = in.subspan(used);
  }
  if (result && output.size() > kMaxOutputHard) result = flood(Fault::kNotReading, "the peer does not read");
  if (result && dead) return Error(ErrorKind::kClosed, "HTTP/2: the connection is over");
  return result;
}

size_t Connection::Impl::take_preface(std::span<const uint8_t> in, Result<void>& result) {
  const size_t count = std::min(in.size(), kPreface.size() - preface_fill);
  const auto expected = kPreface.substr(preface_fill, count);
  if (!std::equal(expected.begin(), expected.end(), in.begin(),
                  [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; })) {
    result = fail(ErrorCode::kProtocolError, "no connection preface");
    return count;
  }
  preface_fill += count;
  if (preface_fill == kPreface.size()) reading = Reading::kHeader;
  return count;
}

size_t Connection::Impl::take_header(std::span<const uint8_t> in, Result<void>& result) {
  size_t used = kFrameHeader;
  if (header_fill == 0 && in.size() >= kFrameHeader) {
    current = parse_header(in.data());
  } else {
    used = std::min(in.size(), kFrameHeader - header_fill);
    std::copy_n(in.begin(), used, header_bytes.begin() + static_cast<ptrdiff_t>(header_fill));
    header_fill += used;
    if (header_fill < kFrameHeader) return used;
    header_fill = 0;
    current = parse_header(header_bytes.data());
  }
  result = begin_frame();
  return used;
}

Result<void> Connection::Impl::begin_frame() {
  if (!first_frame_seen && (current.type != FrameType::kSettings || current.has(kFlagAck))) {
    return fail(ErrorCode::kProtocolError, "the first frame is not SETTINGS");
  }
  first_frame_seen = true;
  if (current.length > settings.max_frame) return fail(ErrorCode::kFrameSizeError, "frame too long");
  if (header_stream != 0 && (current.type != FrameType::kContinuation || current.stream != header_stream)) {
    return fail(ErrorCode::kProtocolError, "a header block was interrupted");
  }
  if (current.type == FrameType::kData) return begin_data();
  if (current.type > FrameType::kContinuation) return begin_unknown();
  const bool carries_headers =
      current.type == FrameType::kHeaders || current.type == FrameType::kContinuation;
  if (current.length > (carries_headers ? kMaxHeaderBlock : kMaxControlPayload)) {
    if (carries_headers) return flood(Fault::kContinuation, "header block too long");
    return fail(ErrorCode::kFrameSizeError, "payload too long");
  }
  reading = Reading::kPayload;
  // A frame without payload is complete with its header.
  if (current.length != 0) return {};
  reading = Reading::kHeader;
  return frame({});
}

size_t Connection::Impl::take_payload(std::span<const uint8_t> in, Result<void>& result) {
  const size_t missing = current.length - payload.size();
  const size_t used = std::min(missing, in.size());
  if (payload.empty() && used == missing) {
    reading = Reading::kHeader;
    result = frame(in.first(used));
    return used;
  }
  payload.append(in.first(used));
  if (used < missing) return used;
  reading = Reading::kHeader;
  Buffer whole;
  whole.swap(payload);
  result = frame(whole.span());
  return used;
}

// Unknown types are ignored, however long (RFC 9113 §5.5).
Result<void> Connection::Impl::begin_unknown() {
  data_left = current.length;
  reading = data_left == 0 ? Reading::kHeader : Reading::kSkipped;
  return idle_frame();
}

size_t Connection::Impl::take_skipped(std::span<const uint8_t> in) {
  const size_t used = std::min<size_t>(in.size(), data_left);
  data_left -= static_cast<uint32_t>(used);
  if (data_left == 0) reading = Reading::kHeader;
  return used;
}

Fault Connection::Impl::kind_of_flood() const noexcept {
  switch (current.type) {
    case FrameType::kData: return Fault::kEmptyData;
    case FrameType::kPing: return Fault::kPing;
    case FrameType::kSettings: return Fault::kSettings;
    case FrameType::kPriority: return Fault::kPriority;
    case FrameType::kWindowUpdate: return Fault::kWindowUpdate;
    default: return Fault::kOtherFrames;
  }
}

Result<void> Connection::Impl::idle_frame() {
  if (++idle_frames > kMaxIdleFrames) return flood(kind_of_flood(), "too many frames without data");
  return {};
}

bool Connection::Impl::never_opened(StreamId id) const noexcept {
  const bool local = (id % 2 == 1) == (role == Role::kClient);
  return local ? id >= next_local : id > highest_remote;
}

// ---- DATA
// ---------------------------------------------------------------------------------------------------------------

Result<void> Connection::Impl::begin_data() {
  if (current.stream == 0) return fail(ErrorCode::kProtocolError, "DATA on stream 0");
  if (never_opened(current.stream)) return fail(ErrorCode::kProtocolError, "DATA on an idle stream");
  // The connection window counts every byte, padding and streams that are gone included.
  received_since_update += current.length;
  if (received_since_update >= kConnectionTopUp) {
    send_window_update(0, received_since_update);
    received_since_update = 0;
  }
  Stream* stream = find(current.stream);
  data_dropped = stream == nullptr;
  // What crossed our RST_STREAM is dropped; a peer that had ended the stream itself has no such excuse
  // (RFC 9113 §5.1).
  const End end = data_dropped ? end_of(current.stream) : End::kNotKnown;
  if (end == End::kInOrder || end == End::kByPeer)
    return fail(ErrorCode::kStreamClosed, "DATA on a closed stream");
  if (stream != nullptr) {
    if (stream->remote_closed) return fail(ErrorCode::kStreamClosed, "DATA behind END_STREAM");
    if (role == Role::kClient && !stream->answered)
      return fail(ErrorCode::kProtocolError, "DATA before HEADERS");
    stream->receive_window -= current.length;
    if (stream->receive_window < 0) return fail(ErrorCode::kFlowControlError, "stream window exceeded");
  }
  if (current.length == 0 || data_dropped) FL_TRY(idle_frame());
  data_left = current.length;
  padding = 0;
  padding_known = !current.has(kFlagPadded);
  if (!padding_known && data_left == 0)
    return fail(ErrorCode::kFrameSizeError, "padded DATA without a length");
  reading = Reading::kData;
  return data_left == 0 ? end_of_data() : Result<void>();
}

size_t Connection::Impl::take_data(std::span<const uint8_t> in, Result<void>& result) {
  size_t used = 0;
  if (!padding_known) {
    padding = in[0];
    padding_known = true;
    used = 1;
    --data_left;
    if (padding > data_left) {
      result = fail(ErrorCode::kProtocolError, "padding longer than the frame");
      return used;
    }
    if (padding == data_left) result = idle_frame();
    if (!result) return used;
    consume(current.stream, padding + 1);  // never reaches the handler
  }
  const auto rest = in.subspan(used);
  const size_t payload_left = data_left - padding;
  const size_t chunk = std::min(rest.size(), payload_left);
  const size_t skip = chunk == payload_left ? std::min<size_t>(rest.size() - chunk, padding) : 0;
  data_left -= static_cast<uint32_t>(chunk + skip);
  padding -= static_cast<uint32_t>(skip);
  if (chunk > 0) data_chunk(rest.first(chunk));
  if (result && !dead && data_left == 0) result = end_of_data();
  return used + chunk + skip;
}

void Connection::Impl::data_chunk(std::span<const uint8_t> chunk) {
  Stream* stream = find(current.stream);
  if (stream == nullptr) return;  // reset meanwhile: dropped
  count(*stream, chunk.size());
  idle_frames = 0;
  if (gathered_for != current.stream || gathered.size() >= kMaxPieces) deliver();
  gathered_for = current.stream;
  gathered.push_back(chunk);
}

Connection::OpenData Connection::open_data() const noexcept {
  const Impl& impl = *impl_;
  if (impl.reading != Reading::kData || !impl.padding_known || impl.padding != 0 || impl.dead)
    return {};
  const Stream* stream = impl.find(impl.current.stream);
  if (stream == nullptr) return {};
  return {stream->handler, impl.data_left};
}

Result<void> Connection::skip_data(size_t bytes) {
  Impl& impl = *impl_;
  impl.data_left -= static_cast<uint32_t>(bytes);
  impl.idle_frames = 0;
  Stream* stream = impl.find(impl.current.stream);
  if (stream != nullptr) impl.count(*stream, bytes);
  return impl.data_left == 0 && !impl.dead ? impl.end_of_data() : Result<void>();
}

// A handler may reset its stream, whose data is then dropped, or others.
void Connection::Impl::deliver() {
  if (gathered.empty()) return;
  Stream* stream = find(gathered_for);
  if (stream != nullptr && stream->handler != nullptr) stream->handler->on_data(gathered);
  gathered.clear();
}

Result<void> Connection::Impl::end_of_data() {
  reading = Reading::kHeader;
  Stream* stream = find(current.stream);
  if (stream == nullptr || !current.has(kFlagEndStream)) return {};
  if (gathered_for == current.stream) deliver();
  stream = find(current.stream);  // its handler may have reset it
  if (stream == nullptr) return {};
  stream->remote_closed = true;
  if (stream->handler != nullptr) stream->handler->on_end();
  close_if_done(current.stream);
  return {};
}

// ---- everything else
// ----------------------------------------------------------------------------------------------------

Result<void> Connection::Impl::frame(std::span<const uint8_t> body) {
  switch (current.type) {
    case FrameType::kData: return {};  // handled while it streams in
    case FrameType::kHeaders: return on_headers_frame(body);
    case FrameType::kContinuation: return on_continuation(body);
    case FrameType::kSettings: return on_settings(body);
    case FrameType::kWindowUpdate: return on_window_update(body);
    case FrameType::kRstStream: return on_rst(body);
    case FrameType::kPing: return on_ping(body);
    case FrameType::kGoaway: return on_goaway(body);
    case FrameType::kPushPromise: return fail(ErrorCode::kProtocolError, "PUSH_PROMISE was not allowed");
    case FrameType::kPriority:
      if (current.stream == 0) return fail(ErrorCode::kProtocolError, "PRIORITY on stream 0");
      if (body.size() != 5) return fail(ErrorCode::kFrameSizeError, "PRIORITY of wrong length");
      return idle_frame();
  }
  return idle_frame();  // unknown types are ignored (RFC 9113 §5.5)
}

Result<void> Connection::Impl::on_headers_frame(std::span<const uint8_t> body) {
  if (current.stream == 0) return fail(ErrorCode::kProtocolError, "HEADERS on stream 0");
  size_t pad = 0;
  if (current.has(kFlagPadded)) {
    if (body.empty()) return fail(ErrorCode::kFrameSizeError, "padded HEADERS without a length");
    pad = body[0];
    body = body.subspan(1);
  }
  if (current.has(kFlagPriority)) {
    if (body.size() < 5) return fail(ErrorCode::kFrameSizeError, "HEADERS too short for its priority");
    body = body.subspan(5);
  }
  if (pad > body.size()) return fail(ErrorCode::kProtocolError, "padding longer than the frame");
  header_block.clear();
  header_block.append(body.first(body.size() - pad));
  header_end_stream = current.has(kFlagEndStream);
  header_stream = current.stream;
  continuations = 0;
  return current.has(kFlagEndHeaders) ? headers_complete() : Result<void>();
}

Result<void> Connection::Impl::on_continuation(std::span<const uint8_t> body) {
  if (header_stream == 0) return fail(ErrorCode::kProtocolError, "CONTINUATION without HEADERS");
  if (++continuations > kMaxContinuations || header_block.size() + body.size() > kMaxHeaderBlock) {
    return flood(Fault::kContinuation, "endless header block");
  }
  header_block.append(body);
  return current.has(kFlagEndHeaders) ? headers_complete() : Result<void>();
}

// The block is decoded in any case: the HPACK table must stay in step.
Result<void> Connection::Impl::headers_complete() {
  const StreamId id = header_stream;
  header_stream = 0;
  auto list = decoder.decode(header_block.span());
  header_block.release();
  if (!list) {
    if (list.error().kind() == ErrorKind::kExhausted) return flood(Fault::kHeaderList, list.error().text());
    return fail(ErrorCode::kCompressionError, list.error().text());
  }
  current.stream = id;
  Stream* stream = find(id);
  if (stream == nullptr && never_opened(id)) {
    if (role == Role::kClient || id % 2 == 0)
      return fail(ErrorCode::kProtocolError, "HEADERS on an idle stream");
    return request_headers(std::move(*list));
  }
  if (stream == nullptr) return headers_on_closed(id);
  if (role == Role::kClient && !stream->answered) return response_headers(*stream, *list);
  // Only DATA goes over a connected stream (RFC 9113 §8.5): there are no trailers.
  return break_stream(id, stream->remote_closed ? ErrorCode::kStreamClosed : ErrorCode::kProtocolError);
}

Result<void> Connection::Impl::headers_on_closed(StreamId id) {
  switch (end_of(id)) {
    case End::kByUs: return idle_frame();  // crossed our RST_STREAM
    case End::kInOrder:
    case End::kByPeer: return fail(ErrorCode::kStreamClosed, "HEADERS on a closed stream");
    case End::kNotKnown: break;
  }
  // Of a server it is a late answer, of a client the id goes backwards (RFC 9113 §5.1.1).
  if (role == Role::kClient) return idle_frame();
  return fail(ErrorCode::kProtocolError, "HEADERS on an old stream");
}

Result<void> Connection::Impl::request_headers(HeaderList list) {
  const StreamId id = current.stream;
  highest_remote = id;
  if (leaving == Leaving::kSaid || streams.size() >= settings.max_concurrent_streams) {
    send_rst(id, ErrorCode::kRefusedStream);
    remember(id, End::kByUs);
    return owe_reset(Fault::kTooManyStreams, 1);
  }
  idle_frames = 0;
  add(id, nullptr).remote_closed = header_end_stream;
  if (!list.broken_request().empty()) return break_stream(id, ErrorCode::kProtocolError);
  if (list.method != "CONNECT" || list.authority.empty()) {
    handler.on_fault(Fault::kRequest);
    respond(id, 400);
    return {};
  }
  StreamHandler* stream_handler = handler.on_connect(id, list.request);
  Stream* still = find(id);  // on_connect may have answered or reset it
  if (still == nullptr) return {};
  if (stream_handler == nullptr) {
    reset_by_us(id, ErrorCode::kRefusedStream);
    return {};
  }
  still->handler = stream_handler;
  if (header_end_stream) stream_handler->on_end();
  return {};
}

Result<void> Connection::Impl::response_headers(Stream& stream, const HeaderList& list) {
  const StreamId id = stream.id;
  if (list.broken_response(header_end_stream)) return break_stream(id, ErrorCode::kProtocolError);
  if (list.status < 200) return idle_frame();  // interim answers are skipped
  const bool ends = header_end_stream;
  stream.answered = true;
  stream.handler->on_response(list.status);
  Stream* still = find(id);
  if (still == nullptr || !ends) return {};
  still->remote_closed = true;
  still->handler->on_end();
  close_if_done(id);
  return {};
}

Result<void> Connection::Impl::on_settings(std::span<const uint8_t> body) {
  if (current.stream != 0) return fail(ErrorCode::kProtocolError, "SETTINGS on a stream");
  if (current.has(kFlagAck)) {
    if (!body.empty()) return fail(ErrorCode::kFrameSizeError, "SETTINGS ack with payload");
    return idle_frame();
  }
  if (body.size() % 6 != 0) return fail(ErrorCode::kFrameSizeError, "SETTINGS of wrong length");
  if (!settings_seen) peer_max_streams = SIZE_MAX;
  settings_seen = true;
  ByteReader in(body);
  while (!in.at_end()) {
    const uint16_t id = in.u16();
    FL_TRY(apply_setting(id, in.u32()));
  }
  append_header(output, 0, FrameType::kSettings, kFlagAck, 0);
  touched();
  wake_blocked();
  return idle_frame();
}

Result<void> Connection::Impl::apply_setting(uint16_t id, uint32_t value) {
  switch (static_cast<Setting>(id)) {
    case Setting::kEnablePush:
      if (value > (role == Role::kClient ? 0 : 1))  // a server must not (RFC 9113 §6.5.2)
        return fail(ErrorCode::kProtocolError, "ENABLE_PUSH out of range");
      return {};
    case Setting::kMaxConcurrentStreams: peer_max_streams = value; return {};
    case Setting::kMaxFrameSize:
      if (value < kDefaultMaxFrame || value > 0xffffff)
        return fail(ErrorCode::kProtocolError, "MAX_FRAME_SIZE out of range");
      peer_max_frame = value;
      return {};
    case Setting::kInitialWindowSize: {
      if (value > kMaxWindow) return fail(ErrorCode::kFlowControlError, "INITIAL_WINDOW_SIZE out of range");
      const int64_t delta = static_cast<int64_t>(value) - peer_initial_window;
      peer_initial_window = value;
      for (auto& [stream_id, stream] : streams) {
        stream.send_window += delta;
        if (stream.send_window > kMaxWindow)
          return fail(ErrorCode::kFlowControlError, "window overflow by SETTINGS");
      }
      return {};
    }
    case Setting::kHeaderTableSize: encoder.limit_table(value); return {};
    case Setting::kMaxHeaderListSize: return {};
  }
  return {};  // unknown settings are ignored (RFC 9113 §6.5.2)
}

Result<void> Connection::Impl::on_window_update(std::span<const uint8_t> body) {
  if (body.size() != 4) return fail(ErrorCode::kFrameSizeError, "WINDOW_UPDATE of wrong length");
  const uint32_t increment = ByteReader(body).u32() & kMaxWindow;
  FL_TRY(idle_frame());
  if (current.stream == 0) {
    if (increment == 0) return fail(ErrorCode::kProtocolError, "WINDOW_UPDATE of 0");
    send_window += increment;
    if (send_window > kMaxWindow) return fail(ErrorCode::kFlowControlError, "connection window overflow");
    wake_blocked();
    return {};
  }
  if (never_opened(current.stream)) return fail(ErrorCode::kProtocolError, "WINDOW_UPDATE on an idle stream");
  Stream* stream = find(current.stream);
  if (stream == nullptr) return {};  // late: the stream is over
  stream->send_window += increment;
  if (increment == 0 || stream->send_window > kMaxWindow) {
    return break_stream(current.stream,
                        increment == 0 ? ErrorCode::kProtocolError : ErrorCode::kFlowControlError);
  }
  if (stream->send_window > 0) wake(*stream);
  return {};
}

Result<void> Connection::Impl::on_rst(std::span<const uint8_t> body) {
  if (body.size() != 4) return fail(ErrorCode::kFrameSizeError, "RST_STREAM of wrong length");
  if (current.stream == 0 || never_opened(current.stream))
    return fail(ErrorCode::kProtocolError, "RST_STREAM on an idle stream");
  const auto code = static_cast<ErrorCode>(ByteReader(body).u32());
  Stream* stream = find(current.stream);
  if (stream == nullptr) return idle_frame();
  const bool owed = role == Role::kServer && !stream->answered;
  remember(current.stream, End::kByPeer);
  lose(current.stream, code);
  return owed ? owe_reset(Fault::kRapidReset, 1) : Result<void>();
}

Result<void> Connection::Impl::on_ping(std::span<const uint8_t> body) {
  if (current.stream != 0) return fail(ErrorCode::kProtocolError, "PING on a stream");
  if (body.size() != 8) return fail(ErrorCode::kFrameSizeError, "PING of wrong length");
  FL_TRY(idle_frame());
  if (current.has(kFlagAck)) {
    ++pongs;
    if (leaving == Leaving::kAnnounced && ByteReader(body).u64() == kLeavingPing) {
      leaving = Leaving::kSaid;
      send_goaway(highest_remote, ErrorCode::kNoError, {});
    }
    return {};
  }
  append_header(output, 8, FrameType::kPing, kFlagAck, 0);
  output.append(body);
  touched();
  return {};
}

Result<void> Connection::Impl::on_goaway(std::span<const uint8_t> body) {
  if (current.stream != 0) return fail(ErrorCode::kProtocolError, "GOAWAY on a stream");
  if (body.size() < 8) return fail(ErrorCode::kFrameSizeError, "GOAWAY too short");
  ByteReader in(body);
  const StreamId last = in.u32() & kMaxWindow;
  const auto code = static_cast<ErrorCode>(in.u32());
  goaway_received = true;
  std::vector<StreamId> unseen;
  for (const auto& [id, stream] : streams) {
    if (role == Role::kClient && id > last) unseen.push_back(id);
  }
  for (const StreamId id : unseen) {  // never looked at by the peer: safe to try elsewhere
    if (find(id) != nullptr) lose(id, ErrorCode::kRefusedStream);
  }
  handler.on_goaway(code);
  return {};
}

}  // namespace fairlead::hbone
