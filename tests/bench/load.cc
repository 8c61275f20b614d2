// fairlead-load: what public load generators lack for scripts/bench. One thread, poll-free where it matters.
//   fairlead-load echo PORT                          answers every byte (the peer of pingpong and idle)
//   fairlead-load pingpong IP:PORT SECONDS           one byte to and fro; round trips in µs
//   fairlead-load rounds IP:PORT COUNT BYTES         so many messages to and fro, whole and right; no clock
//   fairlead-load open IP:PORT RATE CONNS SECONDS    HTTP GETs at a fixed rate, latency from the moment a
//   request was due fairlead-load idle IP:PORT COUNT                 opens COUNT connections, proves each
//   with a byte, prints "ready", holds them
//                                                    until stdin closes
//   fairlead-load churn IP:PORT,IP:PORT SECONDS      new connections, one after the other and to each address
//   in turn: names asked for, a byte to and fro, reset
// Results are one line of JSON on stdout.
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <deque>
#include <string>
#include <vector>

#include "base/net_types.h"
#include "net/socket.h"

namespace fairlead::load {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::microseconds;

Result<UniqueFd> dial(const SocketAddress& to) {
  UniqueFd fd(::socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Error::from_errno("socket");
  sockaddr_storage storage;
  const socklen_t length = to.to(storage, to.family());
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0)
    return Error::from_errno("connect " + to.to_string());
  net::set_nodelay(fd);
  return fd;
}

void print_latencies(std::vector<double>& us, const char* rate_name, double rate) {
  std::sort(us.begin(), us.end());
  const auto at = [&](double share) {
    return us.empty()
               ? 0.0
               : us[std::min(us.size() - 1, static_cast<size_t>(share * static_cast<double>(us.size())))];
  };
  std::printf("{\"%s\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"count\": %zu}\n", rate_name, rate,
              at(0.5), at(0.99), us.size());
}

// ---- echo
// ---------------------------------------------------------------------------------------------------------------

Result<void> echo(uint16_t port) {
  UniqueFd listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return Error::from_errno("socket");
  const int one = 1;
  (void)::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);  // ignoring: a convenience
  FL_TRY(net::bind(listener, {IpAddress(), port}, AF_INET6));
  if (::listen(listener.get(), 8192) != 0) return Error::from_errno("listen");
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = listener.get();
  ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener.get(), &event);
  std::array<epoll_event, 64> events;
  std::array<char, 65536> buffer;
  for (;;) {
    const int count = ::epoll_wait(epoll.get(), events.data(), events.size(), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == listener.get()) {
        sockaddr_storage peer{};  // asked for, as servers do: there is a BPF program for it
        socklen_t length = sizeof peer;
        const int client = ::accept4(fd, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_CLOEXEC);
        if (client < 0) continue;
        net::set_nodelay(BorrowedFd(client));
        event.data.fd = client;
        ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, client, &event);
        continue;
      }
      const ssize_t got = ::read(fd, buffer.data(), buffer.size());
      if (got <= 0 || ::write(fd, buffer.data(), static_cast<size_t>(got)) != got) UniqueFd(fd).reset();
    }
  }
}

// ---- pingpong
// -----------------------------------------------------------------------------------------------------------

Result<void> pingpong(const SocketAddress& to, int seconds) {
  FL_TRY_ASSIGN(const UniqueFd fd, dial(to));
  std::vector<double> us;
  const auto start = Clock::now();
  const auto end = start + std::chrono::seconds(seconds);
  char byte = 'x';
  for (auto now = start; now < end;) {
    if (::write(fd.get(), &byte, 1) != 1 || ::read(fd.get(), &byte, 1) != 1)
      return Error(ErrorKind::kClosed, "pingpong: the peer closed");
    const auto after = Clock::now();
    us.push_back(static_cast<double>(duration_cast<std::chrono::nanoseconds>(after - now).count()) / 1000);
    now = after;
  }
  us.erase(us.begin(), us.begin() + static_cast<ptrdiff_t>(us.size() / 20));  // warm-up
  print_latencies(us, "requests_per_s", static_cast<double>(us.size()) / seconds);
  return {};
}

