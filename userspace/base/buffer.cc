#include "base/buffer.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace fairlead {
namespace {

// Blocks kept per thread after use: enough for the bursts of one loop turn, little enough to give memory
// back.
constexpr size_t kKeptBlocks = 16;
constexpr size_t kSmallBlock = 4096;

class FreeList {
 public:
  ~FreeList() {
    for (uint8_t* block : blocks_) std::free(block);
  }
  uint8_t* take() {
    if (blocks_.empty()) return static_cast<uint8_t*>(std::malloc(Buffer::kPoolBlock));
    uint8_t* block = blocks_.back();
    blocks_.pop_back();
    return block;
  }
  void give(uint8_t* block) {
    if (blocks_.size() >= kKeptBlocks) {
      std::free(block);
      return;
    }
    blocks_.push_back(block);
  }

 private:
  std::vector<uint8_t*> blocks_;
};

FreeList& free_list() {
  thread_local FreeList list;
  return list;
}

uint8_t* allocate(size_t capacity) {
  auto* block =
      capacity == Buffer::kPoolBlock ? free_list().take() : static_cast<uint8_t*>(std::malloc(capacity));
  if (block == nullptr) std::abort();
  return block;
}

}  // namespace

void Buffer::release() noexcept {
  if (capacity_ == kPoolBlock) {
    free_list().give(block_);
  } else {
    std::free(block_);
  }
  block_ = nullptr;
  capacity_ = head_ = tail_ = 0;
}

void Buffer::grow(size_t bytes) {
  const size_t used = size();
  // Room at the front: slide down. Only what is small beside the room, or a backlog would be moved again and
  // again.
  if (head_ >= used && capacity_ - used >= bytes) {
    std::memmove(block_, block_ + head_, used);
    head_ = 0;
    tail_ = used;
    return;
  }
  const size_t needed = used + bytes;
  size_t capacity = kSmallBlock;
  if (needed > kSmallBlock) capacity = kPoolBlock;
  if (needed > kPoolBlock) capacity = std::max(needed, capacity_ * 2);
  uint8_t* block = allocate(capacity);
  if (used > 0) std::memcpy(block, data(), used);
  release();
  block_ = block;
  capacity_ = capacity;
  tail_ = used;
}

}  // namespace fairlead
