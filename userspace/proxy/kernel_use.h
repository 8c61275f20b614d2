// Whether, and from when on, tunnels leave their records to the kernel.
#pragma once

#include <atomic>
#include <cstdint>

namespace fairlead::proxy {

// Outlives the workers. `on` may change at any time, from any thread: what has moved stays moved.
struct KernelUse {
  std::atomic<bool> on{false};
  // Bytes of one direction of a tunnel that carries bulk, of those that came many at once: a long
  // conversation in small messages costs less in user space.
  uint64_t after = 1024 * 1024;
  bool rekeys = false;  // the kernel takes new keys
};

// What came of it; for counting.
enum class KernelEvent : uint8_t {
  kTransmits,  // a direction moved
  kReceives,
  kRefused,    // the kernel would not take one: it stays in user space
  kBadRecord,  // EBADMSG: not authentic, or malformed
  kKeyUpdate,  // the peer moved its key and the kernel cannot follow
  kBroken,     // every other error of the kernel's records
};

}  // namespace fairlead::proxy
