// One BPF map behind its key and value types: element commands by raw bpf(2), so that they also work for a
// process without capabilities and without libbpf. Keys and values are the structs of bpf/abi/types.h, copied
// whole. Thread: any. Ownership: borrows the fd. Errors: kBpf with the saved errno; "no such element" is a
// value.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ebpf {

// Untyped; implemented in map.cc. `operation` goes into the error text.
Error bpf_error(std::string_view operation, int code);
namespace raw {
Result<bool> lookup(int map, const void* key, void* value, bool and_delete);
Result<void> update(int map, const void* key, const void* value);
Result<bool> erase(int map, const void* key);
// At most `count` elements behind `token` (64 octets; `first` when there is none yet). Returns how many; sets
// `last`.
Result<uint32_t> batch(int map, void* token, bool first, void* keys, void* values, uint32_t count,
                       bool& last);
}  // namespace raw

template <class Key, class Value>
class Map {
  static_assert(std::is_trivially_copyable_v<Key> && std::is_trivially_copyable_v<Value>);

 public:
  using Entry = std::pair<Key, Value>;

  explicit Map(BorrowedFd fd) noexcept : fd_(fd.get()) {}

  [[nodiscard]] Result<std::optional<Value>> get(const Key& key) const { return find(key, false); }
  [[nodiscard]] Result<std::optional<Value>> take(const Key& key) const { return find(key, true); }
  [[nodiscard]] Result<void> put(const Key& key, const Value& value) const {
    return raw::update(fd_, &key, &value);
  }
  // Whether there was such an element.
  [[nodiscard]] Result<bool> erase(const Key& key) const { return raw::erase(fd_, &key); }

  // Every element, at the price of one system call for kBatch of them. Not for SOCKHASH and per-CPU maps.
  // What others add or delete meanwhile may or may not be seen. `limit`: the map's maximum; more is
  // kExhausted.
  [[nodiscard]] Result<std::vector<Entry>> entries(size_t limit) const {
    std::vector<Entry> found;
    std::vector<Key> keys(kBatch);
    std::vector<Value> values(kBatch);
    alignas(8) char token[64] = {};
    for (bool first = true, last = false; !last; first = false) {
      FL_TRY_ASSIGN(const uint32_t count,
                    raw::batch(fd_, token, first, keys.data(), values.data(), kBatch, last));
      if (found.size() + count > 2 * limit) return Error(ErrorKind::kExhausted, "map walk does not end");
      for (uint32_t i = 0; i < count; ++i) found.emplace_back(keys[i], values[i]);
    }
    return found;
  }

 private:
  static constexpr uint32_t kBatch = 2048;
  static_assert(sizeof(Key) <= 64, "the token of a batch walk is a key");

  Result<std::optional<Value>> find(const Key& key, bool and_delete) const {
    Value value{};
    FL_TRY_ASSIGN(const bool found, raw::lookup(fd_, &key, &value, and_delete));
    if (!found) return std::optional<Value>();
    return std::optional<Value>(value);
  }

  int fd_;
};

}  // namespace fairlead::ebpf
