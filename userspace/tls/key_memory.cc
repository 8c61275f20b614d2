#include "tls/key_memory.h"

#include <malloc.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "tls/openssl.h"

namespace fairlead::tls {
namespace {

constexpr size_t kSmallest = 32;  // bytes of one piece of the arena: a P-256 or X25519 scalar

// OpenSSL's memory, wiped whenever it is given back: SSL_free() and others leave secrets behind.
void wiping_free(void* memory, const char*, int) {
  if (memory == nullptr) return;
  OPENSSL_cleanse(memory, ::malloc_usable_size(memory));
  std::free(memory);
}

void* plain_malloc(size_t size, const char*, int) {
  return std::malloc(size);
}

void* wiping_realloc(void* memory, size_t size, const char* file, int line) {
  if (memory == nullptr) return std::malloc(size);
  if (size == 0) {
    wiping_free(memory, file, line);
    return nullptr;
  }
  const size_t held = ::malloc_usable_size(memory);
  if (size <= held && size >= held / 2) return memory;
  void* moved = std::malloc(size);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, memory, std::min(size, held));
  wiping_free(memory, file, line);
  return moved;
}

}  // namespace

Result<KeyMemory> protect_keys() {
  if (CRYPTO_set_mem_functions(plain_malloc, wiping_realloc, wiping_free) != 1)
    return Error(ErrorKind::kInternal, "OpenSSL was used before its memory was protected");
  KeyMemory memory;
  const int made = CRYPTO_secure_malloc_init(kKeyArena, kSmallest);  // 2: mapped, but not locked
  if (made != 0) memory.arena = kKeyArena;
  memory.locked = made == 1;
  return memory;
}

size_t key_arena_used() noexcept {
  return CRYPTO_secure_malloc_initialized() == 1 ? CRYPTO_secure_used() : 0;
}

void load_openssl() {
  OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, nullptr);
  (void)aes_gcm(16);
  (void)digest_for(false);
}

void* InKeyMemory::operator new(size_t size) {
  void* memory = key_arena_used() < kKeyArena / 2 ? OPENSSL_secure_malloc(size) : nullptr;
  if (memory == nullptr) memory = OPENSSL_malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void InKeyMemory::operator delete(void* object, size_t size) noexcept {
  OPENSSL_secure_clear_free(object, size);  // knows which of the two it is
}

}  // namespace fairlead::tls
