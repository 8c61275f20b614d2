// A contiguous byte queue: bytes are written at the end and consumed from the front.
//
//   auto room = buffer.prepare(65536);  n = read(fd, room.data(), room.size());  buffer.commit(n);
//   buffer.consume(write(fd, buffer.data(), buffer.size()));
//
// Memory is held only while bytes are in it: an empty buffer that is released owns nothing, which is what
// keeps an idle connection cheap. Blocks of kPoolBlock bytes come from a per-thread free list. Thread: one
// owner at a time. Spans stay valid until the next prepare(), append() or release().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

namespace fairlead {

class Buffer {
 public:
  static constexpr size_t kPoolBlock = 128 * 1024;

  Buffer() noexcept = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      release();
      swap(other);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  [[nodiscard]] size_t size() const noexcept { return tail_ - head_; }
  [[nodiscard]] bool empty() const noexcept { return head_ == tail_; }
  [[nodiscard]] size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] uint8_t* data() noexcept { return block_ + head_; }
  [[nodiscard]] const uint8_t* data() const noexcept { return block_ + head_; }
  [[nodiscard]] std::span<uint8_t> span() noexcept { return {data(), size()}; }
  [[nodiscard]] std::span<const uint8_t> span() const noexcept { return {data(), size()}; }

  // At least `bytes` of room behind the last byte; the span covers all the room there is.
  [[nodiscard]] std::span<uint8_t> prepare(size_t bytes) {
    if (capacity_ - tail_ < bytes) grow(bytes);
    return {block_ + tail_, capacity_ - tail_};
  }
  void commit(size_t bytes) noexcept { tail_ += bytes; }
  void consume(size_t bytes) noexcept {
    head_ += bytes;
    if (head_ == tail_) head_ = tail_ = 0;
  }
  // Takes back the last bytes written.
  void truncate(size_t new_size) noexcept { tail_ = head_ + new_size; }
  void append(std::span<const uint8_t> bytes) {
    if (bytes.empty()) return;
    std::memcpy(prepare(bytes.size()).data(), bytes.data(), bytes.size());
    commit(bytes.size());
  }
  void append(std::string_view text) { append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}); }
  void clear() noexcept { head_ = tail_ = 0; }
  // Gives the memory back; the bytes are gone.
  void release() noexcept;
  void swap(Buffer& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(capacity_, other.capacity_);
    std::swap(head_, other.head_);
    std::swap(tail_, other.tail_);
  }

 private:
  void grow(size_t bytes);

  uint8_t* block_ = nullptr;
  size_t capacity_ = 0;
  size_t head_ = 0;
  size_t tail_ = 0;
};

}  // namespace fairlead
