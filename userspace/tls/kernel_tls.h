// Records made and opened by the kernel (Linux kernel TLS, Documentation/networking/tls.rst): one direction
// of an established TCP socket is handed over with its key, iv and next sequence number and cannot come back.
//
// From then on send(2) and splice(2) take plaintext, and what next to data goes through here: records of
// other types, sequence numbers, new keys. Thread: any; an fd belongs to one thread at a time.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "net/socket.h"
#include "tls/record.h"

namespace fairlead::tls {

// The system calls of this file: tests stand in for the kernel. Results as in libc, with errno.
class KernelCalls {
 public:
  virtual ~KernelCalls() = default;
  virtual int setsockopt(int fd, int level, int name, const void* value, socklen_t length);
  virtual int getsockopt(int fd, int level, int name, void* value, socklen_t* length);
  virtual ssize_t sendmsg(int fd, const msghdr* message, int flags);
  virtual ssize_t recvmsg(int fd, msghdr* message, int flags);
  static KernelCalls& real() noexcept;
};

enum class Direction : uint8_t { kTransmit, kReceive };

// Where kernel TLS can be used, and why not where it cannot.
struct KernelTlsSupport {
  enum class Why : uint8_t { kUsable, kOff, kNoModule, kOldKernel, kSelfTest };
  Why why = Why::kOff;
  std::string detail;  // for people: what is missing, or the step of the self-test that failed
  std::string remedy;
  bool rekey = false;  // a direction takes another key (Linux 6.14)
  [[nodiscard]] bool usable() const noexcept { return why == Why::kUsable; }
};

std::string_view to_string(KernelTlsSupport::Why why) noexcept;

// `release`: of uname(2). Kernels with the fixes that transparent use depends on; series without them, and
// what is not a version, are below the floor.
[[nodiscard]] bool above_kernel_tls_floor(std::string_view release) noexcept;

// Asks the kernel by doing: a connection over lo with every type of record, both ciphers, splice in and out.
// Blocks for milliseconds; a hang is bounded. Needs listen(2) on loopback.
KernelTlsSupport probe_kernel_tls();

class KernelTls {
 public:
  explicit KernelTls(KernelCalls& calls = KernelCalls::real()) noexcept : calls_(calls) {}

  // Once per socket, before the first hand_over(). The socket must be ESTABLISHED.
  Result<void> prepare(BorrowedFd fd) const;
  // Everything of the direction up to now has been written to, or read from, the socket: the kernel goes on
  // at `state`. The same direction again: a new key, where the kernel can (EBUSY where it cannot).
  Result<void> hand_over(BorrowedFd fd, Direction direction, const RecordState& state) const;
  // The number of the next record.
  Result<uint64_t> sequence(BorrowedFd fd, Direction direction) const;

  // One record of another type than data. kWouldBlock: nothing was sent.
  Result<net::IoState> send(BorrowedFd fd, ContentType type, std::span<const uint8_t> body) const;
  struct Received {
    net::IoState state = net::IoState::kWouldBlock;
    size_t bytes = 0;
    ContentType type = ContentType::kApplicationData;
    bool whole = true;  // the record of another type ends here
  };
  // Bytes of one or more records of one type. Error::code(): EBADMSG (not authentic, or malformed), EIO,
  // EINVAL, EKEYEXPIRED (the peer moved its key, and we did not follow): the connection is over.
  Result<Received> receive(BorrowedFd fd, std::span<uint8_t> into) const;

 private:
  KernelCalls& calls_;
};

}  // namespace fairlead::tls
