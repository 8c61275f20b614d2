#include "contract/parcels.h"

#include <string.h>

#include "base/bytes.h"

namespace fairlead::contract::parcels {
namespace {

enum class Type : uint8_t {
  kBegin = 1,
  kPart = 2,
  kEnd = 3,
  kCommit = 4,
  kPrepared = 16,
  kRefused = 17,
  kTaken = 18,
};

struct Encoder {
  ByteWriter out;
  void type(Type value) { out.u8(static_cast<uint8_t>(value)); }

  void operator()(const Begin& m) { type(Type::kBegin), out.u32(m.version); }
  void operator()(const Part& m) {
    type(Type::kPart), out.u16(m.worker), out.u8(m.last ? 1 : 0), out.u8(m.fds);
    out.bytes(m.bytes);
  }
  void operator()(const End& m) { type(Type::kEnd), out.u32(m.parcels), out.u64(m.bytes), out.u32(m.fds); }
  void operator()(const Commit&) { type(Type::kCommit); }
  void operator()(const Prepared& m) { type(Type::kPrepared), out.u32(m.parcels); }
  void operator()(const Refused& m) {
    type(Type::kRefused), out.string16(std::string_view(m.reason).substr(0, kMaxReason));
  }
  void operator()(const Taken&) { type(Type::kTaken); }
};

bool read_part(ByteReader& in, Message& message) {
  Part part;
  part.worker = in.u16();
  const uint8_t last = in.u8();
  part.last = last == 1;
  part.fds = in.u8();
  part.bytes = in.take(in.remaining());
  const bool good = last <= 1 && part.fds <= kMaxFds && part.bytes.size() <= kMaxPart;
  message = std::move(part);
  return good;
}

bool read_body(Type type, ByteReader& in, Message& message) {
  switch (type) {
    case Type::kBegin: message = Begin{in.u32()}; return true;
    case Type::kPart: return read_part(in, message);
    case Type::kEnd: message = End{in.u32(), in.u64(), in.u32()}; return true;
    case Type::kCommit: message = Commit{}; return true;
    case Type::kPrepared: message = Prepared{in.u32()}; return true;
    case Type::kRefused: {
      Refused refused{in.string16()};
      const bool good = refused.reason.size() <= kMaxReason;
      message = std::move(refused);
      return good;
    }
    case Type::kTaken: message = Taken{}; return true;
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
    return Error(ErrorKind::kProtocol, fmt::format("parcels: malformed message of {} bytes, type {}",
                                                   bytes.size(), bytes.empty() ? 0 : bytes[0]));
  }
  return message;
}

Result<bool> send(BorrowedFd socket, const Message& message, std::span<const BorrowedFd> fds) {
  Buffer head;
  const auto* part = std::get_if<Part>(&message);
  if (part == nullptr) {
    encode(message, head);
    return send_packet(socket, head.span(), fds);
  }
  if (part->bytes.size() > kMaxPart || part->fds != fds.size())
    return Error(ErrorKind::kInvalidArgument, "parcels: a part is larger than agreed");
  encode(Part{part->worker, part->last, part->fds, {}}, head);
  return send_packet(socket, head.span(), fds, part->bytes);
}

Received::~Received() {
  if (!raw.empty()) ::explicit_bzero(raw.data(), raw.size());
}

Result<Received> receive(BorrowedFd socket) {
  FL_TRY_ASSIGN(RawPacket raw, receive_packet(socket, kMaxMessage));
  Received received;
  received.state = raw.state;
  if (raw.state != ReceiveState::kMessage) return received;
  received.raw = std::move(raw.bytes);
  FL_TRY_ASSIGN(received.message, decode(received.raw.span()));
  if (raw.fds_lost) return Error(ErrorKind::kExhausted, "parcels: file descriptors were lost");
  const auto* part = std::get_if<Part>(&received.message);
  if (raw.fds.size() != (part != nullptr ? part->fds : 0u))
    return Error(ErrorKind::kProtocol, fmt::format("parcels: a message came with {} fds", raw.fds.size()));
  received.fds = std::move(raw.fds);
  return received;
}

}  // namespace fairlead::contract::parcels
