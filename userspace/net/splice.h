// Bytes from socket to socket without a copy into user space: splice(2) through a pipe that knows what it
// holds.
//
// Lengths are exact and SPLICE_F_MORE is never set behind the last byte: asked for more than the pipe holds,
// the kernel may take 16 full buffers for a part of something longer and keep the tail back (fs/splice.c,
// MSG_MORE). A pipe's capacity is in pages or parts of pages: it may be full with less than its size. Thread:
// one owner at a time. Ownership: both ends.
#pragma once

#include <cstddef>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "net/socket.h"

namespace fairlead::net {

class Pipe {
 public:
  Pipe() = default;
  // Non-blocking; `size` in bytes is a wish: the kernel grants less to a user with many pipes (pipe(7)).
  static Result<Pipe> create(size_t size);

  // One that another process made, with `holds` bytes in it.
  static Pipe of(UniqueFd read_end, UniqueFd write_end, size_t holds) noexcept;

  explicit operator bool() const noexcept { return static_cast<bool>(read_end_); }
  [[nodiscard]] size_t holds() const noexcept { return holds_; }
  [[nodiscard]] bool empty() const noexcept { return holds_ == 0; }

  // From a socket into the pipe, at most `maximum`. kWouldBlock: the socket has nothing, or the pipe is full
  // – empty() tells which. kEnd: FIN. Error::code() EINVAL from kernel TLS: the next record is not data.
  Result<IoResult> fill(BorrowedFd from, size_t maximum);
  // From the pipe into a socket: all it holds, in one call or several.
  Result<IoResult> drain(BorrowedFd to);

  // Written or read at the ends by others: the books are kept.
  [[nodiscard]] BorrowedFd read_end() const noexcept { return read_end_; }
  [[nodiscard]] BorrowedFd write_end() const noexcept { return write_end_; }
  Pipe& note(size_t written) noexcept {
    holds_ += written;
    return *this;
  }
  void took(size_t read) noexcept { holds_ -= read; }

 private:
  UniqueFd read_end_;
  UniqueFd write_end_;
  size_t holds_ = 0;
};

}  // namespace fairlead::net
