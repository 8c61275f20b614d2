#include "ebpf/map.h"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fairlead::ebpf {
namespace {

uint64_t pointer(const void* p) {
  return reinterpret_cast<uint64_t>(p);
}

// 0 or errno.
int call(bpf_cmd command, bpf_attr& attributes) {
  return ::syscall(SYS_bpf, command, &attributes, sizeof attributes) < 0 ? errno : 0;
}

}  // namespace

Error bpf_error(std::string_view operation, int code) {
  return {ErrorKind::kBpf, fmt::format("{}: {}", operation, std::strerror(code)), code};
}

namespace raw {

Result<bool> lookup(int map, const void* key, void* value, bool and_delete) {
  bpf_attr attributes{};
  attributes.map_fd = static_cast<uint32_t>(map);
  attributes.key = pointer(key);
  attributes.value = pointer(value);
  const int error = call(and_delete ? BPF_MAP_LOOKUP_AND_DELETE_ELEM : BPF_MAP_LOOKUP_ELEM, attributes);
  if (error == ENOENT) return false;
  if (error != 0) return bpf_error(and_delete ? "take map element" : "look up map element", error);
  return true;
}

Result<void> update(int map, const void* key, const void* value) {
  bpf_attr attributes{};
  attributes.map_fd = static_cast<uint32_t>(map);
  attributes.key = pointer(key);
  attributes.value = pointer(value);
  attributes.flags = BPF_ANY;
  if (const int error = call(BPF_MAP_UPDATE_ELEM, attributes)) return bpf_error("update map element", error);
  return {};
}

Result<bool> erase(int map, const void* key) {
  bpf_attr attributes{};
  attributes.map_fd = static_cast<uint32_t>(map);
  attributes.key = pointer(key);
  const int error = call(BPF_MAP_DELETE_ELEM, attributes);
  if (error == ENOENT) return false;
  if (error != 0) return bpf_error("delete map element", error);
  return true;
}

Result<uint32_t> batch(int map, void* token, bool first, void* keys, void* values, uint32_t count,
                       bool& last) {
  bpf_attr attributes{};
  attributes.batch.map_fd = static_cast<uint32_t>(map);
  attributes.batch.in_batch = first ? 0 : pointer(token);
  attributes.batch.out_batch = pointer(token);
  attributes.batch.keys = pointer(keys);
  attributes.batch.values = pointer(values);
  attributes.batch.count = count;
  const int error = call(BPF_MAP_LOOKUP_BATCH, attributes);
  last = error == ENOENT;  // with the last elements
  if (error != 0 && !last) return bpf_error("walk map", error);
  return attributes.batch.count;
}

}  // namespace raw
}  // namespace fairlead::ebpf
