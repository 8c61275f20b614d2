// What a successor process needs to go on with the connections of a worker: parcels, each one tunnel with its
// streams or one connection without a tunnel, as bytes and file descriptors.
//
//   old worker: freeze(packed) → parcels, sent to the successor → let_go(gone), or thaw() when it came to
//   nothing new worker, made with Shared::successor: unpack(parcels, ready) → activate(), or destroyed when
//   it came to nothing
//
// These are Worker's (worker.h), from any thread:
//   void freeze(std::function<void(Result<std::vector<Parcel>>)> packed);
//   void thaw();
//   void let_go(std::function<void()> gone);
//   void unpack(std::vector<Parcel> parcels, std::function<void(Result<void>)> ready);
//   void activate();
//
// Between freeze() and activate() nobody reads, writes, shuts down or watches a socket, and nobody touches a
// map: at every moment before let_go() the old worker can go on as if nothing had been asked. What let_go()
// closes is a copy: the connections are the successor's.
//
// A parcel is hostile bytes to whoever unpacks it: one that is cut short, too long, of another version or
// with another number of file descriptors than it speaks of is refused, and with it all of them. The format
// is in docs/adr/0012-state-that-moves.md. Parcels hold traffic keys: their bytes are wiped when they are
// destroyed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/unique_fd.h"

namespace fairlead::proxy {

// At the head of every parcel. A successor understands the one before, too (there is none yet).
constexpr uint32_t kParcelVersion = 1;
constexpr uint32_t kOldestParcelVersion = 1;
constexpr size_t kMaxParcel = 0x7fffffff;  // bytes: 256 streams whose readers are slow may hold 1 GiB
constexpr size_t kMaxParcelFds = 1024;
// What a freeze waits for handshakes that are under way, which cannot travel: they take milliseconds.
constexpr std::chrono::milliseconds kHandshakesFinish{200};

struct Parcel {
  Parcel() = default;
  Parcel(Parcel&&) noexcept = default;
  Parcel& operator=(Parcel&& other) noexcept;
  ~Parcel();  // wipes

  Buffer bytes;
  std::vector<UniqueFd> fds;  // duplicates; the transport cuts long lists
};

}  // namespace fairlead::proxy
