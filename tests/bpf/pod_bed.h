// A pod made for a test: two network namespaces joined by a veth pair (the pod, and its neighbour), a cgroup,
// and a Datapath in a pin directory of its own. Application code runs in a child process inside the pod's
// cgroup and netns; the agent's sockets are opened in the netns by a thread of the test. Everything is
// removed at the end.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <string>

#include "base/net_types.h"
#include "base/unique_fd.h"
#include "bpf/abi/maps.h"
#include "ebpf/datapath.h"
#include "ebpf/flow_maps.h"

namespace fairlead::ebpf::test {

constexpr int kDeadlineMs = 10'000;  // for everything that a test waits for
constexpr uint16_t kOutboundPort = 15001;
constexpr uint16_t kInboundPort = 15006;
constexpr const char* kPod4 = "10.199.1.2";
constexpr const char* kPod6 = "fd99::2";
constexpr const char* kNeighbour4 = "10.199.1.1";
constexpr const char* kNeighbour6 = "fd99::1";
// Mesh destinations that no packet ever reaches.
constexpr const char* kVip4 = "198.51.100.10";
constexpr const char* kVip6 = "2001:db8::10";

SocketAddress at(const std::string& ip, uint16_t port);

// Plain socket calls; the child's are the application's. Failures end in "errno: …" texts or -1 with errno.
UniqueFd tcp_socket(int family, int protocol = IPPROTO_TCP, int flags = 0);
int connect_to(int fd, const SocketAddress& to, int family);
UniqueFd listen_on(const SocketAddress& at, int backlog = 16);
std::string peer_of(int fd);        // getpeername() as text
std::string local_of(int fd);       // getsockname() as text
SocketAddress endpoint_of(int fd);  // getsockname()
bool wait_for(int fd, short events);
// accept() with a deadline; `peer` as accept() itself tells.
UniqueFd accept_one(int listener, SocketAddress* peer = nullptr);
bool nothing_to_accept(int listener);
std::string read_all(int fd);  // up to the end of stream
uint64_t netns_cookie(int socket);

class PodBed : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Attaches the pod and opens the agent's listeners (outbound and inbound, both families).
  void attach();
  PodAttachment attachment() const;
  void listen_outbound();
  Result<void> set_outbound(const UniqueFd& listener, int family);
  void stop_outbound();
  Result<void> set_destinations(const std::unordered_map<std::string, uint32_t>& destinations);

  // Runs `f` in a child of the pod's cgroup (and netns); its string comes back. "child failed" when it dies.
  std::string in_pod(const std::function<std::string()>& f) const { return run_child(f, pod_netns_.get()); }
  std::string in_pod_cgroup_only(const std::function<std::string()>& f) const { return run_child(f, -1); }
  // Runs `f` in a thread that entered the netns, outside the pod's cgroup.
  void in_netns(BorrowedFd netns, const std::function<void()>& f) const;

  uint64_t counter(const std::string& name) const;
  size_t originals() const;  // entries of fl_origdst
  std::optional<SocketAddress> take(const SocketAddress& local, const SocketAddress& agent) const;

  std::string name_;       // of this test's objects
  std::string directory_;  // of the pins
  std::string cgroup_path_;
  UniqueFd cgroup_, pod_netns_, neighbour_netns_;
  uint64_t cookie_ = 0;
  std::unique_ptr<Datapath> datapath_;
  UniqueFd outbound4_, outbound6_, inbound4_, inbound6_;

 private:
  std::string run_child(const std::function<std::string()>& f, int netns) const;
};

}  // namespace fairlead::ebpf::test
