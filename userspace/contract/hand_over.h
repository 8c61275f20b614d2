// The hand-over of a node from a running agent to its successor, keeper to keeper: messages over
// `handover.sock` in the run directory (SOCK_SEQPACKET, 0600; both sides check SO_PEERCRED), one per packet.
//
//   successor (S)                                   running agent (R)
//   Ask ─────────────────────────────────────────►  refuses, or offers; serves on, pods come and go
//   ◄──────────────── Offer, OfferedPod × n, AllPods (later: OfferedPod and PodGone as they happen)
//   starts its proxy: mesh state, certificates
//   Prepared ────────────────────────────────────►  takes no more pods; HandOver to its proxy
//   ◄──────────────────────────────────────── Take
//   TakeOver to its proxy       (the proxies: parcels.h; their Commit is the point of no return)
//   Taken ───────────────────────────────────────►  or its own proxy says HandedOver: whichever is first
//   ◄─────────────────────────────────────── Yours  with the lock of the run directory
//   binds the sockets' names, re-attaches programs
//   Mine ────────────────────────────────────────►  exits 0
//
// Before Yours either side may say Failed (S) or Refused (R), or just close: S exits and has changed nothing,
// R serves as if nothing had been asked. Who may call himself the node's agent is decided by the lock
// (`agent.lock`): R holds it until Mine, and S that hears no more of R is in charge only when it gets the
// lock, which the kernel frees when R is dead. Every wait has a deadline (keeper/hand_over_limits.h).
//
// Versions: Ask begins with the newest and the oldest version that S speaks, for ever; R picks the newest
// that both speak and says it in Offer. What a later version appends to Ask is ignored by an earlier one.
// Both sides are root, and read each other's bytes as hostile ones all the same. Thread: values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/net_types.h"
#include "contract/packets.h"

namespace fairlead::contract::hand_over {

constexpr uint32_t kNewest = 1;
constexpr uint32_t kOldest = 1;
constexpr size_t kMaxMessage = 8192;
constexpr size_t kMaxReason = 1024;
constexpr size_t kMaxPodAddresses = 64;

// successor → running
struct Ask {
  uint32_t newest = kNewest;
  uint32_t oldest = kOldest;
  uint32_t maps = 0;  // FL_ABI_VERSION: maps of another version could not be taken over
  std::string agent;  // version of the program, for people
  std::string node;
  std::string bpf_directory;
};
struct Prepared {};  // its proxy could serve
struct Taken {};     // its proxy serves
struct Mine {};      // it answers at the sockets' names
struct Failed {
  std::string reason;
};

// running → successor
struct Refused {
  std::string reason;
};
struct Offer {
  uint32_t version = kNewest;
  std::string agent;
  uint32_t taken = 0;   // hand-overs in this row of agents so far
  uint32_t failed = 0;  // and those that failed
};
struct OfferedPod {
  std::string uid;      // what else is known of it is in pods.json
  uint64_t cookie = 0;  // of its network namespace
  std::vector<IpAddress> addresses;
  bool has_v6 = false;
  // fds: netns, outbound v4, inbound v4, then (when has_v6) outbound v6, inbound v6
};
struct PodGone {
  std::string uid;
};
struct AllPods {};
struct Take {};   // fds: the socket to the old proxy, or none: there is none that serves
struct Yours {};  // fds: the lock

using Message = std::variant<Ask, Prepared, Taken, Mine, Failed, Refused, Offer, OfferedPod, PodGone, AllPods,
                             Take, Yours>;

void encode(const Message& message, Buffer& out);
// Refuses trailing bytes, unknown types, wrong lengths.
Result<Message> decode(std::span<const uint8_t> bytes);

// How many fds belong to a message; Take may have none.
[[nodiscard]] bool fds_match(const Message& message, size_t fds) noexcept;

// The version both speak; nullopt: none.
[[nodiscard]] std::optional<uint32_t> agree(const Ask& ask) noexcept;

struct Received {
  ReceiveState state = ReceiveState::kWouldBlock;
  Message message;
  std::vector<UniqueFd> fds;
};
// kProtocol for what is malformed or comes with other fds than it should.
Result<Received> receive(BorrowedFd socket);

}  // namespace fairlead::contract::hand_over
