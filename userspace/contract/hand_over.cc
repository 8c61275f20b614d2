#include "contract/hand_over.h"

#include <algorithm>

#include "base/bytes.h"

namespace fairlead::contract::hand_over {
namespace {

enum class Type : uint8_t {
  kAsk = 1,
  kPrepared = 2,
  kTaken = 3,
  kMine = 4,
  kFailed = 5,
  kRefused = 16,
  kOffer = 17,
  kOfferedPod = 18,
  kPodGone = 19,
  kAllPods = 20,
  kTake = 21,
  kYours = 22,
};

struct Encoder {
  ByteWriter out;
  void type(Type value) { out.u8(static_cast<uint8_t>(value)); }
  void reason(std::string_view text) { out.string16(text.substr(0, kMaxReason)); }

  void operator()(const Ask& m) {
    type(Type::kAsk), out.u32(m.newest), out.u32(m.oldest), out.u32(m.maps);
    for (const auto* text : {&m.agent, &m.node, &m.bpf_directory}) out.string16(*text);
  }
  void operator()(const Prepared&) { type(Type::kPrepared); }
  void operator()(const Taken&) { type(Type::kTaken); }
  void operator()(const Mine&) { type(Type::kMine); }
  void operator()(const Failed& m) { type(Type::kFailed), reason(m.reason); }
  void operator()(const Refused& m) { type(Type::kRefused), reason(m.reason); }
  void operator()(const Offer& m) {
    type(Type::kOffer), out.u32(m.version), out.string16(m.agent), out.u32(m.taken), out.u32(m.failed);
  }
  void operator()(const OfferedPod& m) {
    type(Type::kOfferedPod), out.string16(m.uid), out.u64(m.cookie);
    out.u8(static_cast<uint8_t>(m.addresses.size()));
    for (const IpAddress& address : m.addresses) out.bytes(address.octets());
    out.u8(m.has_v6 ? 1 : 0);
  }
  void operator()(const PodGone& m) { type(Type::kPodGone), out.string16(m.uid); }
  void operator()(const AllPods&) { type(Type::kAllPods); }
  void operator()(const Take&) { type(Type::kTake); }
  void operator()(const Yours&) { type(Type::kYours); }
};

bool read_ask(ByteReader& in, Ask& ask) {
  ask.newest = in.u32();
  ask.oldest = in.u32();
  ask.maps = in.u32();
  for (auto* text : {&ask.agent, &ask.node, &ask.bpf_directory}) *text = in.string16();
  if (ask.newest > kNewest) (void)in.take(in.remaining());  // a later version's business
  return ask.oldest <= ask.newest;
}

bool read_pod(ByteReader& in, OfferedPod& pod) {
  pod.uid = in.string16();
  pod.cookie = in.u64();
  const size_t count = in.u8();
  if (count > kMaxPodAddresses) return false;
  for (size_t i = 0; i < count; ++i) {
    const auto octets = in.take(16);
    if (octets.size() != 16) return false;
    in6_addr address{};
    std::memcpy(&address, octets.data(), 16);
    pod.addresses.push_back(IpAddress::v6(address));
  }
  const uint8_t has_v6 = in.u8();
  pod.has_v6 = has_v6 == 1;
  return has_v6 <= 1 && !pod.uid.empty();
}

template <class T>
bool read_reason(ByteReader& in, Message& message) {
  T told{in.string16()};
  const bool good = told.reason.size() <= kMaxReason;
  message = std::move(told);
  return good;
}

template <class T>
bool read_with(ByteReader& in, Message& message, bool (*read)(ByteReader&, T&)) {
  T told;
  const bool good = read(in, told);
  message = std::move(told);
  return good;
}

// False: no such type, or a field out of its range. Running past the end shows in the reader.
bool read_body(Type type, ByteReader& in, Message& message) {
  switch (type) {
    case Type::kAsk: return read_with<Ask>(in, message, read_ask);
    case Type::kPrepared: message = Prepared{}; return true;
    case Type::kTaken: message = Taken{}; return true;
    case Type::kMine: message = Mine{}; return true;
    case Type::kFailed: return read_reason<Failed>(in, message);
    case Type::kRefused: return read_reason<Refused>(in, message);
    case Type::kOffer: {
      Offer offer;
      offer.version = in.u32();
      offer.agent = in.string16();
      offer.taken = in.u32();
      offer.failed = in.u32();
      message = std::move(offer);
      return true;
    }
    case Type::kOfferedPod: return read_with<OfferedPod>(in, message, read_pod);
    case Type::kPodGone: message = PodGone{in.string16()}; return true;
    case Type::kAllPods: message = AllPods{}; return true;
    case Type::kTake: message = Take{}; return true;
    case Type::kYours: message = Yours{}; return true;
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
    return Error(ErrorKind::kProtocol, fmt::format("hand-over: malformed message of {} bytes, type {}",
                                                   bytes.size(), bytes.empty() ? 0 : bytes[0]));
  }
  return message;
}

bool fds_match(const Message& message, size_t fds) noexcept {
  if (const auto* pod = std::get_if<OfferedPod>(&message)) return fds == (pod->has_v6 ? 5u : 3u);
  if (std::holds_alternative<Take>(message)) return fds <= 1;
  if (std::holds_alternative<Yours>(message)) return fds == 1;
  return fds == 0;
}

std::optional<uint32_t> agree(const Ask& ask) noexcept {
  const uint32_t version = std::min(ask.newest, kNewest);
  if (version < ask.oldest || version < kOldest) return std::nullopt;
  return version;
}

Result<Received> receive(BorrowedFd socket) {
  FL_TRY_ASSIGN(RawPacket raw, receive_packet(socket, kMaxMessage));
  Received received;
  received.state = raw.state;
  if (raw.state != ReceiveState::kMessage) return received;
  FL_TRY_ASSIGN(received.message, decode(raw.bytes.span()));
  if (raw.fds_lost) return Error(ErrorKind::kExhausted, "hand-over: file descriptors were lost");
  if (!fds_match(received.message, raw.fds.size()))
    return Error(ErrorKind::kProtocol, fmt::format("hand-over: a message came with {} fds", raw.fds.size()));
  received.fds = std::move(raw.fds);
  return received;
}

}  // namespace fairlead::contract::hand_over
