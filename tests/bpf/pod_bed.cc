#include "pod_bed.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/file.h"
#include "ebpf/features.h"
#include "ebpf/map.h"

namespace fairlead::ebpf::test {
namespace {

void run(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

UniqueFd open_netns(const std::string& name) {
  return UniqueFd(::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC));
}

}  // namespace

SocketAddress at(const std::string& ip, uint16_t port) {
  return {*IpAddress::parse(ip), port};
}

UniqueFd tcp_socket(int family, int protocol, int flags) {
  return UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, protocol));
}

int connect_to(int fd, const SocketAddress& to, int family) {
  sockaddr_storage storage{};
  const socklen_t length = to.to(storage, family);
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&storage), length);
}

UniqueFd listen_on(const SocketAddress& address, int backlog) {
  UniqueFd fd = tcp_socket(address.family());
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (address.family() == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  sockaddr_storage storage{};
  const socklen_t length = address.to(storage, address.family());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0) return {};
  if (::listen(fd.get(), backlog) != 0) return {};
  return fd;
}

std::string peer_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return std::strerror(errno);
  return SocketAddress::from(storage).to_string();
}

std::string local_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return std::strerror(errno);
  return SocketAddress::from(storage).to_string();
}

SocketAddress endpoint_of(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length), 0) << std::strerror(errno);
  return SocketAddress::from(storage);
}

bool wait_for(int fd, short events) {
  pollfd poll_fd{fd, events, 0};
  return ::poll(&poll_fd, 1, kDeadlineMs) == 1;
}

UniqueFd accept_one(int listener, SocketAddress* peer) {
  if (!wait_for(listener, POLLIN)) return {};
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  UniqueFd fd(::accept4(listener, reinterpret_cast<sockaddr*>(&storage), &length, SOCK_CLOEXEC));
  if (peer != nullptr) *peer = SocketAddress::from(storage);
  return fd;
}

bool nothing_to_accept(int listener) {
  pollfd poll_fd{listener, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) == 0;
}

std::string read_all(int fd) {
  std::string text;
  char buffer[256];
  while (wait_for(fd, POLLIN)) {
    const ssize_t got = ::read(fd, buffer, sizeof buffer);
    if (got <= 0) return text;
    text.append(buffer, static_cast<size_t>(got));
  }
  return text + "(no end of stream)";
}

uint64_t netns_cookie(int socket) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  EXPECT_EQ(::getsockopt(socket, SOL_SOCKET, 71 /* SO_NETNS_COOKIE */, &cookie, &length), 0);
  return cookie;
}

