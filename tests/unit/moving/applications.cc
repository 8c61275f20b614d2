#include "unit/moving/applications.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "net/socket.h"

namespace fairlead::proxy::testing {
namespace {

constexpr int kPatienceSeconds = 30;

struct Order {
  uint8_t kind;
  uint32_t seed;
  uint64_t bytes;
};

uint8_t byte_at(unsigned seed, size_t place) {
  return static_cast<uint8_t>(seed * 131 + place * 7 + (place >> 8) * 13 + (place >> 16) * 31);
}

// Blocking, with an end to patience.
void make_patient(BorrowedFd fd) {
  (void)::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  const timeval limit{kPatienceSeconds, 0};
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

void pause(int milliseconds) {
  (void)::poll(nullptr, 0, milliseconds);
}

}  // namespace

Applications::Applications(Mesh& mesh, Node& front) : mesh_(mesh), front_(front) {
  acceptor_ = std::thread([this] { accept_all(); });
}

Applications::~Applications() {
  finish();
  stopping_ = true;
  acceptor_.join();
}

void Applications::fault(std::string text) {
  const std::lock_guard lock(mutex_);
  faults_.push_back(std::move(text));
}

std::vector<std::string> Applications::unexpected_faults() {
  const std::lock_guard lock(mutex_);
  return expects_faults_ ? std::vector<std::string>() : faults_;
}

void Applications::in_thread(std::function<void()> function) {
  const std::lock_guard lock(mutex_);
  threads_.emplace_back(std::move(function));
}

void Applications::finish() {
  finishing_ = true;
  for (;;) {
    std::vector<std::thread> threads;
    {
      const std::lock_guard lock(mutex_);
      threads.swap(threads_);
    }
    if (threads.empty()) return;
    for (std::thread& thread : threads) thread.join();
  }
}

void Applications::wait_for_finish() const {
  while (!finishing_) pause(5);
}

// ---- bytes

bool Applications::say(BorrowedFd fd, unsigned seed, size_t bytes) {
  std::vector<uint8_t> chunk(32768);
  for (size_t said = 0; said < bytes;) {
    const size_t part = std::min(chunk.size(), bytes - said);
    for (size_t i = 0; i < part; ++i) chunk[i] = byte_at(seed, said + i);
    for (size_t sent = 0; sent < part;) {
      const ssize_t now = ::send(fd.get(), chunk.data() + sent, part - sent, MSG_NOSIGNAL);
      if (now <= 0) {
        fault(fmt::format("{}: send at {} of {}: {}", seed, said + sent, bytes, std::strerror(errno)));
        return false;
      }
      sent += static_cast<size_t>(now);
    }
    said += part;
  }
  return true;
}

bool Applications::hear(BorrowedFd fd, unsigned seed, size_t bytes, bool slowly) {
  std::vector<uint8_t> chunk(slowly ? 8192 : 65536);
  for (size_t heard = 0; heard < bytes;) {
    const ssize_t now = ::recv(fd.get(), chunk.data(), std::min(chunk.size(), bytes - heard), 0);
    if (now <= 0) {
      fault(fmt::format("{}: recv at {} of {}: {}", seed, heard, bytes,
                        now == 0 ? "the end" : std::strerror(errno)));
      return false;
    }
    for (size_t i = 0; i < static_cast<size_t>(now); ++i) {
      if (chunk[i] == byte_at(seed, heard + i)) continue;
      fault(fmt::format("{}: a wrong byte at {} of {}", seed, heard + i, bytes));
      return false;
    }
    heard += static_cast<size_t>(now);
    if (slowly && !finishing_) pause(2);
  }
  return true;
}

bool Applications::hear_end(BorrowedFd fd) {
  char more = 0;
  const ssize_t got = ::recv(fd.get(), &more, 1, 0);
  if (got == 0) return true;
  fault(fmt::format("no end: {}", got > 0 ? "another byte" : std::strerror(errno)));
  return false;
}

// ---- the server

void Applications::accept_all() {
  while (!stopping_) {
    std::vector<pollfd> ready;
    for (const UniqueFd& listener : mesh_.application_listeners) ready.push_back({listener.get(), POLLIN, 0});
    if (::poll(ready.data(), ready.size(), 20) <= 0) continue;
    for (const UniqueFd& listener : mesh_.application_listeners) {
      auto accepted = net::accept(listener);
      if (!accepted || !*accepted) continue;
      auto fd = std::make_shared<UniqueFd>(std::move((*accepted)->fd));
      in_thread([this, fd] { serve(std::move(*fd)); });
    }
  }
}

void Applications::serve(UniqueFd fd) {
  make_patient(fd);
  std::array<uint8_t, 16> order{};
  const ssize_t got = ::recv(fd.get(), order.data(), order.size(), MSG_WAITALL);
  // A set-up that a successor begins anew leaves a connection that says nothing.
  if (got != static_cast<ssize_t>(order.size())) return;
  Order wanted{};
  wanted.kind = order[0];
  std::memcpy(&wanted.seed, &order[4], 4);
  std::memcpy(&wanted.bytes, &order[8], 8);
  switch (static_cast<Kind>(wanted.kind)) {
    case Kind::kLikeTls:
    case Kind::kEcho: {
      std::array<uint8_t, 4096> chunk;
      for (;;) {
        const ssize_t now = ::recv(fd.get(), chunk.data(), chunk.size(), 0);
        if (now == 0) break;
        if (now < 0 || ::send(fd.get(), chunk.data(), static_cast<size_t>(now), MSG_NOSIGNAL) != now)
          return fault(fmt::format("{}: echo: {}", wanted.seed, std::strerror(errno)));
      }
      break;
    }
    case Kind::kBulk: {
      std::thread talk([&] { (void)say(fd, wanted.seed + 1, wanted.bytes); });
      (void)hear(fd, wanted.seed, wanted.bytes);
      talk.join();
      break;
    }
    case Kind::kHalfClosed:
      if (!hear(fd, wanted.seed, wanted.bytes) || !hear_end(fd)) return;
      wait_for_finish();
      (void)say(fd, wanted.seed + 1, wanted.bytes);
      return;
    case Kind::kSlowEnd:
      if (!hear_end(fd)) return;
      (void)say(fd, wanted.seed + 1, wanted.bytes);
      return;
    case Kind::kSlow: (void)say(fd, wanted.seed + 1, wanted.bytes); break;
  }
  (void)::shutdown(fd.get(), SHUT_WR);
  if (static_cast<Kind>(wanted.kind) != Kind::kEcho) (void)hear_end(fd);
}

// ---- the client

UniqueFd Applications::dial(const SocketAddress& destination, bool slow) {
  auto fd = std::move(*net::tcp_socket(AF_INET));
  const int little = 8192;  // so that its agent holds what it does not read
  if (slow) (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
  make_patient(fd);
  EXPECT_TRUE(net::bind(fd, {IpAddress::parse("127.0.0.1").value(), 0}, AF_INET).has_value());
  mesh_.capture(*net::local_address(fd), front_.outbound(), destination);
  sockaddr_storage to{};
  const socklen_t length = front_.outbound().to(to, AF_INET);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), length) != 0)
    fault(fmt::format("connect: {}", std::strerror(errno)));
  ++dialled_;
  return fd;
}

