// Ownership of a file descriptor. UniqueFd closes once; BorrowedFd is for parameters and never closes.
// Both refuse to turn into an int by themselves. Every fd is born CLOEXEC (net/socket.h, base/file.h).
#pragma once

#include <unistd.h>

#include <utility>

namespace fairlead {

class UniqueFd {
 public:
  UniqueFd() noexcept = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
  // Swaps first, closes after: a re-entrant reader never sees a closed number.
  void reset(int fd = -1) noexcept {
    if (int old = std::exchange(fd_, fd); old >= 0)
      (void)::close(old);  // ignoring: Linux frees the fd in any case
  }

 private:
  int fd_ = -1;
};

class BorrowedFd {
 public:
  explicit constexpr BorrowedFd(int fd) noexcept : fd_(fd) {}
  BorrowedFd(const UniqueFd& fd) noexcept : fd_(fd.get()) {}
  [[nodiscard]] constexpr int get() const noexcept { return fd_; }

 private:
  int fd_;
};

}  // namespace fairlead