// For counting instructions: as much work each time.
Result<void> rounds(const SocketAddress& to, int count, size_t bytes) {
  FL_TRY_ASSIGN(const UniqueFd fd, dial(to));
  std::string said(bytes, 'x');
  std::string heard(bytes, 0);
  for (int round = 0; round < count; ++round) {
    said[0] = static_cast<char>(round);
    if (::write(fd.get(), said.data(), bytes) != static_cast<ssize_t>(bytes))
      return Error::from_errno("write");
    for (size_t at = 0; at < bytes;) {
      const ssize_t part = ::read(fd.get(), heard.data() + at, bytes - at);
      if (part <= 0) return Error(ErrorKind::kClosed, "rounds: the peer closed");
      at += static_cast<size_t>(part);
    }
    if (said != heard) return Error(ErrorKind::kProtocol, "rounds: another echo");
  }
  std::printf("{\"rounds\": %d}\n", count);
  return {};
}

// ---- open loop
// ----------------------------------------------------------------------------------------------------------

struct Lane {
  UniqueFd fd;
  std::deque<Clock::time_point> due;  // requests under way, oldest first
  std::string received;
  size_t body_left = 0;
};

// Takes whole responses off the front; the number of them.
int take_responses(Lane& lane) {
  int taken = 0;
  for (;;) {
    const size_t end = lane.received.find("\r\n\r\n");
    if (end == std::string::npos) return taken;
    const size_t field = lane.received.find("Content-Length: ");
    if (field == std::string::npos || field > end) return taken;
    const size_t length = std::strtoul(lane.received.c_str() + field + 16, nullptr, 10);
    if (lane.received.size() < end + 4 + length) return taken;
    lane.received.erase(0, end + 4 + length);
    ++taken;
  }
}

Result<void> open_loop(const SocketAddress& to, int rate, int connections, int seconds) {
  const std::string request = "GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n";
  std::vector<Lane> lanes(static_cast<size_t>(connections));
  std::vector<pollfd> polls;
  for (Lane& lane : lanes) {
    FL_TRY_ASSIGN(lane.fd, dial(to));
    polls.push_back({lane.fd.get(), POLLIN, 0});
  }
  const auto interval = std::chrono::nanoseconds(1000000000 / rate);
  const auto start = Clock::now() + std::chrono::milliseconds(50);
  const int64_t total = static_cast<int64_t>(rate) * seconds;
  std::vector<double> us;
  std::array<char, 65536> buffer;
  int64_t sent = 0;
  while (static_cast<int64_t>(us.size()) < total) {
    const auto now = Clock::now();
    if (now > start + std::chrono::seconds(seconds + 5)) break;
    const auto due = start + interval * sent;
    if (sent < total && now >= due) {
      Lane& lane = lanes[static_cast<size_t>(sent % connections)];
      lane.due.push_back(due);
      if (::write(lane.fd.get(), request.data(), request.size()) < 0) return Error::from_errno("write");
      ++sent;
      continue;
    }
    const auto wait = sent < total ? due - now : std::chrono::nanoseconds(1000000);
    const timespec timeout{0, static_cast<long>(std::min<int64_t>(
                                  duration_cast<std::chrono::nanoseconds>(wait).count(), 999999999))};
    if (::ppoll(polls.data(), polls.size(), &timeout, nullptr) <= 0) continue;
    for (size_t i = 0; i < polls.size(); ++i) {
      if (polls[i].revents == 0) continue;
      const ssize_t got = ::read(lanes[i].fd.get(), buffer.data(), buffer.size());
      if (got <= 0) return Error(ErrorKind::kClosed, "open: the peer closed");
      lanes[i].received.append(buffer.data(), static_cast<size_t>(got));
      const auto done = Clock::now();
      for (int n = take_responses(lanes[i]); n > 0; --n) {
        us.push_back(static_cast<double>(
                         duration_cast<std::chrono::nanoseconds>(done - lanes[i].due.front()).count()) /
                     1000);
        lanes[i].due.pop_front();
      }
    }
  }
  print_latencies(us, "requests_per_s", static_cast<double>(us.size()) / seconds);
  return {};
}

