// Packets with file descriptors over AF_UNIX SOCK_SEQPACKET: what every contract of this folder is carried
// by. Ownership: fds that came belong to the receiver, whatever becomes of the message. Thread: values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::contract {

constexpr size_t kMaxFds = 64;  // per packet; SCM_MAX_FD is 253

enum class ReceiveState { kMessage, kWouldBlock, kClosed };

// False: the socket is full, or too many fds of this user are under way (unix(7), ETOOMANYREFS): not sent.
// The packet is `bytes` and `tail` behind it, which need not be copied together.
Result<bool> send_packet(BorrowedFd socket, std::span<const uint8_t> bytes,
                         std::span<const BorrowedFd> fds = {}, std::span<const uint8_t> tail = {});

struct RawPacket {
  ReceiveState state = ReceiveState::kWouldBlock;
  Buffer bytes;
  std::vector<UniqueFd> fds;
  bool fds_lost = false;  // a receiver that is out of file descriptors loses those that it was sent (unix(7))
};
// kProtocol for a packet of more than `maximum` bytes.
Result<RawPacket> receive_packet(BorrowedFd socket, size_t maximum);

// Both ends of a fresh pair, close-on-exec and non-blocking.
struct PacketPair {
  UniqueFd one, other;
};
Result<PacketPair> packet_pair();

}  // namespace fairlead::contract
