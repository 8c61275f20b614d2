// The hand-over of connections from an old proxy to its successor, over the socket pair that the old keeper
// made: one message per packet. A parcel is bytes and fds (proxy/moving.h says what they mean); it travels in
// parts, in order, and is whole with the last of them.
//
//   old                                           successor
//   Begin{version}, Part × n, End{totals} ──────► has nothing touched yet; counts what it got
//   ◄─────────────────────────────── Prepared, or Refused: every connection is built
//   Commit ─────────────────────────────────────► the point of no return: from here on they are its own
//   ◄────────────────────────────────── Taken
//
// Before Commit whatever goes wrong ends it: the old one goes on, the successor exits without a trace.
// Totals and counts of fds are told, so that what is lost is noticed. Parcels hold traffic keys: their bytes
// are copied nowhere on the way, and a receiver wipes what it has read. Thread: values.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "contract/packets.h"

namespace fairlead::contract::parcels {

constexpr size_t kMaxPart = 60 * 1024;  // bytes of a parcel in one packet
constexpr size_t kMaxMessage = kMaxPart + 64;
constexpr size_t kMaxParcel = size_t{64} << 20;  // bytes of one parcel
constexpr size_t kMaxParcelFds = 4096;
constexpr size_t kMaxParcels = size_t{1} << 20;
constexpr size_t kMaxTotal = size_t{1} << 30;  // bytes of all
constexpr size_t kMaxReason = 1024;

// old → successor
struct Begin {
  uint32_t version = 0;  // of what is in the parcels
};
struct Part {
  uint16_t worker = 0;  // of the old proxy; the successor may have other ones
  bool last = false;
  uint8_t fds = 0;                 // that come with this packet
  std::span<const uint8_t> bytes;  // the sender's, or of what was decoded
};
struct End {
  uint32_t parcels = 0;
  uint64_t bytes = 0;
  uint32_t fds = 0;
};
struct Commit {};

// successor → old
struct Prepared {
  uint32_t parcels = 0;
};
struct Refused {
  std::string reason;
};
struct Taken {};

using Message = std::variant<Begin, Part, End, Commit, Prepared, Refused, Taken>;

void encode(const Message& message, Buffer& out);
Result<Message> decode(std::span<const uint8_t> bytes);

// False: the socket is full.
Result<bool> send(BorrowedFd socket, const Message& message, std::span<const BorrowedFd> fds = {});

struct Received {
  Received() = default;
  Received(Received&&) = default;
  Received& operator=(Received&&) = delete;
  ~Received();  // wipes

  ReceiveState state = ReceiveState::kWouldBlock;
  Message message;
  std::vector<UniqueFd> fds;
  Buffer raw;  // what message refers to
};
// kProtocol for what is malformed or comes with other fds than it says.
Result<Received> receive(BorrowedFd socket);

}  // namespace fairlead::contract::parcels