// ---- churn
// ---------------------------------------------------------------------------------------------------------------

// A connection as an application has it that looks who it talks to. Reset at the end: no TIME_WAIT uses up
// ports.
Result<void> one_connection(const SocketAddress& to) {
  FL_TRY_ASSIGN(const UniqueFd fd, dial(to));
  const linger at_once{1, 0};
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once,
                     sizeof at_once);  // ignoring: ports last longer
  sockaddr_storage name{};
  socklen_t length = sizeof name;
  if (::getpeername(fd.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0)
    return Error::from_errno("getpeername");
  length = sizeof name;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0)
    return Error::from_errno("getsockname");
  char byte = 'c';
  if (::write(fd.get(), &byte, 1) != 1 || ::read(fd.get(), &byte, 1) != 1)
    return Error(ErrorKind::kClosed, "churn: the peer closed");
  return {};
}

Result<void> churn(const std::vector<SocketAddress>& targets, int seconds) {
  std::vector<double> us;
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  for (auto now = Clock::now(); now < end;) {
    FL_TRY(one_connection(targets[us.size() % targets.size()]));
    const auto after = Clock::now();
    us.push_back(static_cast<double>(duration_cast<std::chrono::nanoseconds>(after - now).count()) / 1000);
    now = after;
  }
  print_latencies(us, "connections_per_s", static_cast<double>(us.size()) / seconds);
  return {};
}

Result<std::vector<SocketAddress>> targets_of(std::string_view list) {
  std::vector<SocketAddress> targets;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    FL_TRY_ASSIGN(const SocketAddress target, SocketAddress::parse(list.substr(at, comma - at)));
    targets.push_back(target);
    at = comma + 1;
  }
  return targets;
}

// ---- idle
// ---------------------------------------------------------------------------------------------------------------

Result<void> idle(const SocketAddress& to, int count) {
  std::vector<UniqueFd> held;
  for (int i = 0; i < count; ++i) {
    FL_TRY_ASSIGN(UniqueFd fd, dial(to));
    char byte = 'i';
    if (::write(fd.get(), &byte, 1) != 1 || ::read(fd.get(), &byte, 1) != 1)
      return Error(ErrorKind::kClosed, fmt::format("idle: connection {} died", i));
    held.push_back(std::move(fd));
  }
  std::printf("ready\n");
  std::fflush(stdout);
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return {};
}

Result<void> act(const std::vector<std::string>& words) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  const auto number = [&](size_t at) {
    return static_cast<int>(parse_number(words.at(at), 1000000).value_or(0));
  };
  if (words.size() == 2 && words[0] == "echo") return echo(static_cast<uint16_t>(number(1)));
  if (words.size() < 3)
    return Error(ErrorKind::kInvalidArgument, "usage: fairlead-load echo|pingpong|open|idle|churn …");
  if (words[0] == "churn") {
    FL_TRY_ASSIGN(const auto targets, targets_of(words[1]));
    return churn(targets, number(2));
  }
  FL_TRY_ASSIGN(const SocketAddress to, SocketAddress::parse(words[1]));
  if (words[0] == "pingpong") return pingpong(to, number(2));
  if (words[0] == "rounds" && words.size() == 4) return rounds(to, number(2), static_cast<size_t>(number(3)));
  if (words[0] == "idle") return idle(to, number(2));
  if (words[0] == "open" && words.size() == 5) return open_loop(to, number(2), number(3), number(4));
  return Error(ErrorKind::kInvalidArgument, "usage: fairlead-load echo|pingpong|open|idle|churn …");
}

}  // namespace
}  // namespace fairlead::load

int main(int argc, char** argv) {
  const auto result = fairlead::load::act({argv + 1, argv + argc});
  if (result) return 0;
  std::fprintf(stderr, "fairlead-load: %s\n", result.error().text().c_str());
  return 1;
}
