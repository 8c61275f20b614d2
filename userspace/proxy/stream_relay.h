// Moves bytes between an application's socket and a CONNECT stream of a tunnel: an explicit state machine
// without an allocation per event.
//
// Half-close: the application's FIN becomes END_STREAM and the other way round. Abort: a reset on one side
// becomes a reset on the other. A slow application holds back at most the stream's window (credit is returned
// for what was written), a slow tunnel stops the reading of the application. Thread: the worker's. Ownership:
// the application's fd; the HTTP/2 connection is borrowed until the stream is over.
#pragma once

#include <coroutine>

#include "base/buffer.h"
#include "base/unique_fd.h"
#include "event/reactor.h"
#include "event/wait.h"
#include "hbone/connection.h"
#include "proxy/counters.h"
#include "proxy/relay_end.h"

namespace fairlead::proxy {

class StreamRelay final : public IoHandler, public hbone::StreamHandler {
 public:
  StreamRelay(Reactor& reactor, Counters& counters, RelayOwner& owner) noexcept
      : reactor_(reactor), counters_(counters), owner_(owner) {}
  ~StreamRelay();

  // Client side: open() sends CONNECT; the answer is waited for with answered(), then start().
  Result<void> open(hbone::Connection& connection, const hbone::ConnectRequest& request);
  // Server side: the stream exists.
  void adopt(hbone::Connection& connection, hbone::StreamId stream) noexcept;
  // Server side, instead of start(): answers with an error status, which ends the stream.
  void refuse(int status) noexcept;

  [[nodiscard]] Signal& answer() noexcept { return answer_; }
  [[nodiscard]] int status() const noexcept { return status_; }  // 0: none yet, -1: reset
  // Client side: the peer has done nothing for this stream (RFC 9113 §8.7): it may be opened again.
  [[nodiscard]] bool refused() const noexcept { return refused_; }
  // Starts to move bytes. Data that came on the stream before goes first. The socket must be one that resets
  // on close, from birth: until both directions are through, whoever closes it (the kernel, when the process
  // dies) breaks the connection, for a FIN would pass for the end of the data. Nagle's algorithm is off.
  Result<void> start(UniqueFd application);
  // Resets both sides; on_relay_end is not called.
  void abort() noexcept;

  [[nodiscard]] uint64_t sent() const noexcept { return sent_; }
  [[nodiscard]] uint64_t received() const noexcept { return received_; }

  void on_io(uint32_t events) noexcept override;
  void on_response(int status) override;
  void on_data(hbone::Pieces pieces) override;
  void on_end() override;
  void on_reset(hbone::ErrorCode code) override;
  void on_writable() override;

 private:
  enum class State : uint8_t { kOpening, kRelaying, kOver };
  void read_application();
  void end_stream();
  void keep(hbone::Pieces pieces, size_t written);
  void flush_pending();
  void finish_write_side();
  void fail(hbone::ErrorCode code) noexcept;
  void check_over() noexcept;
  void release_application(bool reset) noexcept;

  Reactor& reactor_;
  Counters& counters_;
  RelayOwner& owner_;
  hbone::Connection* connection_ = nullptr;  // null once the stream is over
  hbone::StreamId stream_ = 0;
  UniqueFd application_;
  Buffer pending_;  // came from the stream, not yet accepted by the application
  Signal answer_;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  int status_ = 0;
  State state_ = State::kOpening;
  bool refused_ = false;
  bool readable_ = false;
  bool fin_seen_ = false;  // a FIN is in the socket: a short read does not mean it is empty
  bool writable_ = false;
  bool peer_ended_ = false;         // END_STREAM came
  bool write_side_closed_ = false;  // FIN went to the application
  bool read_side_closed_ = false;   // FIN came from the application and END_STREAM went out
};

}  // namespace fairlead::proxy
