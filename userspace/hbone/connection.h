// HTTP/2 (RFC 9113) reduced to what HBONE needs: one connection of CONNECT streams, client or server.
// Sans-I/O: plaintext in through receive(), frames out through output(); the caller seals and sends once per
// loop turn.
//
// Data path without copies: prepare_data() gives room right behind a DATA frame header inside the output
// buffer, the caller reads from its socket into it and commits. Incoming DATA payload is handed on as spans
// into the received bytes.
//
// Back-pressure: a stream may send up to writable(); the receiver returns credit with consume() only for what
// has left towards its application, so a slow reader stops its own sender and nobody else. The connection
// window is as large as HTTP/2 allows; stream windows bound memory (limits in hbone/limits.h) and grow while
// the reader keeps up.
//
// Errors: receive() returning an Error means the connection is over: GOAWAY is in output(), send it, then
// close; every stream got on_reset. Misuse by a peer is counted by cause. Thread: the connection's worker.
// Ownership: handlers are borrowed and must outlive the stream (until on_closed).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "hbone/fault.h"
#include "net/socket.h"

namespace fairlead::hbone {

using StreamId = uint32_t;

// RFC 9113 §7
enum class ErrorCode : uint32_t {
  kNoError = 0,
  kProtocolError = 1,
  kInternalError = 2,
  kFlowControlError = 3,
  kSettingsTimeout = 4,
  kStreamClosed = 5,
  kFrameSizeError = 6,
  kRefusedStream = 7,
  kCancel = 8,
  kCompressionError = 9,
  kConnectError = 10,
  kEnhanceYourCalm = 11,
};

// The request of one application connection (hbone-xds facts: no :scheme, no :path).
struct ConnectRequest {
  std::string authority;  // "10.0.1.7:8080"
  std::string forwarded;  // for="10.0.0.9:41234"
  std::string baggage;
  std::string traceparent;
};

// Payload that lies in several places.
using Pieces = std::span<const std::span<const uint8_t>>;

class StreamHandler {
 public:
  virtual void on_response(int status) = 0;  // client: headers of the answer
  // Never more than the credit given. What came on the stream in a row is handed on together, so that it can
  // be written with one system call; at most kMaxPieces (hbone/limits.h).
  virtual void on_data(Pieces pieces) = 0;
  virtual void on_end() = 0;                  // END_STREAM: the peer's FIN
  virtual void on_reset(ErrorCode code) = 0;  // RST_STREAM, or the connection died
  virtual void on_writable() = 0;             // credit or output room came back after writable() was 0
  // A transport whose payload needs no look asks: up to `maximum` bytes of it are taken from its socket.
  // kDone with 0 bytes: not so, hand them on as data. Errors: the transport's.
  virtual Result<net::IoResult> take_from(BorrowedFd, size_t) {
    return net::IoResult{net::IoState::kDone, 0};
  }

 protected:
  ~StreamHandler() = default;
};

class ConnectionHandler {
 public:
  // Server: a CONNECT came. Answer with respond() or reset(), now or later. Returns who gets the stream's
  // events.
  virtual StreamHandler* on_connect(StreamId stream, const ConnectRequest& request) = 0;
  virtual void on_goaway(ErrorCode code) = 0;  // no new streams on this connection
  virtual void on_fault(Fault fault) = 0;      // the peer's fault, for counting; nothing else may be done
  virtual void on_output() = 0;                // output() went from empty to non-empty: flush this turn
  virtual void on_stream_closed(
      StreamId stream) = 0;  // both directions done or reset; the handler is forgotten

 protected:
  ~ConnectionHandler() = default;
};

struct ConnectionState;  // hbone/state.h

struct Settings {
  uint32_t initial_window = 256 * 1024;
  uint32_t max_window = 4 * 1024 * 1024;  // a stream whose reader keeps up grows to this
  uint32_t max_frame = 1024 * 1024;       // accepted from the peer
  uint32_t max_concurrent_streams = 200;  // accepted from the peer
  uint64_t bulk_after = 1024 * 1024;      // a stream that moved more is called bulk
};

class Connection {
 public:
  enum class Role { kClient, kServer };
  Connection(Role role, const Settings& settings, ConnectionHandler& handler);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Decrypted bytes as they come, any split. DATA payload is not handed on at once but gathered: the bytes
  // must stay in place until settle().
  Result<void> receive(std::span<const uint8_t> plaintext);
  void settle();
  // Frames that wait to be sealed. The caller consumes them.
  Buffer& output() noexcept;
  // The caller has sent what was in output(): streams that were held back by kMaxOutput go on (on_writable,
  // in fair order).
  void output_drained();
  // The transport died: every open stream gets on_reset, nothing is written any more.
  void abort();

