// The socket of a tunnel with TLS 1.3 records on it (RFC 8446 §5): bytes of frames in, bytes of frames out.
// Each direction begins in user space and may move to the kernel, for good, where it stands between two
// records.
//
// What was handed to write() leaves in order; what next() gives came in order and was authenticated. Errors
// are final: the connection is to be reset. The owner watches the fd (edge-triggered) and calls read() until
// it would block, and flush() when the socket is writable again. Thread: the worker's. Ownership: the fd and
// the keys.
#pragma once

#include "base/buffer.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "net/socket.h"
#include "net/splice.h"
#include "proxy/limits.h"
#include "proxy/moving_state.h"
#include "tls/kernel_tls.h"
#include "tls/record.h"

namespace fairlead::proxy {

class RecordSocket {
 public:
  // `received`: ciphertext that was read behind the handshake.
  RecordSocket(UniqueFd fd, tls::RecordSealer sealer, tls::RecordOpener opener) noexcept
      : fd_(std::move(fd)), sealer_(std::move(sealer)), opener_(std::move(opener)) {}

  [[nodiscard]] BorrowedFd fd() const noexcept { return fd_; }
  void close() noexcept { fd_.reset(); }

  // --- the kernel
  enum class Place : uint8_t { kUser, kMoving, kKernel, kRefused };  // refused: it stays in user space
  [[nodiscard]] Place transmits() const noexcept { return transmits_; }
  [[nodiscard]] Place receives() const noexcept { return receives_; }
  // Moves the direction as soon as it stands between two records: at the next write() or read().
  // `rekeys`: the kernel takes another key for it later.
  void move_transmit(bool rekeys) noexcept {
    rekeys_ = rekeys;
    want(transmits_);
  }
  void move_receive() noexcept { want(receives_); }
  // The key is worn, and the kernel takes no other: no new streams here.
  [[nodiscard]] bool worn() const noexcept { return worn_; }
  [[nodiscard]] tls::CipherSuite suite() const { return sealer_.state().secret.suite; }
  [[nodiscard]] uint64_t records(tls::Direction direction) const;  // since the connection began

  // --- receiving
  void put_back(Buffer received) noexcept { received_ = std::move(received); }
  [[nodiscard]] bool has_received() const noexcept { return pending_record_ || !received_.empty(); }
  // One read of at most `maximum` bytes. What a record gave before stays in place no longer.
  Result<net::IoResult> read(size_t maximum = kReadChunk);
  // Whether the last read left the socket empty: an edge will tell when more comes.
  [[nodiscard]] bool read_all() const noexcept { return read_all_; }
  // The next whole record of what was read; its payload stays in place until read() or rest().
  Result<tls::RecordOpener::Opened> next();
  // What next() owes the peer after its Error; kCloseNotify: nothing.
  [[nodiscard]] tls::Alert alert() const noexcept { return opener_.alert(); }
  void rest() noexcept;  // gives memory back that nothing is in

  // --- sending
  // Sends; the number of bytes taken, in user space 0 while what was taken before waits for the socket.
  // `more`: bytes follow at once, by write() or drain().
  Result<size_t> write(std::span<const uint8_t> plaintext, bool more = false);
  // What the pipe holds, where the kernel transmits.
  Result<net::IoResult> drain(net::Pipe& pipe);
  Result<void> flush();
  [[nodiscard]] bool waits() const noexcept { return !sealed_.empty() || owes_update_ || owes_close_; }
  Result<void> update_key();    // answers a KeyUpdate that asks for one; flush() sends it
  Result<void> close_notify();  // nothing may be written behind it
  // Everything has left, and the peer's kernel has it: closing loses nothing. Where the kernel transmits, a
  // record may still wait behind the socket's queue, and close() would drop it.
  [[nodiscard]] bool all_left() const noexcept;
  void fatal(tls::Alert alert) noexcept;             // a courtesy: sent if the socket takes it
  void end() noexcept { net::shutdown_write(fd_); }  // FIN behind what was sent

  // --- moving (proxy/moving.h)
  [[nodiscard]] Result<RecordSocketState> state() const;
  static Result<RecordSocket> resume(RecordSocketState state);

 private:
  static void want(Place& place) noexcept {
    if (place == Place::kUser) place = Place::kMoving;
  }
  Result<net::IoResult> read_kernel(size_t maximum);
  Result<void> follow_key_update();
  Result<size_t> write_kernel(std::span<const uint8_t> plaintext, bool more);
  Result<void> flush_owed();
  Result<void> count_sent(size_t bytes);
  Place hand_over(tls::Direction direction, const tls::RecordState& state) noexcept;

  UniqueFd fd_;
  tls::RecordSealer sealer_;
  tls::RecordOpener opener_;
  Buffer received_;  // ciphertext, up to one incomplete record between turns; where the kernel receives,
                     // plaintext
  Buffer sealed_;    // ciphertext the socket did not take yet
  uint64_t sent_at_most_ = 0;  // records of the kernel with this key; counted up, never down
  tls::ContentType type_ = tls::ContentType::kApplicationData;  // of received_, where the kernel receives
  Place transmits_ = Place::kUser;
  Place receives_ = Place::kUser;
  bool read_all_ = false;
  bool pending_record_ = false;  // the kernel gave a record that next() has not taken
  bool owes_update_ = false;
  bool owes_close_ = false;
  bool rekeys_ = false;
  bool worn_ = false;
};

}  // namespace fairlead::proxy
