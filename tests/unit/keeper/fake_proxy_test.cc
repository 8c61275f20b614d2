#include "fake_proxy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include "contract/keeper_proxy.h"
#include "net/socket.h"

namespace fairlead::keeper::test {
namespace {

constexpr int kSoNetnsCookie = 71;

uint64_t netns_of(const UniqueFd& fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  (void)::getsockopt(fd.get(), SOL_SOCKET, kSoNetnsCookie, &cookie, &length);
  return cookie;
}

std::string whole(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string address_of(const UniqueFd& fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&storage), &length) != 0) return "?";
  int listens = 0;
  socklen_t size = sizeof listens;
  (void)::getsockopt(fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
  return SocketAddress::from(storage).to_string() + (listens != 0 ? "" : "(not listening)");
}

class FakeProxy {
 public:
  FakeProxy(const std::string& script, UniqueFd contract) : contract_(std::move(contract)) {
    std::ifstream file(script);
    std::getline(file, report_path_);
    for (std::string line; std::getline(file, line);) lines_.push_back(line);
    reports_.reset(::open(report_path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  }

  int run() {
    report("start " + privileges());
    for (const std::string& line : lines_) {
      if (line.starts_with("exit ")) return std::atoi(line.c_str() + 5);
      step(line);
    }
    for (;;) {
      pollfd entry{contract_.get(), POLLIN, 0};
      if (::poll(&entry, 1, -1) < 0) return 1;
      auto received = contract::receive(contract_);
      if (!received || received->state == contract::ReceiveState::kClosed) return 0;
      if (received->state != contract::ReceiveState::kMessage) continue;
      const bool drain = std::holds_alternative<contract::Drain>(received->packet.message);
      std::visit([&](const auto& message) { heard(message, received->packet.fds); },
                 received->packet.message);
      if (drain && !deaf_) return 0;
    }
  }

 private:
  void report(const std::string& text) const {
    const std::string line = text + "\n";
    (void)!::write(reports_.get(), line.data(), line.size());
  }

  // What the kernel says of this process, and the numbers of its open fds above stderr.
  std::string privileges() const {
    std::string text;
    std::istringstream status(whole("/proc/self/status"));
    for (std::string line; std::getline(status, line);) {
      for (const char* key : {"Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "CapBnd:", "NoNewPrivs:"}) {
        if (!line.starts_with(key)) continue;
        std::istringstream words(line);
        for (std::string word; words >> word;) text += word + " ";
      }
    }
    std::string fds;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int number = std::atoi(entry.path().filename().c_str());
      const bool mine = number == reports_.get() || number == contract_.get() || number <= STDERR_FILENO;
      std::error_code gone;
      const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
      if (!mine && !gone && !target.ends_with("/fd")) fds += " " + target;
    }
    return text + "inherited:" + fds + ".";
  }

  void say(const contract::Message& message) const { (void)!contract::send(contract_, message).has_value(); }

  void step(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    unsigned first = 0;
    unsigned second = 0;
    words >> verb >> first >> second;
    if (verb == "hello") say(contract::Hello{first});
    if (verb == "synced") say(contract::Synced{});
    if (verb == "ready") say(contract::Ready{});
    if (verb == "garbage") (void)::send(contract_.get(), "\xff\xff\xff", 3, MSG_NOSIGNAL);
    if (verb == "deaf") deaf_ = true;
    if (verb == "need") needs_.push_back({0, static_cast<uint8_t>(first), static_cast<uint8_t>(second)});
    if (verb == "need-unknown") say(contract::NeedSockets{~uint64_t{0}, AF_INET, 4});
    if (verb == "need-now") say(contract::NeedSockets{1, AF_INET, 4});
    if (verb == "flood") flood_ = true;
  }

  [[noreturn]] void flood(contract::PodId pod) const {
    for (;;) {
      const auto sent =
          contract::send(contract_, contract::NeedSockets{pod, AF_INET, contract::kSocketBatch});
      if (!sent) ::_exit(0);
      pollfd entry{contract_.get(), POLLOUT, 0};
      if (!*sent) (void)::poll(&entry, 1, 1000);
    }
  }

  using Fds = std::vector<UniqueFd>;
  void heard(const contract::Welcome& m, const Fds& fds) {
    report(fmt::format("welcome {} {}", m.version, fds.size()));
  }
  void heard(const contract::PodAdded& m, const Fds& fds) {
    std::string text = fmt::format("pod {} {}/{} {}", m.uid, m.ns, m.name, m.service_account);
    for (const IpAddress& address : m.addresses) text += " " + address.to_string();
    for (const UniqueFd& fd : fds)
      text += " " + address_of(fd) + (netns_of(fd) == m.pod ? "" : "(elsewhere)");
    report(text);
    for (contract::NeedSockets& need : needs_) {
      need.pod = m.pod;
      say(need);
    }
    needs_.clear();
    if (flood_) flood(m.pod);
  }
  void heard(const contract::PodRemoved&, const Fds&) { report("removed"); }
  void heard(const contract::Ready&, const Fds&) { report("ready"); }
  void heard(const contract::Sockets& m, const Fds& fds) {
    size_t inside = 0;
    for (const UniqueFd& fd : fds) inside += netns_of(fd) == m.pod ? 1 : 0;
    report(fmt::format("sockets {} {} {}", m.family == AF_INET ? 4 : 6, fds.size(), inside));
  }
  void heard(const contract::Drain& m, const Fds&) { report(fmt::format("drain {}", m.deadline_ms)); }
  template <class Other>
  void heard(const Other&, const Fds&) {
    report("nonsense");
  }

  UniqueFd contract_;
  UniqueFd reports_;
  std::string report_path_;
  std::vector<std::string> lines_;
  std::vector<contract::NeedSockets> needs_;
  bool deaf_ = false;
  bool flood_ = false;
};

}  // namespace

int fake_proxy(int argc, char** argv) {
  std::string script;
  int fd = -1;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::string_view(argv[i]) == "--config") script = argv[i + 1];
    if (std::string_view(argv[i]) == "--contract-fd") fd = std::atoi(argv[i + 1]);
  }
  return FakeProxy(script, UniqueFd(fd)).run();
}

}  // namespace fairlead::keeper::test

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "proxy") return fairlead::keeper::test::fake_proxy(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
