#include "hbone/connection.h"

#include <algorithm>

#include "hbone/connection_impl.h"

namespace fairlead::hbone {

// ---- set-up
// -------------------------------------------------------------------------------------------------------------

Connection::Impl::Impl(Role r, const Settings& s, ConnectionHandler& h)
    : role(r), settings(s), handler(h), reading(r == Role::kServer ? Reading::kPreface : Reading::kHeader) {
  if (role == Role::kClient) output.append(kPreface);
  std::vector<std::pair<Setting, uint32_t>> mine = {
      {Setting::kInitialWindowSize, settings.initial_window},
      {Setting::kMaxFrameSize, settings.max_frame},
      {Setting::kMaxHeaderListSize, kMaxHeaderList},
  };
  if (role == Role::kClient) mine.emplace_back(Setting::kEnablePush, 0);
  if (role == Role::kServer)
    mine.emplace_back(Setting::kMaxConcurrentStreams, settings.max_concurrent_streams);
  append_header(output, static_cast<uint32_t>(mine.size() * 6), FrameType::kSettings, 0, 0);
  ByteWriter out(output);
  for (const auto& [id, value] : mine) {
    out.u16(static_cast<uint16_t>(id));
    out.u32(value);
  }
  append_header(output, 4, FrameType::kWindowUpdate, 0, 0);
  out.u32(kMaxWindow - kDefaultWindow);
}

Connection::Connection(Role role, const Settings& settings, ConnectionHandler& handler)
    : impl_(std::make_unique<Impl>(role, settings, handler)) {}
Connection::~Connection() = default;

Result<void> Connection::receive(std::span<const uint8_t> plaintext) {
  return impl_->receive(plaintext);
}
void Connection::settle() {
  impl_->deliver();
}
Buffer& Connection::output() noexcept {
  return impl_->output;
}

// ---- streams
// ------------------------------------------------------------------------------------------------------------

Stream* Connection::Impl::find(StreamId id) const noexcept {
  const auto found = streams.find(id);
  return found == streams.end() ? nullptr : const_cast<Stream*>(&found->second);
}

Stream& Connection::Impl::add(StreamId id, StreamHandler* stream_handler) {
  Stream& stream = streams[id];
  stream.id = id;
  stream.handler = stream_handler;
  stream.send_window = peer_initial_window;
  stream.receive_window = stream.window = settings.initial_window;
  return stream;
}

void Connection::Impl::touched() {
  if (!dead) handler.on_output();
}

void BlockedQueue::push(Stream& stream) noexcept {
  if (stream.blocked) return;
  stream.blocked = true;
  stream.previous_blocked = last_;
  stream.next_blocked = nullptr;
  (last_ != nullptr ? last_->next_blocked : first_) = &stream;
  last_ = &stream;
  ++size_;
}

void BlockedQueue::remove(Stream& stream) noexcept {
  if (!stream.blocked) return;
  stream.blocked = false;
  (stream.previous_blocked != nullptr ? stream.previous_blocked->next_blocked : first_) = stream.next_blocked;
  (stream.next_blocked != nullptr ? stream.next_blocked->previous_blocked : last_) = stream.previous_blocked;
  --size_;
}

StreamHandler* Connection::Impl::take_out(StreamId id) {
  const auto found = streams.find(id);
  if (found == streams.end()) return nullptr;
  StreamHandler* stream_handler = found->second.handler;
  blocked.remove(found->second);
  if (found->second.moved > settings.bulk_after) --bulk_streams;
  streams.erase(found);
  return stream_handler;
}

void Connection::Impl::count(Stream& stream, size_t bytes) noexcept {
  const bool was_bulk = stream.moved > settings.bulk_after;
  stream.moved += bytes;
  if (!was_bulk && stream.moved > settings.bulk_after) ++bulk_streams;
}

void Connection::Impl::forget(StreamId id, End end) {
  (void)take_out(id);
  remember(id, end);
  handler.on_stream_closed(id);
}

void Connection::Impl::remember(StreamId id, End end) noexcept {
  ended[ended_next] = {id, end};
  ended_next = (ended_next + 1) % ended.size();
}

End Connection::Impl::end_of(StreamId id) const noexcept {
  const auto found = std::find_if(ended.begin(), ended.end(), [id](const Ended& e) { return e.id == id; });
  return found == ended.end() ? End::kNotKnown : found->end;
}

void Connection::Impl::close_if_done(StreamId id) {
  const Stream* stream = find(id);
  if (stream != nullptr && stream->local_closed && stream->remote_closed) forget(id, End::kInOrder);
}

void Connection::Impl::send_rst(StreamId id, ErrorCode code) {
  append_header(output, 4, FrameType::kRstStream, 0, id);
  ByteWriter(output).u32(static_cast<uint32_t>(code));
  touched();
}

void Connection::Impl::send_window_update(StreamId id, uint32_t increment) {
  append_header(output, 4, FrameType::kWindowUpdate, 0, id);
  ByteWriter(output).u32(increment);
  touched();
}

// HEADERS and, where the peer's frames are too small for the block, CONTINUATION.
Result<void> Connection::Impl::send_headers(StreamId id, bool end_stream, Buffer& block) {
  bool first = true;
  do {
    const auto part = static_cast<uint32_t>(std::min<size_t>(block.size(), peer_max_frame));
    const bool last = part == block.size();
    const uint8_t flags =
        static_cast<uint8_t>((last ? kFlagEndHeaders : 0) | (first && end_stream ? kFlagEndStream : 0));
    append_header(output, part, first ? FrameType::kHeaders : FrameType::kContinuation, flags, id);
    output.append(block.span().first(part));
    block.consume(part);
    first = false;
  } while (!block.empty());
  touched();
  return {};
}

// Its handler gave it up, or it cannot go on.
void Connection::Impl::reset_by_us(StreamId id, ErrorCode code) {
  if (dead || find(id) == nullptr) return;
  send_rst(id, code);
  forget(id, End::kByUs);
}

// Each costs us what opening it has cost: the debt is the defence against peers that make us reset
// (CVE-2025-8671). One that was answered has paid one off already.
Result<void> Connection::Impl::break_stream(StreamId id, ErrorCode code) {
  Stream* stream = find(id);
  if (stream == nullptr) return {};
  const int resets = stream->answered && role == Role::kServer ? 2 : 1;
  handler.on_fault(Fault::kStream);
  if (stream->handler != nullptr) stream->handler->on_reset(code);
  reset_by_us(id, code);
  return owe_reset(Fault::kMadeReset, resets);
}

Result<void> Connection::Impl::owe_reset(Fault cause, int resets) {
  reset_debt += resets;
  if (reset_debt > kMaxResetDebt) return flood(cause, "too many resets");
  return {};
}

void Connection::Impl::reset_all(ErrorCode code) {
  while (!streams.empty()) lose(streams.begin()->first, code);
}

void Connection::Impl::lose(StreamId id, ErrorCode code) {
  StreamHandler* stream_handler = take_out(id);
  if (stream_handler != nullptr) stream_handler->on_reset(code);
  handler.on_stream_closed(id);
}

void Connection::Impl::send_goaway(StreamId last, ErrorCode code, std::string_view why) {
  append_header(output, static_cast<uint32_t>(8 + why.size()), FrameType::kGoaway, 0, 0);
  ByteWriter out(output);
  out.u32(last);
  out.u32(static_cast<uint32_t>(code));
  output.append(why);
  touched();
}

Error Connection::Impl::fail(ErrorCode code, std::string_view why) {
  switch (code) {
    case ErrorCode::kFrameSizeError: return fail(code, Fault::kFrameSize, why);
    case ErrorCode::kFlowControlError: return fail(code, Fault::kFlowControl, why);
    case ErrorCode::kStreamClosed: return fail(code, Fault::kStreamClosed, why);
    case ErrorCode::kCompressionError: return fail(code, Fault::kCompression, why);
    default: return fail(code, Fault::kProtocol, why);
  }
}

// The connection is over: GOAWAY goes into the output, every stream hears of it.
Error Connection::Impl::fail(ErrorCode code, Fault fault, std::string_view why) {
  if (!dead) {
    handler.on_fault(fault);
    send_goaway(highest_remote, code, why);
    dead = true;
    reset_all(code);
  }
  return {ErrorKind::kProtocol, fmt::format("HTTP/2: {}", why), static_cast<int>(code)};
}

void Connection::abort() {
  impl_->dead = true;
  impl_->reset_all(ErrorCode::kConnectError);
}

Result<StreamId> Connection::open(const ConnectRequest& request, StreamHandler& handler) {
  if (impl_->dead || draining()) return Error(ErrorKind::kClosed, "the tunnel takes no new streams");
  if (open_streams() >= impl_->peer_max_streams)
    return Error(ErrorKind::kExhausted, "the peer's limit of streams");
  if (impl_->next_local > kMaxWindow) return Error(ErrorKind::kExhausted, "stream ids are used up");
  Buffer block;
  FL_TRY(impl_->encoder.request(request, block));
  const StreamId id = impl_->next_local;
  impl_->next_local += 2;
  impl_->add(id, &handler).opened = true;
  FL_TRY(impl_->send_headers(id, false, block));
  return id;
}

void Connection::Impl::respond(StreamId id, int status) {
  Stream* stream = find(id);
  if (stream == nullptr || dead) return;
  Buffer block;
  if (!encoder.response(status, block)) return reset_by_us(id, ErrorCode::kInternalError);
  const bool good = status == 200;
  stream->opened = stream->answered = true;
  if (good && reset_debt > 0) --reset_debt;
  (void)send_headers(id, !good, block);
  if (good) return;
  stream->local_closed = true;
  if (stream->remote_closed) return close_if_done(id);
  reset_by_us(id, ErrorCode::kNoError);  // the rest of the request is of no interest (RFC 9113 §8.1)
}

void Connection::respond(StreamId id, int status) {
  impl_->respond(id, status);
}

void Connection::reset(StreamId id, ErrorCode code) {
  impl_->reset_by_us(id, code);
}

// ---- sending data
// -------------------------------------------------------------------------------------------------------

size_t Connection::Impl::writable(const Stream& stream) const noexcept {
  if (!stream.opened || stream.local_closed || dead || output.size() >= kMaxOutput) return 0;
  const int64_t window = std::min(stream.send_window, send_window);
  if (window <= 0) return 0;
  const size_t room = std::min<size_t>(kMaxOutput - output.size(), peer_max_frame);
  return std::min(room, static_cast<size_t>(window));
}

size_t Connection::writable(StreamId id) const noexcept {
  Stream* stream = impl_->find(id);
  if (stream == nullptr) return 0;
  const size_t room = impl_->writable(*stream);
  if (room == 0 && !stream->local_closed) impl_->blocked.push(*stream);
  return room;
}

std::span<uint8_t> Connection::prepare_data(StreamId id, size_t maximum) {
  impl_->prepared_for = id;
  impl_->prepared_at = impl_->output.size();
  const auto room = impl_->output.prepare(kFrameHeader + maximum);
  impl_->output.commit(kFrameHeader);
  return room.subspan(kFrameHeader, maximum);
}

void Connection::Impl::sent_data(Stream& stream, size_t bytes) {
  if (bytes > 0) idle_frames = 0;  // what the peer's WINDOW_UPDATEs were for
  stream.send_window -= static_cast<int64_t>(bytes);
  send_window -= static_cast<int64_t>(bytes);
  count(stream, bytes);
  touched();
}

void Connection::commit_data(StreamId id, size_t bytes, bool end_stream) {
  Impl& impl = *impl_;
  Stream* stream = impl.find(id);
  if (stream == nullptr || impl.prepared_for != id || (bytes == 0 && !end_stream)) {
    impl.output.truncate(impl.prepared_at);
    return;
  }
  write_header(impl.output.data() + impl.prepared_at, static_cast<uint32_t>(bytes), FrameType::kData,
               end_stream ? kFlagEndStream : 0, id);
  impl.output.commit(bytes);
  impl.sent_data(*stream, bytes);
  if (!end_stream) return;
  stream->local_closed = true;
  impl.close_if_done(id);
}

size_t Connection::announceable(StreamId id) const noexcept {
  Stream* stream = impl_->find(id);
  if (stream == nullptr || !stream->opened || stream->local_closed || impl_->dead) return 0;
  const int64_t window = std::min(stream->send_window, impl_->send_window);
  if (window <= 0) return 0;
  return std::min<size_t>(static_cast<size_t>(window), impl_->peer_max_frame);
}

void Connection::announce_data(StreamId id, size_t bytes) {
  Stream* stream = impl_->find(id);
  (void)prepare_data(id, 0);
  write_header(impl_->output.data() + impl_->prepared_at, static_cast<uint32_t>(bytes), FrameType::kData, 0,
               id);
  impl_->sent_data(*stream, bytes);
}

void Connection::hold_back(StreamId id) noexcept {
  Stream* stream = impl_->find(id);
  if (stream != nullptr) impl_->blocked.push(*stream);
}

bool Connection::is_bulk(StreamId id) const noexcept {
  const Stream* stream = impl_->find(id);
  return stream != nullptr && stream->moved > impl_->settings.bulk_after;
}

void Connection::end(StreamId id) {
  (void)prepare_data(id, 0);
  commit_data(id, 0, true);
}

void Connection::Impl::wake(Stream& stream) {
  if (!stream.blocked) return;
  blocked.remove(stream);
  if (stream.handler != nullptr) stream.handler->on_writable();
}

// In the order in which they were held back; one that is held back again goes to the end.
void Connection::Impl::wake_blocked() {
  for (size_t turns = blocked.size(); turns > 0 && !blocked.empty() && !dead; --turns) {
    if (output.size() >= kMaxOutput || send_window <= 0) return;
    wake(*blocked.front());
  }
}

void Connection::output_drained() {
  if (impl_->output.size() <= kMaxOutput / 2) impl_->wake_blocked();
}

// ---- giving credit
// ------------------------------------------------------------------------------------------------------

void Connection::Impl::consume(StreamId id, size_t bytes) {
  Stream* stream = find(id);
  if (stream == nullptr || stream->remote_closed || dead) return;
  stream->unacknowledged += static_cast<uint32_t>(bytes);
  if (stream->unacknowledged < stream->window / 2) return;
  uint32_t increment = stream->unacknowledged;
  // What was received and not consumed is the reader's backlog. With little of it the window is what holds
  // the sender back.
  const int64_t backlog =
      static_cast<int64_t>(stream->window) - stream->receive_window - stream->unacknowledged;
  if (backlog < static_cast<int64_t>(stream->window / 8) && stream->window < settings.max_window) {
    const uint32_t grown = std::min(stream->window * 2, settings.max_window);
    increment += grown - stream->window;
    stream->window = grown;
  }
  stream->unacknowledged = 0;
  stream->receive_window += increment;
  send_window_update(id, increment);
}

void Connection::consume(StreamId id, size_t bytes) {
  impl_->consume(id, bytes);
}

// ---- connection
// ---------------------------------------------------------------------------------------------------------

void Connection::ping(uint64_t opaque) {
  append_header(impl_->output, 8, FrameType::kPing, 0, 0);
  ByteWriter(impl_->output).u64(opaque);
  impl_->touched();
}

uint64_t Connection::pongs() const noexcept {
  return impl_->pongs;
}

void Connection::goaway(ErrorCode code) {
  if (impl_->leaving != Leaving::kNo || impl_->dead) return;
  if (impl_->role == Role::kServer && code == ErrorCode::kNoError) {
    // The answer to the PING is behind everything that the peer sent before it saw this.
    impl_->leaving = Leaving::kAnnounced;
    impl_->send_goaway(kMaxWindow, code, {});
    return ping(kLeavingPing);
  }
  impl_->leaving = Leaving::kSaid;
  impl_->send_goaway(impl_->highest_remote, code, {});
}

bool Connection::draining() const noexcept {
  return impl_->leaving != Leaving::kNo || impl_->goaway_received || impl_->dead ||
         impl_->next_local > kMaxWindow;
}
bool Connection::drained() const noexcept {
  return draining() && impl_->streams.empty() &&
         (impl_->leaving != Leaving::kAnnounced || impl_->goaway_received);
}
void Connection::calm() noexcept {
  impl_->idle_frames = 0;
  impl_->reset_debt = 0;
}
size_t Connection::open_streams() const noexcept {
  return impl_->streams.size();
}
bool Connection::carries_bulk() const noexcept {
  return impl_->bulk_streams > 0;
}
size_t Connection::stream_limit() const noexcept {
  return impl_->peer_max_streams;
}
bool Connection::settings_known() const noexcept {
  return impl_->settings_seen;
}

}  // namespace fairlead::hbone
