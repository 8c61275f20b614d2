// The socket of a tunnel with TLS 1.3 records on it (RFC 8446 §5): bytes of frames in, bytes of frames out.
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
#include "tls/record.h"

namespace fairlead::proxy {

class RecordSocket {
 public:
  // `received`: ciphertext that was read behind the handshake.
  RecordSocket(UniqueFd fd, tls::RecordSealer sealer, tls::RecordOpener opener) noexcept
      : fd_(std::move(fd)), sealer_(std::move(sealer)), opener_(std::move(opener)) {}

  [[nodiscard]] BorrowedFd fd() const noexcept { return fd_; }
  void close() noexcept { fd_.reset(); }

  // --- receiving
  void put_back(Buffer received) noexcept { received_ = std::move(received); }
  [[nodiscard]] bool has_received() const noexcept { return !received_.empty(); }
  // One read. What a record gave before stays in place no longer.
  Result<net::IoResult> read();
  // Whether the last read left the socket empty: an edge will tell when more comes.
  [[nodiscard]] bool read_all() const noexcept { return read_all_; }
  // The next whole record of what was read; its payload stays in place until read() or rest().
  Result<tls::RecordOpener::Opened> next();
  // What next() owes the peer after its Error; kCloseNotify: nothing.
  [[nodiscard]] tls::Alert alert() const noexcept { return opener_.alert(); }
  void rest() noexcept;  // gives memory back that nothing is in

  // --- sending
  // Sends; the number of bytes taken, 0 while what was taken before waits for the socket.
  Result<size_t> write(std::span<const uint8_t> plaintext);
  Result<void> flush();
  [[nodiscard]] bool waits() const noexcept { return !sealed_.empty(); }
  Result<void> update_key();              // answers a KeyUpdate that asks for one; flush() sends it
  Result<void> close_notify();            // nothing may be written behind it
  void fatal(tls::Alert alert) noexcept;  // a courtesy: sent if the socket takes it
  void end() noexcept { net::shutdown_write(fd_); }  // FIN behind what was sent

 private:
  UniqueFd fd_;
  tls::RecordSealer sealer_;
  tls::RecordOpener opener_;
  Buffer received_;  // ciphertext, up to one incomplete record between turns
  Buffer sealed_;    // ciphertext the socket did not take yet
  bool read_all_ = false;
};

}  // namespace fairlead::proxy
