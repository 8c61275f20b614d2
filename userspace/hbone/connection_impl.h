// The inside of hbone::Connection: one state machine for receiving, a table of streams, flow control.
#pragma once

#include <array>
#include <unordered_map>

#include "hbone/frame.h"
#include "hbone/hpack.h"
#include "hbone/limits.h"
#include "hbone/state.h"

namespace fairlead::hbone {

struct Stream {
  StreamId id = 0;
  StreamHandler* handler = nullptr;
  int64_t send_window = 0;      // may be negative after a SETTINGS change (RFC 9113 §6.9.2)
  int64_t receive_window = 0;   // credit the peer has left
  uint32_t window = 0;          // the size that credit is kept at
  uint32_t unacknowledged = 0;  // consumed, not yet given back
  uint64_t moved = 0;           // payload, both directions
  bool local_closed = false;
  bool remote_closed = false;
  bool opened = false;    // server: 200 was sent; client: HEADERS were sent
  bool answered = false;  // client: HEADERS came back
  bool blocked = false;   // writable() said 0: it wants on_writable(), and is in the queue for it
  Stream* next_blocked = nullptr;
  Stream* previous_blocked = nullptr;
};

// Streams that are held back, in that order; each is in it at most once. Links inside the streams, whose
// addresses are stable.
class BlockedQueue {
 public:
  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
  [[nodiscard]] size_t size() const noexcept { return size_; }
  void push(Stream& stream) noexcept;
  void remove(Stream& stream) noexcept;
  [[nodiscard]] Stream* front() const noexcept { return first_; }

 private:
  Stream* first_ = nullptr;
  Stream* last_ = nullptr;
  size_t size_ = 0;
};

constexpr uint64_t kLeavingPing = 0x6c656176696e6721;  // between the two steps of GOAWAY

struct Connection::Impl {
  Impl(Role r, const Settings& s, ConnectionHandler& h);

  // --- receiving (receive.cc) ---
  Result<void> receive(std::span<const uint8_t> in);
  size_t take_preface(std::span<const uint8_t> in, Result<void>& result);
  size_t take_header(std::span<const uint8_t> in, Result<void>& result);
  size_t take_data(std::span<const uint8_t> in, Result<void>& result);
  size_t take_payload(std::span<const uint8_t> in, Result<void>& result);
  Result<void> begin_frame();
  Result<void> begin_data();
  void data_chunk(std::span<const uint8_t> chunk);
  void deliver();  // what was gathered
  Result<void> end_of_data();
  Result<void> frame(std::span<const uint8_t> payload);
  Result<void> on_headers_frame(std::span<const uint8_t> payload);
  Result<void> on_continuation(std::span<const uint8_t> payload);
  Result<void> headers_complete();
  Result<void> request_headers(HeaderList list);
  Result<void> response_headers(Stream& stream, const HeaderList& list);
  Result<void> on_settings(std::span<const uint8_t> payload);
  Result<void> apply_setting(uint16_t id, uint32_t value);
  Result<void> on_window_update(std::span<const uint8_t> payload);
  Result<void> on_rst(std::span<const uint8_t> payload);
  Result<void> on_ping(std::span<const uint8_t> payload);
  Result<void> on_goaway(std::span<const uint8_t> payload);
  Result<void> begin_unknown();
  size_t take_skipped(std::span<const uint8_t> in);
  [[nodiscard]] Fault kind_of_flood() const noexcept;
  Result<void> headers_on_closed(StreamId id);
  Result<void> idle_frame();  // counts frames that bring nothing
  Result<void> owe_reset(Fault cause, int resets);
  [[nodiscard]] bool never_opened(StreamId id) const noexcept;

  // --- sending and streams (connection.cc) ---
  Error fail(ErrorCode code, std::string_view why);
  Error fail(ErrorCode code, Fault fault, std::string_view why);
  Error flood(Fault fault, std::string_view why) { return fail(ErrorCode::kEnhanceYourCalm, fault, why); }
  Result<void> break_stream(StreamId id, ErrorCode code);  // by the peer's fault
  void send_goaway(StreamId last, ErrorCode code, std::string_view why);
  void respond(StreamId id, int status);
  void consume(StreamId id, size_t bytes);
  void touched();  // output may have become non-empty
  Stream* find(StreamId id) const noexcept;
  Stream& add(StreamId id, StreamHandler* stream_handler);
  void send_rst(StreamId id, ErrorCode code);
  void send_window_update(StreamId id, uint32_t increment);
  Result<void> send_headers(StreamId id, bool end_stream, Buffer& block);
  void reset_by_us(StreamId id, ErrorCode code);
  void close_if_done(StreamId id);
  void forget(StreamId id, End end);
  void remember(StreamId id, End end) noexcept;
  [[nodiscard]] End end_of(StreamId id) const noexcept;
  // Takes the stream out of the table; its handler, or null.
  StreamHandler* take_out(StreamId id);
  void lose(StreamId id, ErrorCode code);  // it is over without a word of ours
  void count(Stream& stream, size_t bytes) noexcept;
  void sent_data(Stream& stream, size_t bytes);
  void reset_all(ErrorCode code);
  void wake(Stream& stream);
  void wake_blocked();
  [[nodiscard]] size_t writable(const Stream& stream) const noexcept;

  // --- moving to another process (state.cc) ---
  [[nodiscard]] ConnectionState state() const;
  Result<void> resume(ConnectionState state);

  Role role;
  Settings settings;
  ConnectionHandler& handler;
  Buffer output;
  HeaderEncoder encoder;
  HeaderDecoder decoder;

  Reading reading;
  std::array<uint8_t, kFrameHeader> header_bytes{};
  size_t header_fill = 0;
  size_t preface_fill = 0;
  FrameHeader current;
  Buffer payload;          // of a frame that came in pieces
  uint32_t data_left = 0;  // payload of the current DATA or unknown frame still to come, padding included
  uint32_t padding = 0;
  bool padding_known = false;
  bool data_dropped = false;                       // on a stream that is gone
  std::vector<std::span<const uint8_t>> gathered;  // payload of one stream, not handed on yet
  StreamId gathered_for = 0;
  bool first_frame_seen = false;

  Buffer header_block;
  StreamId header_stream = 0;  // 0: no block is open
  bool header_end_stream = false;
  int continuations = 0;

  std::unordered_map<StreamId, Stream> streams;
  BlockedQueue blocked;
  StreamId next_local = 1;
  StreamId highest_remote = 0;
  int64_t send_window = kDefaultWindow;
  uint32_t received_since_update = 0;
  uint32_t peer_initial_window = kDefaultWindow;
  uint32_t peer_max_frame = kDefaultMaxFrame;
  size_t peer_max_streams = kStreamsBeforeSettings;
  size_t bulk_streams = 0;
  size_t prepared_at = 0;
  StreamId prepared_for = 0;
  uint64_t pongs = 0;
  int idle_frames = 0;
  int reset_debt = 0;
  std::array<Ended, kClosedRemembered> ended{};  // a ring
  size_t ended_next = 0;
  Leaving leaving = Leaving::kNo;
  bool settings_seen = false;
  bool goaway_received = false;
  bool dead = false;
};

}  // namespace fairlead::hbone
