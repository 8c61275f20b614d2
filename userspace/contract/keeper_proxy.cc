#include "contract/keeper_proxy.h"

#include <sys/socket.h>

#include "base/bytes.h"

namespace fairlead::contract {
namespace {

enum class Type : uint8_t {
  kHello = 1,
  kNeedSockets = 2,
  kSynced = 3,
  kCanTakeOver = 4,
  kTakenOver = 5,
  kHandedOver = 6,
  kHandOverFailed = 7,
  kWelcome = 16,
  kPodAdded = 17,
  kPodRemoved = 18,
  kReady = 19,
  kSockets = 20,
  kDrain = 21,
  kHandOver = 22,
  kTakeOver = 23,
};

constexpr size_t kMaxAddresses = 64;  // of one pod

struct Encoder {
  ByteWriter out;
  void type(Type value) { out.u8(static_cast<uint8_t>(value)); }

  void operator()(const Hello& m) { type(Type::kHello), out.u32(m.version); }
  void operator()(const NeedSockets& m) {
    type(Type::kNeedSockets), out.u64(m.pod), out.u8(m.family), out.u8(m.count);
  }
  void operator()(const Synced&) { type(Type::kSynced); }
  void operator()(const CanTakeOver&) { type(Type::kCanTakeOver); }
  void operator()(const TakenOver&) { type(Type::kTakenOver); }
  void operator()(const HandedOver&) { type(Type::kHandedOver); }
  void operator()(const HandOverFailed& m) {
    type(Type::kHandOverFailed), out.string16(std::string_view(m.reason).substr(0, kMaxReason));
  }
  void operator()(const HandOver&) { type(Type::kHandOver); }
  void operator()(const TakeOver&) { type(Type::kTakeOver); }
  void operator()(const Welcome& m) { type(Type::kWelcome), out.u32(m.version), out.u8(m.successor ? 1 : 0); }
  void operator()(const PodRemoved& m) { type(Type::kPodRemoved), out.u64(m.pod); }
  void operator()(const Ready&) { type(Type::kReady); }
  void operator()(const Sockets& m) { type(Type::kSockets), out.u64(m.pod), out.u8(m.family); }
  void operator()(const Drain& m) { type(Type::kDrain), out.u32(m.deadline_ms); }
  void operator()(const PodAdded& m) {
    type(Type::kPodAdded);
    out.u64(m.pod);
    for (const auto* text : {&m.uid, &m.ns, &m.name, &m.service_account}) out.string16(*text);
    out.u8(static_cast<uint8_t>(m.addresses.size()));
    for (const IpAddress& address : m.addresses) out.bytes(address.octets());
    out.u16(m.outbound_port);
    out.u16(m.inbound_port);
    out.u8(m.has_v6 ? 1 : 0);
  }
};

bool read_pod(ByteReader& in, PodAdded& pod) {
  pod.pod = in.u64();
  for (auto* text : {&pod.uid, &pod.ns, &pod.name, &pod.service_account}) *text = in.string16();
  const size_t count = in.u8();
  if (count > kMaxAddresses) return false;
  for (size_t i = 0; i < count && in.ok(); ++i) {
    const auto octets = in.take(16);
    if (octets.size() != 16) return false;
    in6_addr address{};
    std::memcpy(&address, octets.data(), 16);
    pod.addresses.push_back(IpAddress::v6(address));
  }
  pod.outbound_port = in.u16();
  pod.inbound_port = in.u16();
  const uint8_t has_v6 = in.u8();
  pod.has_v6 = has_v6 == 1;
  return has_v6 <= 1;
}

// False: no such type, or a field out of its range. Running past the end shows in the reader.
bool read_body(Type type, ByteReader& in, Message& message) {
  switch (type) {
    case Type::kHello: message = Hello{in.u32()}; return true;
    case Type::kSynced: message = Synced{}; return true;
    case Type::kCanTakeOver: message = CanTakeOver{}; return true;
    case Type::kTakenOver: message = TakenOver{}; return true;
    case Type::kHandedOver: message = HandedOver{}; return true;
    case Type::kHandOver: message = HandOver{}; return true;
    case Type::kTakeOver: message = TakeOver{}; return true;
    case Type::kHandOverFailed: {
      HandOverFailed failed{in.string16()};
      const bool good = failed.reason.size() <= kMaxReason;
      message = std::move(failed);
      return good;
    }
    case Type::kWelcome: {
      Welcome welcome{in.u32()};
      const uint8_t successor = in.u8();
      welcome.successor = successor == 1;
      message = welcome;
      return successor <= 1;
    }
    case Type::kPodRemoved: message = PodRemoved{in.u64()}; return true;
    case Type::kReady: message = Ready{}; return true;
    case Type::kDrain: message = Drain{in.u32()}; return true;
    case Type::kNeedSockets: {
      NeedSockets need{in.u64(), in.u8(), in.u8()};
      message = need;
      return (need.family == AF_INET || need.family == AF_INET6) && need.count <= kSocketBatch;
    }
    case Type::kSockets: {
      Sockets sockets{in.u64(), in.u8()};
      message = sockets;
      return sockets.family == AF_INET || sockets.family == AF_INET6;
    }
    case Type::kPodAdded: {
      PodAdded pod;
      const bool good = read_pod(in, pod);
      message = std::move(pod);
      return good;
    }
  }
  return false;
}

}  // namespace

void encode(const Message& message, Buffer& out) {
  std::visit(Encoder{ByteWriter(out)}, message);
}

Result<Message> decode(std::span<const uint8_t> bytes) {
  ByteReader in(bytes);
  const auto type = static_cast<Type>(in.u8());
  Message message;
  if (!in.ok() || !read_body(type, in, message) || !in.ok() || !in.at_end()) {
    return Error(ErrorKind::kProtocol, fmt::format("contract: malformed message of {} bytes, type {}",
                                                   bytes.size(), bytes.empty() ? 0 : bytes[0]));
  }
  return message;
}

Result<bool> send(BorrowedFd socket, const Message& message, std::span<const BorrowedFd> fds) {
  Buffer body;
  encode(message, body);
  if (body.size() > kMaxMessage || fds.size() > kMaxFds) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("contract: {} bytes with {} fds is too large", body.size(), fds.size()));
  }
  return send_packet(socket, body.span(), fds);
}

Result<Received> receive(BorrowedFd socket) {
  FL_TRY_ASSIGN(RawPacket raw, receive_packet(socket, kMaxMessage));
  Received received;
  received.state = raw.state;
  if (raw.state != ReceiveState::kMessage) return received;
  FL_TRY_ASSIGN(received.packet.message, decode(raw.bytes.span()));
  // With fewer sockets in stock life goes on; a pod without its listeners is none.
  if (raw.fds_lost && !std::holds_alternative<Sockets>(received.packet.message))
    return Error(ErrorKind::kExhausted, "contract: file descriptors were lost");
  received.packet.fds = std::move(raw.fds);
  return received;
}

}  // namespace fairlead::contract