  // --- streams
  // ------------------------------------------------------------------------------------------------- Client:
  // sends HEADERS. kExhausted at the peer's limit of streams, kClosed after GOAWAY.
  Result<StreamId> open(const ConnectRequest& request, StreamHandler& handler);
  // Server: 200 opens both directions; another status ends the stream.
  void respond(StreamId stream, int status);
  // How many bytes of data may be sent now: window, frame size of the peer, and room below kMaxOutput.
  [[nodiscard]] size_t writable(StreamId stream) const noexcept;
  // Room for up to `maximum` bytes (≤ writable) directly in output(); follow with exactly one commit_data()
  // before any other call on this connection. commit_data(…, 0, false) takes the frame header back.
  std::span<uint8_t> prepare_data(StreamId stream, size_t maximum);
  void commit_data(StreamId stream, size_t bytes, bool end_stream);
  void end(StreamId stream);  // END_STREAM on an empty DATA frame

  // Payload that never comes by here, for transports that move it themselves (splice). Sending: as
  // writable(), but without regard to the room in output(); announce_data() then puts the header of a DATA
  // frame of `bytes` last into output(), and the caller sends exactly as much behind it before anything else.
  [[nodiscard]] size_t announceable(StreamId stream) const noexcept;
  void announce_data(StreamId stream, size_t bytes);
  // It wants on_writable() when output_drained() comes, as after a writable() that was 0.
  void hold_back(StreamId stream) noexcept;
  // Receiving: the DATA frame that receive() stands in, behind its header and what came with it.
  struct OpenData {
    StreamHandler* handler = nullptr;  // null: none that could be moved
    size_t left = 0;                   // bytes of it that have not come
  };
  [[nodiscard]] OpenData open_data() const noexcept;
  // `bytes` ≤ left of it went to the stream's handler by another way. settle() comes first.
  Result<void> skip_data(size_t bytes);
  void reset(StreamId stream, ErrorCode code);
  // `bytes` of payload handed out by on_data() have left; gives credit back in batches.
  void consume(StreamId stream, size_t bytes);

  // --- connection
  // ----------------------------------------------------------------------------------------------
  void ping(uint64_t opaque);  // the answer shows in pongs()
  [[nodiscard]] uint64_t pongs() const noexcept;
  // Streams that are open go on. A server without an error does it in two steps (RFC 9113 §6.8): no stream
  // that is on its way is lost.
  void goaway(ErrorCode code);
  [[nodiscard]] bool draining() const noexcept;
  [[nodiscard]] bool drained() const noexcept;  // no stream is open, and none may come
  // Now and then (the caller has the clock): what the peer asked for up to now is forgiven. Without it
  // keep-alive pings of a day would count as a flood.
  void calm() noexcept;
  [[nodiscard]] size_t open_streams() const noexcept;
  // Whether a stream has moved more than Settings::bulk_after, both directions together: others would wait
  // behind its frames.
  [[nodiscard]] bool carries_bulk() const noexcept;
  [[nodiscard]] bool is_bulk(StreamId stream) const noexcept;
  [[nodiscard]] size_t stream_limit() const noexcept;  // what the peer allows (100 until its SETTINGS came)
  [[nodiscard]] bool settings_known() const noexcept;  // the peer's SETTINGS have come

  // --- moving to another process
  // ----------------------------------------------------------------------------------------------
  // Everything, of a connection that is not over and was settled.
  [[nodiscard]] ConnectionState state() const;
  // Of a connection that was made and not used yet, in the same role: it is now in `state`. No handler is
  // called; every stream is to be given its own by attach(). After an error it is good for nothing.
  Result<void> resume(ConnectionState state);
  void attach(StreamId stream, StreamHandler& handler) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::hbone
