// Moves bytes between an application's socket and a CONNECT stream of a tunnel: an explicit state machine
// without an allocation per event.
//
// Half-close: the application's FIN becomes END_STREAM and the other way round. Abort: a reset on one side
// becomes a reset on the other. A slow application holds back at most the stream's window (credit is returned
// for what was written), a slow tunnel stops the reading of the application. Early bytes: a client's first
// words may follow its CONNECT without waiting for the answer, which saves a round trip; they are kept until
// the answer is 200, to be said once more where it is not. Thread: the worker's. Ownership: the application's
// fd; the HTTP/2 connection is borrowed until the stream is over.
#pragma once

#include <coroutine>

#include "base/buffer.h"
#include "base/unique_fd.h"
#include "event/reactor.h"
#include "event/wait.h"
#include "hbone/connection.h"
#include "net/splice.h"
#include "proxy/bulk_lane.h"
#include "proxy/counters.h"
#include "proxy/moving_state.h"
#include "proxy/relay_end.h"

namespace fairlead::proxy {

class StreamRelay final : public IoHandler, public hbone::StreamHandler {
 public:
  StreamRelay(Reactor& reactor, Counters& counters, RelayOwner& owner) noexcept
      : reactor_(reactor), counters_(counters), owner_(owner) {}
  ~StreamRelay();

  // Client side: open() sends CONNECT; the answer is waited for with answered(), then start().
  Result<void> open(hbone::Connection& connection, const hbone::ConnectRequest& request);
  // Client side, between open() and start(): up to kMaxEarlyBytes of the application are sent at once.
  // `said`: what take_back() gave of another stream, sent again.
  Result<void> speak_early(UniqueFd application, Buffer said);
  // Client side, where no 200 came: ends the stream; the application and what it has said early, for another.
  UniqueFd take_back(Buffer& said) noexcept;
  // Whether early bytes were sent: a peer that did not answer may have passed them on.
  [[nodiscard]] bool spoke() const noexcept { return said_again_ > 0; }
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
  // `said`: what take_back() gave of another stream, for a client that did not speak early on this one.
  Result<void> start(UniqueFd application, Buffer said = {});
  Result<void> start();  // behind speak_early()
  // Bulk goes by here; borrowed as long as the connection is.
  void use(BulkLane& lane) noexcept { lane_ = &lane; }
  // Resets both sides; on_relay_end is not called.
  void abort() noexcept;

  // --- moving (proxy/moving.h)
  [[nodiscard]] bool over() const noexcept { return state_ == State::kOver; }
  [[nodiscard]] bool relaying() const noexcept { return state_ == State::kRelaying; }
  [[nodiscard]] bool on_stream() const noexcept { return connection_ != nullptr; }
  [[nodiscard]] Result<StreamRelayState> state() const;
  // `connection`: that of its tunnel, null where the stream is over.
  void resume(StreamRelayState state, hbone::Connection* connection) noexcept;
  void activate() noexcept;
  void let_go() noexcept;

  [[nodiscard]] uint64_t sent() const noexcept { return sent_; }
  [[nodiscard]] uint64_t spliced() const noexcept { return spliced_; }
  [[nodiscard]] std::optional<TunnelRecords> tunnel_records() const {
    return connection_ == nullptr || lane_ == nullptr ? std::nullopt : std::optional(lane_->tunnel_records());
  }
  [[nodiscard]] uint64_t received() const noexcept { return received_; }

  void on_io(uint32_t events) noexcept override;
  void on_response(int status) override;
  void on_data(hbone::Pieces pieces) override;
  void on_end() override;
  void on_reset(hbone::ErrorCode code) override;
  void on_writable() override;
  Result<net::IoResult> take_from(BorrowedFd transport, size_t maximum) override;

 private:
  enum class State : uint8_t { kOpening, kRelaying, kOver };
  Result<void> take(UniqueFd application, Buffer said);
  void read_application();
  bool send_bulk();
  void flush_pipe();
  [[nodiscard]] bool has_kept() const noexcept { return !pipe_.empty() || !pending_.empty(); }
  bool say_again();
  [[nodiscard]] bool has_to_say() const noexcept { return readable_ || said_again_ < said_.size(); }
  [[nodiscard]] size_t room() const noexcept;
  void end_stream();
  void leave_tunnel_if_through() noexcept;
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
  BulkLane* lane_ = nullptr;
  net::Pipe pipe_;         // came from the stream by splice, not yet accepted by the application
  Buffer pending_;         // the same, behind it, in user space
  int copies_ = 0;         // reads of the application before splice is tried again
  Buffer said_;            // early bytes, until the answer
  size_t said_again_ = 0;  // of them, sent on this stream
  Signal answer_;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  uint64_t spliced_ = 0;
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
