#include "net/splice.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>

namespace fairlead::net {
namespace {

constexpr unsigned kFlags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

Result<IoResult> moved(ssize_t count, int code) {
  if (count > 0) return IoResult{IoState::kDone, static_cast<size_t>(count)};
  if (count == 0) return IoResult{IoState::kEnd, 0};
  if (code == EAGAIN || code == EINTR) return IoResult{};
  return Error::from_code("splice", code);
}

}  // namespace

Result<Pipe> Pipe::create(size_t size) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return Error::from_errno("pipe2");
  Pipe pipe;
  pipe.read_end_.reset(ends[0]);
  pipe.write_end_.reset(ends[1]);
  (void)::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(size));  // ignoring: see the header
  return pipe;
}

Pipe Pipe::of(UniqueFd read_end, UniqueFd write_end, size_t holds) noexcept {
  Pipe pipe;
  pipe.read_end_ = std::move(read_end);
  pipe.write_end_ = std::move(write_end);
  pipe.holds_ = holds;
  return pipe;
}

Result<IoResult> Pipe::fill(BorrowedFd from, size_t maximum) {
  const ssize_t count = ::splice(from.get(), nullptr, write_end_.get(), nullptr, maximum, kFlags);
  const auto result = moved(count, errno);
  if (result) holds_ += result->bytes;
  return result;
}

Result<IoResult> Pipe::drain(BorrowedFd to) {
  IoResult total;
  while (holds_ > 0) {
    const ssize_t count = ::splice(read_end_.get(), nullptr, to.get(), nullptr, holds_, kFlags);
    FL_TRY_ASSIGN(const IoResult part, moved(count, errno));
    if (part.state != IoState::kDone) break;
    holds_ -= part.bytes;
    total.state = IoState::kDone;
    total.bytes += part.bytes;
  }
  return total;
}

}  // namespace fairlead::net
