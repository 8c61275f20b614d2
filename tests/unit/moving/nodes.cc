#include "unit/moving/nodes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "ebpf/abi_convert.h"
#include "ebpf/map.h"
#include "net/socket.h"
#include "state/decode.h"
#include "support/cert_factory.h"
#include "unit/state/mesh_for_test.h"

namespace fairlead::proxy::testing {
namespace {

constexpr auto kDeadline = std::chrono::seconds(20);

UniqueFd make_map(uint32_t key, uint32_t value) {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_HASH;
  attributes.key_size = key;
  attributes.value_size = value;
  attributes.max_entries = 4096;
  return UniqueFd(static_cast<int>(::syscall(__NR_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes)));
}

// 127.128.0.0/9 is nobody's; the process number makes it ours.
SocketAddress own_address(unsigned last) {
  const auto pid = static_cast<unsigned>(::getpid());
  return *SocketAddress::parse(
      fmt::format("127.{}.{}.{}:0", 128 + pid / 65536 % 64, pid / 256 % 256, 1 + (pid % 64) * 3 + last));
}

UniqueFd copy_of(const UniqueFd& fd) {
  auto copy = net::duplicate(fd);
  EXPECT_TRUE(copy.has_value());
  return std::move(*copy);
}

}  // namespace

// A network namespace whose loopback is up.
UniqueFd make_netns() {
  UniqueFd netns;
  std::thread([&netns] {
    if (::unshare(CLONE_NEWNET) != 0) return;
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    request.ifr_name[0] = 'l', request.ifr_name[1] = 'o';
    request.ifr_flags = IFF_UP;
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return;
    netns.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  }).join();
  return netns;
}

Mesh::Mesh(bool tunnels_in_place)
    : front(*SocketAddress::parse("127.0.0.1:0")),  // what the kernel gives whoever connects on loopback
      back(own_address(1)),
      service(own_address(2)),
      outside(own_address(0)),
      in_place(tunnels_in_place),
      netns_(make_netns()) {
  originals_map_ = make_map(sizeof(abi::fl_connection), sizeof(abi::fl_original));
  clients_map_ = make_map(sizeof(abi::fl_flow), sizeof(abi::fl_client));
  if (!originals_map_ || !clients_map_ || !netns_) return;
  originals = std::make_unique<ebpf::OriginalDestinations>(copy_of(originals_map_));
  clients = std::make_unique<ebpf::ClientNames>(copy_of(clients_map_));
  service.port = kServicePort;
  in_back([this] { application_listeners.push_back(std::move(*net::tcp_listener(back, 1024))); });
  application = net::local_address(application_listeners[0])->port;
  application_listeners.push_back(std::move(*net::tcp_listener(outside, 1024)));
  outside = *net::local_address(application_listeners[1]);
  application_listeners.push_back(std::move(*net::tcp_listener(front, 1024)));
  self = *net::local_address(application_listeners[2]);

  state::SnapshotBuilder builder;
  auto server = state::workload("back", back.ip.to_string());
  state::join(server, "back", application);
  if (in_place) server.mutable_workload()->add_extensions()->set_name(std::string(state::kInPlaceExtension));
  EXPECT_TRUE(builder.set_address("front", state::workload("front", front.ip.to_string())));
  EXPECT_TRUE(builder.set_address("back", server));
  EXPECT_TRUE(builder.set_address("outside", state::workload("outside", outside.ip.to_string(), false)));
  EXPECT_TRUE(
      builder.set_address(state::service_resource("back"), state::service("back", service.ip.to_string())));
  open = builder.build();
  EXPECT_TRUE(builder.set_policy("nobody", state::deny_all("nobody", istio::security::NAMESPACE)));
  closed = builder.build();

  const auto authority = ::fairlead::testing::Authority::root("mesh");
  for (const char* name : {"front", "back"}) {
    const std::string uri = fmt::format("spiffe://cluster.local/ns/ns/sa/sa-{}", name);
    const auto issued = authority.issue(::fairlead::testing::workload(uri));
    auto made =
        tls::Credentials::create(std::move(*tls::KeyPair::from_pem(issued.key_pem)), {issued.certificate_pem},
                                 authority.certificate_pem(), *SpiffeId::parse(uri));
    EXPECT_TRUE(made.has_value()) << made.error().text();
    credentials.push_back(*made);
  }
}

void Mesh::in_back(const std::function<void()>& function) const {
  std::thread([&] {
    EXPECT_EQ(::setns(netns_.get(), CLONE_NEWNET), 0);
    function();
  }).join();
}

std::vector<UniqueFd> Mesh::sockets(contract::PodId pod, int family) const {
  std::vector<UniqueFd> made;
  const auto make = [&] {
    for (size_t i = 0; i < contract::kSocketBatch; ++i) {
      made.push_back(std::move(*net::tcp_socket(family)));
    }
  };
  if (pod == kBack) {
    in_back(make);
  } else {
    make();
  }
  return made;
}

size_t Mesh::client_names() const {
  const ebpf::Map<abi::fl_flow, abi::fl_client> map(clients_map_);
  return map.entries(4096)->size();
}

void Mesh::capture(const SocketAddress& from, const SocketAddress& agent, const SocketAddress& to) const {
  const ebpf::Map<abi::fl_connection, abi::fl_original> map(originals_map_);
  abi::fl_original original{};
  original.address = ebpf::to_abi(to.ip);
  original.port = htons(to.port);
  EXPECT_TRUE(map.put(ebpf::to_connection(kFront, from, agent), original).has_value());
}

Node::Node(Mesh& mesh, contract::PodId pod) : snapshot(mesh.open), mesh_(mesh) {
  const bool is_front = pod == kFront;
  info_.pod = pod;
  info_.ns = "ns";
  info_.name = is_front ? "front" : "back";
  info_.service_account = "sa-" + info_.name;
  const SocketAddress own = is_front ? mesh.front : mesh.back;
  info_.addresses = {own.ip};
  listeners_.push_back(std::move(*net::tcp_listener(own, 1024)));
  outbound_ = *net::local_address(listeners_.back());
  const uint16_t port = is_front ? 0 : mesh.in_place ? mesh.application : kHbonePort;
  listeners_.push_back(std::move(*net::tcp_listener({own.ip, port}, 1024)));
  inbound_ = *net::local_address(listeners_.back());
  net::set_reset_on_close(listeners_[0]);  // as the keeper does
  const int little = 32768;  // what a slow reader leaves is to be ours to keep; accept() inherits
  (void)::setsockopt(listeners_[0].get(), SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
  info_.outbound_port = outbound_.port;
  info_.inbound_port = 1;  // where nobody is
  worker_ = make(false);
}

Node::~Node() = default;

std::unique_ptr<Worker> Node::make(bool successor) {
  Worker::Shared shared;
  shared.originals = mesh_.originals.get();
  shared.clients = mesh_.clients.get();
  shared.successor = successor;
  shared.need_sockets = [this](Worker& worker, contract::PodId pod, int family) {
    if (mesh_.withheld != pod) worker.give_sockets(pod, family, mesh_.sockets(pod, family));
  };
  auto worker = std::move(*Worker::create(shared));
  worker->start();
  for (const auto& credentials : mesh_.credentials) worker->set_credentials(credentials);
  std::vector<UniqueFd> copies;
  for (const UniqueFd& listener : listeners_) copies.push_back(copy_of(listener));
  worker->add_pod(info_, std::move(copies));
  std::promise<void> taken;
  worker->set_snapshot(snapshot, [&taken] { taken.set_value(); });
  EXPECT_EQ(taken.get_future().wait_for(kDeadline), std::future_status::ready);
  return worker;
}

void Node::give_withheld() {
  worker_->give_sockets(info_.pod, AF_INET, mesh_.sockets(info_.pod, AF_INET));
}

void Node::set_snapshot(const state::SnapshotPtr& next) {
  snapshot = next;
  std::promise<void> taken;
  worker_->set_snapshot(next, [&taken] { taken.set_value(); });
  ASSERT_EQ(taken.get_future().wait_for(kDeadline), std::future_status::ready);
}

WorkerReport Node::report() {
  std::promise<WorkerReport> promise;
  worker_->report({UINT64_MAX, {}},
                  [&promise](WorkerReport report) { promise.set_value(std::move(report)); });
  return promise.get_future().get();
}

void Node::move(Move how) {
  auto successor = how == Move::kThaw ? nullptr : make(true);
  const auto begun = Clock::now();
  std::promise<Result<std::vector<Parcel>>> packed;
  worker_->freeze([&packed](Result<std::vector<Parcel>> all) { packed.set_value(std::move(all)); });
  auto future = packed.get_future();
  ASSERT_EQ(future.wait_for(kDeadline), std::future_status::ready);
  auto all = future.get();
  const auto frozen = Clock::now();
  packing.push_back(std::chrono::duration_cast<std::chrono::microseconds>(frozen - begun));
  ASSERT_TRUE(all.has_value()) << all.error().text();
  parcels += all->size();
  for (const Parcel& parcel : *all) bytes += parcel.bytes.size();
  if (how == Move::kThaw) return worker_->thaw();
  if (how == Move::kCutShort && !all->empty()) all->back().bytes.truncate(all->back().bytes.size() - 1);
  if (how == Move::kFdLost && !all->empty()) all->back().fds.pop_back();
  const bool spoilt = !all->empty() && (how == Move::kCutShort || how == Move::kFdLost);
  std::promise<Result<void>> unpacked;
  successor->unpack(std::move(*all), [&unpacked](Result<void> done) { unpacked.set_value(std::move(done)); });
  const Result<void> done = unpacked.get_future().get();
  ASSERT_EQ(done.has_value(), !spoilt) << (done ? "" : done.error().text());
  if (how != Move::kCommit) {
    successor.reset();
    return worker_->thaw();
  }
  std::promise<void> gone;
  worker_->let_go([&gone] { gone.set_value(); });
  gone.get_future().get();
  successor->activate();
  pauses.push_back(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begun));
  worker_ = std::move(successor);
}

}  // namespace fairlead::proxy::testing