void Applications::talk(UniqueFd fd, Kind kind, size_t bytes, unsigned seed) {
  make_patient(fd);
  std::array<uint8_t, 16> order{static_cast<uint8_t>(kind)};
  const auto count = static_cast<uint64_t>(bytes);
  std::memcpy(&order[4], &seed, 4);
  std::memcpy(&order[8], &count, 8);
  const size_t skip = kind == Kind::kLikeTls ? 4 : 0;  // its caller has said them
  const size_t rest = order.size() - skip;
  if (::send(fd.get(), &order[skip], rest, MSG_NOSIGNAL) != static_cast<ssize_t>(rest))
    return fault(fmt::format("{}: order: {}", seed, std::strerror(errno)));
  switch (kind) {
    case Kind::kLikeTls:
    case Kind::kEcho: {  // in two parts, with all of the test between them when it is a long one
      if (!say(fd, seed, bytes) || !hear(fd, seed, bytes)) return;
      if (bytes > 1000) wait_for_finish();
      if (!say(fd, seed, bytes)) return;
      (void)::shutdown(fd.get(), SHUT_WR);
      if (hear(fd, seed, bytes)) (void)hear_end(fd);
      return;
    }
    case Kind::kBulk: {
      std::thread talk([&] { (void)say(fd, seed, bytes); });
      const bool heard = hear(fd, seed + 1, bytes);
      talk.join();
      (void)::shutdown(fd.get(), SHUT_WR);
      if (heard) (void)hear_end(fd);
      return;
    }
    case Kind::kHalfClosed:
      if (!say(fd, seed, bytes)) return;
      (void)::shutdown(fd.get(), SHUT_WR);
      if (hear(fd, seed + 1, bytes)) (void)hear_end(fd);
      return;
    case Kind::kSlowEnd:
      (void)::shutdown(fd.get(), SHUT_WR);
      if (hear(fd, seed + 1, bytes, true)) (void)hear_end(fd);
      return;
    case Kind::kSlow:
      if (!hear(fd, seed + 1, bytes, true) || !hear_end(fd)) return;
      (void)::shutdown(fd.get(), SHUT_WR);
      return;
  }
}

void Applications::start(Kind kind, size_t bytes, const SocketAddress& to) {
  const auto seed = static_cast<unsigned>(10 * (1 + running_++));
  const bool slow = kind == Kind::kSlow || kind == Kind::kSlowEnd;
  in_thread([this, kind, bytes, seed, to, slow] { talk(dial(to, slow), kind, bytes, seed); });
}

void Applications::keep_starting(Kind kind, size_t bytes) {
  const auto seed = static_cast<unsigned>(10 * (1 + running_++));
  in_thread([this, kind, bytes, seed] {
    while (!finishing_) talk(dial(mesh_.service, kind == Kind::kSlowEnd), kind, bytes, seed);
  });
}

}  // namespace fairlead::proxy::testing