void PodBed::SetUp() {
  static int number = 0;
  name_ = fmt::format("flt{}x{}", ::getpid(), ++number);
  directory_ = "/sys/fs/bpf/" + name_;
  const auto mount = cgroup2_mount();
  ASSERT_TRUE(mount.has_value()) << "cgroup v2 is not mounted";
  cgroup_path_ = *mount + "/" + name_;
  ASSERT_EQ(::mkdir(cgroup_path_.c_str(), 0755), 0) << std::strerror(errno);
  cgroup_.reset(::open(cgroup_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string pod = name_ + "p", neighbour = name_ + "n";
  run("ip netns add " + pod);
  run("ip netns add " + neighbour);
  run("ip -n " + pod + " link add eth0 type veth peer name eth0 netns " + neighbour);
  const auto address = [](const std::string& netns, const std::string& v4, const std::string& v6) {
    run("ip -n " + netns + " link set lo up && ip -n " + netns + " link set eth0 up && ip -n " + netns +
        " addr add " + v4 + "/24 dev eth0 && ip -n " + netns + " addr add " + v6 + "/64 dev eth0 nodad");
  };
  address(pod, kPod4, kPod6);
  address(neighbour, kNeighbour4, kNeighbour6);
  run("ip -n " + pod + " route add default via " + kNeighbour4);
  run("ip -n " + pod + " route add default via " + kNeighbour6);
  pod_netns_ = open_netns(pod);
  neighbour_netns_ = open_netns(neighbour);
  ASSERT_TRUE(pod_netns_ && neighbour_netns_);
  in_netns(pod_netns_, [&] { cookie_ = netns_cookie(tcp_socket(AF_INET).get()); });
  auto datapath = Datapath::open(directory_);
  ASSERT_TRUE(datapath) << datapath.error().text();
  datapath_ = std::move(*datapath);
}

void PodBed::TearDown() {
  datapath_.reset();
  const auto removed = Datapath::remove_all(directory_);
  EXPECT_TRUE(removed) << removed.error().text();
  EXPECT_NE(::access(directory_.c_str(), F_OK), 0) << "remove_all left something";
  cgroup_.reset();
  ::rmdir(cgroup_path_.c_str());
  run("ip netns del " + name_ + "p");
  run("ip netns del " + name_ + "n");
}

PodAttachment PodBed::attachment() const {
  PodAttachment result;
  result.uid = name_;
  result.netns_cookie = cookie_;
  result.cgroup = cgroup_;
  result.netns = pod_netns_;
  result.pod.outbound_port = htons(kOutboundPort);
  result.pod.inbound_port = htons(kInboundPort);
  result.pod.flags = FL_POD_HAS_V4 | FL_POD_HAS_V6;
  const auto octets4 = IpAddress::parse(kPod4)->octets(), octets6 = IpAddress::parse(kPod6)->octets();
  std::copy(octets4.begin(), octets4.end(), result.pod.address4.octets);
  std::copy(octets6.begin(), octets6.end(), result.pod.address6.octets);
  return result;
}

void PodBed::listen_outbound() {
  in_netns(pod_netns_, [&] {
    outbound4_ = listen_on(at("127.0.0.1", kOutboundPort));
    outbound6_ = listen_on(at("::1", kOutboundPort));
  });
  ASSERT_TRUE(outbound4_ && outbound6_);
  ASSERT_TRUE(set_outbound(outbound4_, AF_INET));
  ASSERT_TRUE(set_outbound(outbound6_, AF_INET6));
}

Result<void> PodBed::set_outbound(const UniqueFd& listener, int family) {
  return datapath_->set_listener(cookie_, Direction::kOutbound, family, listener);
}

void PodBed::stop_outbound() {
  outbound4_.reset();
  outbound6_.reset();
}

void PodBed::attach() {
  listen_outbound();
  in_netns(pod_netns_, [&] {
    inbound4_ = listen_on(at("127.0.0.1", kInboundPort));
    inbound6_ = listen_on(at("::1", kInboundPort));
  });
  ASSERT_TRUE(inbound4_ && inbound6_);
  auto done = datapath_->set_listener(cookie_, Direction::kInbound, AF_INET, inbound4_);
  ASSERT_TRUE(done) << done.error().text();
  done = datapath_->set_listener(cookie_, Direction::kInbound, AF_INET6, inbound6_);
  ASSERT_TRUE(done) << done.error().text();
  done = datapath_->attach_pod(attachment());
  ASSERT_TRUE(done) << done.error().text();
  done = set_destinations({{kVip4, FL_DEST_CAPTURE}, {kVip6, FL_DEST_CAPTURE}});
  ASSERT_TRUE(done) << done.error().text();
}

Result<void> PodBed::set_destinations(const std::unordered_map<std::string, uint32_t>& destinations) {
  std::unordered_map<IpAddress, uint32_t> wanted;
  for (const auto& [ip, flags] : destinations) wanted[*IpAddress::parse(ip)] = flags;
  return Destinations(UniqueFd(::dup(datapath_->destinations().get()))).replace(wanted);
}

void PodBed::in_netns(BorrowedFd netns, const std::function<void()>& f) const {
  std::thread thread([&] {
    ASSERT_EQ(::setns(netns.get(), CLONE_NEWNET), 0) << std::strerror(errno);
    f();
  });
  thread.join();
}

std::string PodBed::run_child(const std::function<std::string()>& f, int netns) const {
  int pipe_fds[2];
  EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(kDeadlineMs / 1000);
    std::string answer = "child could not enter the pod";
    const UniqueFd procs(::open((cgroup_path_ + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
    const bool entered =
        ::write(procs.get(), "0", 1) == 1 && (netns < 0 || ::setns(netns, CLONE_NEWNET) == 0);
    if (entered) answer = f();
    const bool written =
        ::write(writer.get(), answer.data(), answer.size()) == static_cast<ssize_t>(answer.size());
    ::_exit(written ? 0 : 1);
  }
  writer.reset();
  std::string answer = read_all(reader.get());
  int status = 0;
  if (::waitpid(child, &status, 0) != child || status != 0) return "child failed: " + answer;
  return answer;
}

uint64_t PodBed::counter(const std::string& name) const {
  const auto counters = datapath_->counters();
  EXPECT_TRUE(counters);
  for (const Counter& counter : *counters) {
    if (counter.name == name) return counter.value;
  }
  ADD_FAILURE() << "no counter " << name;
  return 0;
}

size_t PodBed::originals() const {
  const auto entries =
      Map<abi::fl_connection, abi::fl_original>(datapath_->original_destinations()).entries(FL_MAX_ORIGDST);
  EXPECT_TRUE(entries) << entries.error().text();
  return entries ? entries->size() : 999;
}

std::optional<SocketAddress> PodBed::take(const SocketAddress& local, const SocketAddress& agent) const {
  const OriginalDestinations map(UniqueFd(::dup(datapath_->original_destinations().get())));
  const auto original = map.take(cookie_, local, agent);
  EXPECT_TRUE(original) << original.error().text();
  return *original;
}

}  // namespace fairlead::ebpf::test
