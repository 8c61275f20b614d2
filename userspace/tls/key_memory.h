// Where keys live. Private keys and traffic secrets: an arena that is locked into RAM and left out of core
// dumps (OpenSSL's secure heap). Everything else that OpenSSL makes of them (key schedules, the state of a
// handshake) is wiped when it is freed.
// Thread: protect_keys() before any other thread and any other use of OpenSSL; the rest any.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace fairlead::tls {

// Fits exactly into the RLIMIT_MEMLOCK that Linux gives by default since 5.16, because few may raise it. Half
// of it holds the directions of 8,000 tunnels (256 bytes each), the other half every identity that a node may
// have (32 bytes each) and thousands of handshakes under way: KeyMemory.ArenaIsLargeEnough measures it.
constexpr size_t kKeyArena = 8 * 1024 * 1024;

struct KeyMemory {
  size_t arena = 0;     // bytes, 0: there is none
  bool locked = false;  // false: RLIMIT_MEMLOCK is lower
};

// An error when OpenSSL was used before.
Result<KeyMemory> protect_keys();
[[nodiscard]] size_t key_arena_used() noexcept;  // 0 without an arena

// Loads what OpenSSL loads on first use (its configuration file, algorithms), while files are readable.
void load_openssl();

// Base of what holds secrets by value: allocated in the arena as long as half of it is free – the other half
// is OpenSSL's, which fails without –, and wiped when freed.
struct InKeyMemory {
  static void* operator new(size_t size);
  static void operator delete(void* object, size_t size) noexcept;
};

}  // namespace fairlead::tls
