#include "contract/packets.h"

#include <sys/socket.h>

#include <array>

namespace fairlead::contract {
namespace {

// A message that lost half of its fds would be taken for another: all or none.
void attach(msghdr& header, std::span<char> control, std::span<const BorrowedFd> fds) {
  if (fds.empty()) return;
  header.msg_control = control.data();
  header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  for (size_t i = 0; i < fds.size(); ++i) {
    const int number = fds[i].get();
    std::memcpy(CMSG_DATA(part) + i * sizeof number, &number, sizeof number);
  }
}

void take_fds(msghdr& header, std::vector<UniqueFd>& fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof number, sizeof number);
      fds.emplace_back(number);
    }
  }
}

}  // namespace

Result<bool> send_packet(BorrowedFd socket, std::span<const uint8_t> bytes, std::span<const BorrowedFd> fds,
                         std::span<const uint8_t> tail) {
  if (fds.size() > kMaxFds)
    return Error(ErrorKind::kInvalidArgument, fmt::format("packet: {} fds are too many", fds.size()));
  std::array<iovec, 2> data{{{const_cast<uint8_t*>(bytes.data()), bytes.size()},  // sendmsg(2) only reads it
                             {const_cast<uint8_t*>(tail.data()), tail.size()}}};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  msghdr header{};
  header.msg_iov = data.data();
  header.msg_iovlen = data.size();
  attach(header, control, fds);
  for (;;) {
    if (::sendmsg(socket.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
    const int code = errno;
    if (code == EINTR) continue;
    if (code == EAGAIN || code == EWOULDBLOCK || code == ENOBUFS || code == ETOOMANYREFS) return false;
    return Error::from_code("packet: sendmsg", code);
  }
}

Result<RawPacket> receive_packet(BorrowedFd socket, size_t maximum) {
  RawPacket packet;
  const auto room = packet.bytes.prepare(maximum);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  iovec data{room.data(), maximum};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t count = 0;
  do {
    count = ::recvmsg(socket.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (count < 0 && errno == EINTR);
  const int code = errno;
  if (count < 0 && (code == EAGAIN || code == EWOULDBLOCK)) return packet;
  if (count < 0 && code != ECONNRESET) return Error::from_code("packet: recvmsg", code);
  // Owned before anything else is looked at: no error path may leak them.
  if (count >= 0) take_fds(header, packet.fds);
  packet.state = count <= 0 ? ReceiveState::kClosed : ReceiveState::kMessage;
  if (count <= 0) return packet;
  if ((header.msg_flags & MSG_TRUNC) != 0)
    return Error(ErrorKind::kProtocol, "packet: message larger than agreed");
  packet.fds_lost = (header.msg_flags & MSG_CTRUNC) != 0;
  packet.bytes.commit(static_cast<size_t>(count));
  return packet;
}

Result<PacketPair> packet_pair() {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) != 0)
    return Error::from_errno("socketpair");
  return PacketPair{UniqueFd(pair[0]), UniqueFd(pair[1])};
}

}  // namespace fairlead::contract
