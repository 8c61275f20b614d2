// The contract between the keeper (privileged) and the proxy (no privilege): messages over one AF_UNIX
// SOCK_SEQPACKET pair, one message per packet, fds by SCM_RIGHTS. Both sides treat the other's bytes as
// hostile: a message that does not decode ends the connection.
//
// Order: the keeper sends Welcome (with the map fds), then PodAdded for every pod, then Ready; afterwards
// PodAdded and PodRemoved as they come. The proxy sends NeedSockets whenever a pod's stock runs low, and
// Hello first of all.
//
// Hand-over (hand_over.h tells the whole): a successor's proxy says CanTakeOver once it could serve; TakeOver
// brings it the socket to the old proxy, HandOver brings the old one the other end. What the proxies say to
// each other is parcels.h. Ownership: fds travel with the message and belong to the receiver. Thread: values.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/buffer.h"
#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "contract/packets.h"

namespace fairlead::contract {

constexpr uint32_t kVersion = 2;
constexpr size_t kMaxMessage = 16384;  // bytes of one packet
constexpr size_t kMaxReason = 1024;    // bytes of an explanation
constexpr size_t kSocketBatch = 32;    // sockets per NeedSockets answer

// Pods are named by the cookie of their network namespace (SO_NETNS_COOKIE): unique until reboot.
using PodId = uint64_t;

// proxy → keeper
struct Synced {
};  // the mesh state is in force and fl_dests holds it: pods may be told that they are captured
struct Hello {
  uint32_t version = kVersion;
};
struct NeedSockets {
  PodId pod = 0;
  uint8_t family = 0;  // AF_INET or AF_INET6
  uint8_t count = 0;   // at most kSocketBatch
};
// A successor's: the mesh state and a certificate for every identity are there, nothing was touched yet.
struct CanTakeOver {};
struct TakenOver {};   // a successor's: it serves. The point of no return lies behind it
struct HandedOver {};  // the old one's: the same; it lets go and exits
// The old one's: it serves as if nothing had been asked. A successor's: it exits and has touched nothing.
struct HandOverFailed {
  std::string reason;  // at most kMaxReason
};

// keeper → proxy
struct Welcome {
  uint32_t version = kVersion;
  bool successor =
      false;  // another proxy serves these pods: accept nothing and write nothing before TakeOver
  // fds, in this order: fl_dests, fl_origdst, fl_clients
};
struct PodAdded {
  PodId pod = 0;
  std::string uid;
  std::string ns;
  std::string name;
  std::string service_account;
  std::vector<IpAddress> addresses;
  uint16_t outbound_port = 0;
  uint16_t inbound_port = 0;
  // fds: outbound v4, inbound v4, then (when has_v6) outbound v6, inbound v6; listening, non-blocking
  bool has_v6 = false;
};
struct PodRemoved {
  PodId pod = 0;
};
struct Ready {};  // all pods known at this moment were sent
struct Sockets {
  PodId pod = 0;
  uint8_t family = 0;
  // fds: unconnected TCP sockets made in the pod's netns; none when the pod is gone
};
struct Drain {
  uint32_t deadline_ms = 0;  // stop accepting, let streams end, exit
};
struct HandOver {};  // fds: the socket to the successor's proxy
struct TakeOver {};  // fds: the socket to the old proxy, or none: there is no proxy to take over from

using Message = std::variant<Hello, NeedSockets, Synced, CanTakeOver, TakenOver, HandedOver, HandOverFailed,
                             Welcome, PodAdded, PodRemoved, Ready, Sockets, Drain, HandOver, TakeOver>;

struct Packet {
  Message message;
  std::vector<UniqueFd> fds;
};

// The codec alone: no fds, no socket. decode() refuses trailing bytes, unknown types and wrong lengths.
void encode(const Message& message, Buffer& out);
Result<Message> decode(std::span<const uint8_t> bytes);

// send() returns false when the socket is full (message not sent).
Result<bool> send(BorrowedFd socket, const Message& message, std::span<const BorrowedFd> fds = {});
struct Received {
  ReceiveState state = ReceiveState::kWouldBlock;
  Packet packet;
};
Result<Received> receive(BorrowedFd socket);

}  // namespace fairlead::contract
