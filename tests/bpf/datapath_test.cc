// Life of the datapath: restarts, replaced pods, failures half-way, removal; and the flow maps without any
// privilege.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ebpf/abi_convert.h"
#include "ebpf/features.h"
#include "ebpf/hooks.h"
#include "ebpf/inventory.h"
#include "ebpf/map.h"
#include "ebpf/pins.h"
#include "pod_bed.h"

namespace fairlead::ebpf::test {
namespace {

class DatapathLife : public PodBed {
 protected:
  bpf_link_info link(const Hook& hook) const {
    bpf_link_info info{};
    const auto fd = open_pin(fmt::format("{}/pods/{}/{}", directory_, name_, hook.name));
    if (!fd) return info;
    uint32_t size = sizeof info;
    EXPECT_EQ(::bpf_obj_get_info_by_fd(fd->get(), &info, &size), 0);
    return info;
  }
  uint32_t programs_on_cgroup(const Hook& hook) const {
    uint32_t count = 0;
    EXPECT_EQ(::bpf_prog_query(cgroup_.get(), hook.type, 0, nullptr, nullptr, &count), 0) << hook.name;
    return count;
  }
  uint32_t programs_on_netns() const {
    uint32_t count = 0;
    EXPECT_EQ(::bpf_prog_query(pod_netns_.get(), BPF_SK_LOOKUP, 0, nullptr, nullptr, &count), 0);
    return count;
  }
  void expect_nothing_attached() const {
    for (const Hook& hook : kAttachOrder) {
      if (hook.type != BPF_SK_LOOKUP) EXPECT_EQ(programs_on_cgroup(hook), 0u) << hook.name;
    }
    EXPECT_EQ(programs_on_netns(), 0u);
  }
  std::string connect_vip() const {
    return in_pod([] {
      const UniqueFd fd = tcp_socket(AF_INET);
      if (connect_to(fd.get(), at(kVip4, 80), AF_INET) != 0) return std::string(std::strerror(errno));
      return peer_of(fd.get());
    });
  }
};

TEST_F(DatapathLife, CaptureOutlivesTheProcessAndIsTakenOverInPlace) {
  attach();
  const auto before = link(kConnect4), lookup_before = link(kLookup);
  datapath_.reset();
  EXPECT_EQ(connect_vip(), "198.51.100.10:80") << "with no agent, the pinned programs go on";

  auto again = Datapath::open(directory_);
  ASSERT_TRUE(again) << again.error().text();
  datapath_ = std::move(*again);
  EXPECT_EQ(originals(), 1u) << "the maps are the same";
  const auto done = datapath_->attach_pod(attachment());
  ASSERT_TRUE(done) << done.error().text();
  for (const auto& [hook, old] : {std::pair(kConnect4, before), std::pair(kLookup, lookup_before)}) {
    EXPECT_EQ(link(hook).id, old.id) << "the link is the same: capture never stopped";
    EXPECT_NE(link(hook).prog_id, old.prog_id) << "its program is the new one";
  }
  EXPECT_EQ(programs_on_cgroup(kConnect4), 1u);
  EXPECT_EQ(programs_on_netns(), 1u);
  EXPECT_EQ(connect_vip(), "198.51.100.10:80");
  EXPECT_EQ(originals(), 2u);
}

TEST_F(DatapathLife, DetachLeavesNothing) {
  attach();
  PodAttachment excluded = attachment();
  excluded.excluded_outbound = {1, 2};
  excluded.excluded_inbound = {3};
  excluded.excluded_ranges = {*Cidr::parse("10.0.0.0/8")};
  ASSERT_TRUE(datapath_->attach_pod(excluded));
  connect_vip();
  const ClientNames names(UniqueFd(::dup(datapath_->clients().get())));
  ASSERT_TRUE(names.publish(cookie_, at("127.0.0.1", 1), at("10.0.0.1", 1)));
  ASSERT_TRUE(names.publish(cookie_ + 1, at("127.0.0.1", 1), at("10.0.0.1", 1))) << "another pod's";
  ASSERT_EQ(*datapath_->pods(), std::vector<std::string>{name_});

  const auto done = datapath_->detach_pod(name_, cookie_);
  ASSERT_TRUE(done) << done.error().text();
  expect_nothing_attached();
  EXPECT_EQ(datapath_->pods()->size(), 0u);
  EXPECT_EQ(originals(), 0u);
  const auto inventory =
      take_inventory({.pin_directory = directory_, .cgroup_mount = "", .cgroup_paths = {}});
  ASSERT_TRUE(inventory) << inventory.error().text();
  for (const MapInfo& map : inventory->maps) {
    if (!map.ours || !map.entries || map.name == FL_MAP_DESTS) continue;
    EXPECT_EQ(*map.entries, map.name == FL_MAP_CLIENTS ? 1u : 0u) << map.name;
  }
  EXPECT_TRUE(datapath_->detach_pod(name_, cookie_)) << "again is success";
}

TEST_F(DatapathLife, DeadCgroupIsReplaced) {
  attach();
  cgroup_.reset();
  ASSERT_EQ(::rmdir(cgroup_path_.c_str()), 0) << std::strerror(errno);
  ASSERT_EQ(::mkdir(cgroup_path_.c_str(), 0755), 0);
  cgroup_.reset(::open(cgroup_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto done = datapath_->attach_pod(attachment());
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(programs_on_cgroup(kConnect4), 1u);
  EXPECT_EQ(connect_vip(), "198.51.100.10:80");
}

TEST_F(DatapathLife, PodMovedToAnotherNamespaceIsAttachedThere) {
  attach();
  PodAttachment moved = attachment();
  moved.netns = neighbour_netns_;
  ASSERT_TRUE(datapath_->attach_pod(moved));
  EXPECT_EQ(programs_on_netns(), 0u) << "not at the old place";
  EXPECT_EQ(programs_on_cgroup(kConnect4), 1u);
}

TEST_F(DatapathLife, NewPodIsAttachedWhollyOrNotAtAll) {
  PodAttachment broken = attachment();
  broken.netns = cgroup_;  // no netns: sk_lookup fails when half the hooks are there
  const auto done = datapath_->attach_pod(broken);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind(), ErrorKind::kBpf);
  EXPECT_NE(done.error().text().find("sk_lookup"), std::string::npos) << done.error().text();
  expect_nothing_attached();
  EXPECT_EQ(datapath_->pods()->size(), 0u);
}

TEST_F(DatapathLife, ExclusiveParentIsExplained) {
  const bpf_insn pass[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1}, {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  options.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
  const UniqueFd program(
      ::bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "foreign", "GPL", pass, std::size(pass), &options));
  ASSERT_TRUE(program);
  ASSERT_EQ(::bpf_prog_attach(program.get(), cgroup_.get(), BPF_CGROUP_INET4_CONNECT, 0), 0)
      << std::strerror(errno);
  const std::string child = cgroup_path_ + "/child";
  ASSERT_EQ(::mkdir(child.c_str(), 0755), 0);
  const UniqueFd child_fd(::open(child.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  PodAttachment pod = attachment();
  pod.cgroup = child_fd;
  const auto done = datapath_->attach_pod(pod);
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().text().find("BPF_F_ALLOW_MULTI"), std::string::npos) << done.error().text();

  const auto inventory =
      take_inventory({.pin_directory = directory_, .cgroup_mount = "", .cgroup_paths = {cgroup_path_}});
  ASSERT_TRUE(inventory) << inventory.error().text();
  bool seen = false;
  for (const CgroupAttachment& found : inventory->cgroup_attachments) {
    if (found.cgroup_path != cgroup_path_) continue;
    seen = true;
    EXPECT_EQ(found.program_name, "foreign");
    EXPECT_TRUE(found.exclusive);
    EXPECT_FALSE(found.by_link);
    EXPECT_FALSE(found.ours);
  }
  EXPECT_TRUE(seen);
  ::rmdir(child.c_str());
}

TEST_F(DatapathLife, PinsOfAnotherVersionAreNotReused) {
  attach();
  const auto version = open_pin(directory_ + "/maps/" FL_MAP_VERSION);
  ASSERT_TRUE(version);
  ASSERT_TRUE((Map<uint32_t, uint32_t>(*version).put(0, FL_ABI_VERSION + 1)));
  datapath_.reset();
  auto again = Datapath::open(directory_);
  ASSERT_TRUE(again) << again.error().text();
  datapath_ = std::move(*again);
  expect_nothing_attached();
  EXPECT_EQ(datapath_->pods()->size(), 0u);
  EXPECT_EQ(Destinations(UniqueFd(::dup(datapath_->destinations().get()))).read()->size(), 0u);
}

TEST_F(DatapathLife, NonsenseIsRefused) {
  const auto refused = [&](auto change) {
    PodAttachment pod = attachment();
    change(pod);
    const auto done = datapath_->attach_pod(pod);
    return !done && done.error().kind() == ErrorKind::kInvalidArgument;
  };
  for (const char* uid : {"", ".", "..", "a/b", "../../x", "a.b", "a b", "\xff"}) {
    EXPECT_TRUE(refused([&](PodAttachment& pod) { pod.uid = uid; })) << uid;
    EXPECT_FALSE(datapath_->detach_pod(uid, 1)) << uid;
  }
  EXPECT_TRUE(refused([](PodAttachment& pod) { pod.uid = std::string(64, 'a'); }));
  EXPECT_TRUE(refused([](PodAttachment& pod) { pod.netns_cookie = 0; }));
  EXPECT_TRUE(refused([](PodAttachment& pod) { pod.pod.outbound_port = 0; }));
  EXPECT_TRUE(refused([](PodAttachment& pod) { pod.cgroup = BorrowedFd(-1); }));
  EXPECT_FALSE(datapath_->set_listener(cookie_, Direction::kInbound, AF_UNIX, cgroup_));
  EXPECT_FALSE(datapath_->set_listener(cookie_, Direction::kOutbound, AF_INET, cgroup_)) << "no socket";
}

TEST(DatapathOpen, WithoutBpffsSaysSo) {
  const auto opened = Datapath::open("/tmp/fairlead-no-bpffs");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().kind(), ErrorKind::kUnavailable);
  EXPECT_NE(opened.error().text().find("mount"), std::string::npos);
  EXPECT_FALSE(Datapath::remove_all("/tmp")) << "only pins are ever removed";
  EXPECT_TRUE(Datapath::remove_all("/sys/fs/bpf/not-there/at-all"));
}

// More than one batch of a map walk: what the kernel writes must have room in the walk's buffers.
TEST_F(DatapathLife, InventoryCountsAFullMapOfFlows) {
  constexpr uint64_t kFlows = 5000;
  const Map<abi::fl_connection, abi::fl_original> flows(datapath_->original_destinations());
  for (uint64_t i = 1; i <= kFlows; ++i) {
    abi::fl_connection connection{};
    connection.netns_cookie = i;
    ASSERT_TRUE(flows.put(connection, {}));
  }
  const auto inventory =
      take_inventory({.pin_directory = directory_, .cgroup_mount = "", .cgroup_paths = {}});
  ASSERT_TRUE(inventory) << inventory.error().text();
  const auto map = std::find_if(inventory->maps.begin(), inventory->maps.end(),
                                [](const MapInfo& info) { return info.ours && info.name == FL_MAP_ORIGDST; });
  ASSERT_NE(map, inventory->maps.end());
  EXPECT_EQ(map->entries, std::optional<uint64_t>(kFlows));
}

TEST_F(DatapathLife, InventoryShowsOursAndWhere) {
  attach();
  const auto inventory =
      take_inventory({.pin_directory = directory_, .cgroup_mount = "", .cgroup_paths = {cgroup_path_}});
  ASSERT_TRUE(inventory) << inventory.error().text();
  size_t links = 0, cgroups = 0, attachments = 0;
  for (const LinkInfo& link : inventory->links) {
    if (!link.ours) continue;
    ++links;
    EXPECT_FALSE(link.defunct) << link.pin;
    EXPECT_TRUE(link.pin.starts_with("pods/" + name_ + "/")) << link.pin;
    if (link.type == "cgroup") {
      ++cgroups;
      EXPECT_EQ(link.cgroup_path, cgroup_path_);
    } else {
      EXPECT_EQ(link.type, "netns");
      EXPECT_EQ(link.attach_type, "sk_lookup");
      struct stat status{};
      ASSERT_EQ(::fstat(pod_netns_.get(), &status), 0);
      EXPECT_EQ(link.netns_inode, status.st_ino);
    }
  }
  EXPECT_EQ(links, 8u);
  EXPECT_EQ(cgroups, 7u);
  for (const CgroupAttachment& found : inventory->cgroup_attachments) {
    if (found.cgroup_path != cgroup_path_) continue;
    ++attachments;
    EXPECT_TRUE(found.ours && found.by_link && !found.exclusive) << found.attach_type;
  }
  EXPECT_EQ(attachments, 7u);
  size_t programs = 0;
  for (const ProgramInfo& program : inventory->programs) {
    if (!program.ours) continue;
    ++programs;
    EXPECT_TRUE(program.name.starts_with("fl_")) << program.name;
    EXPECT_EQ(program.tag.size(), 16u);
    EXPECT_GT(program.instructions, 0u);
    EXPECT_GT(program.loaded_at, std::chrono::system_clock::now() - std::chrono::minutes(5));
  }
  EXPECT_EQ(programs, 8u);
  size_t maps = 0;
  for (const MapInfo& map : inventory->maps) {
    if (!map.ours) continue;
    ++maps;
    if (map.name == FL_MAP_DESTS) EXPECT_EQ(map.entries, std::optional<uint64_t>(2));
    if (map.name != FL_MAP_PODS) continue;
    EXPECT_EQ(map.entries, std::optional<uint64_t>(1));
    EXPECT_GT(map.memory_bytes, size_t{FL_MAX_PODS} * sizeof(abi::fl_pod));
  }
  EXPECT_EQ(maps, 14u + 3u) << "those pinned, and the constants of connect, sockops and lookup";
}

TEST_F(DatapathLife, FlowMapsNeedNoPrivilege) {
  using Originals = Map<abi::fl_connection, abi::fl_original>;
  const SocketAddress from = at("127.0.0.1", 40000), to = at("127.9.9.9", kOutboundPort);
  ASSERT_TRUE(Originals(datapath_->original_destinations()).put(to_connection(cookie_, from, to), [] {
    abi::fl_original original{};
    original.address = to_abi(*IpAddress::parse(kVip4));
    original.port = htons(80);
    return original;
  }()));
  const std::string answer = in_pod([&]() -> std::string {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
        ::setresuid(65534, 65534, 65534) != 0) {
      return "could not drop privileges";
    }
    // Proof that none is left (with unprivileged BPF disabled, or socket maps refused otherwise).
    if (const UniqueFd map(::bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "x", 4, 4, 1, nullptr)); map)
      return "still privileged";
    const OriginalDestinations originals(UniqueFd(::dup(datapath_->original_destinations().get())));
    const auto other = originals.take(cookie_, from, at("127.9.9.8", kOutboundPort));
    if (!other || other->has_value()) return "that of another connection from the same port";
    const auto taken = originals.take(cookie_, from, to);
    if (!taken) return taken.error().text();
    if (*taken != at(kVip4, 80)) return "another original";
    const auto nothing = originals.take(cookie_, from, to);
    if (!nothing || nothing->has_value()) return "not taken away";
    const ClientNames names(UniqueFd(::dup(datapath_->clients().get())));
    if (auto done = names.publish(cookie_, at("127.0.0.1", 5), at("10.0.0.1", 6)); !done)
      return done.error().text();
    if (auto done = names.forget(cookie_, at("127.0.0.1", 5)); !done) return done.error().text();
    if (auto done = names.forget(cookie_, at("127.0.0.1", 5)); !done) return "forgetting twice fails";
    const Destinations destinations(UniqueFd(::dup(datapath_->destinations().get())));
    if (auto done = destinations.replace({{*IpAddress::parse("10.0.0.1"), FL_DEST_CAPTURE}}); !done) {
      return done.error().text();
    }
    const auto held = destinations.read();
    return held && held->size() == 1 ? "works" : "not written";
  });
  EXPECT_EQ(answer, "works");
}

TEST_F(DatapathLife, DestinationsAreReplacedByDifference) {
  const Destinations destinations(UniqueFd(::dup(datapath_->destinations().get())));
  std::unordered_map<IpAddress, uint32_t> wanted;
  const auto address = [](uint32_t i) { return IpAddress::v4({htonl(0x0a000000 + i)}); };
  for (uint32_t i = 0; i < 5000; ++i) wanted[address(i)] = FL_DEST_CAPTURE;
  ASSERT_TRUE(destinations.replace(wanted));
  EXPECT_EQ(*destinations.read(), wanted);
  for (uint32_t i = 0; i < 100; ++i) wanted.erase(address(i));
  wanted[address(200)] = FL_DEST_REFUSE;
  wanted[address(9000)] = FL_DEST_CAPTURE;
  ASSERT_TRUE(destinations.replace(wanted));
  EXPECT_EQ(*destinations.read(), wanted);
  ASSERT_TRUE(destinations.replace({}));
  EXPECT_EQ(destinations.read()->size(), 0u);
}

// The whole map changes at once: there is no room to add before deleting.
TEST_F(DatapathLife, FullDestinationsCanBeExchanged) {
  const Destinations destinations(UniqueFd(::dup(datapath_->destinations().get())));
  std::unordered_map<IpAddress, uint32_t> first, second;
  for (uint32_t i = 0; i < FL_MAX_DESTS; ++i) {
    first[IpAddress::v4({htonl(0x0a000000 + i)})] = FL_DEST_CAPTURE;
    second[IpAddress::v4({htonl(0x0b000000 + i)})] = FL_DEST_CAPTURE;
  }
  auto done = destinations.replace(first);
  ASSERT_TRUE(done) << done.error().text();
  done = destinations.replace(second);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(destinations.read()->size(), size_t{FL_MAX_DESTS});
  second[*IpAddress::parse("::1")] = FL_DEST_CAPTURE;
  done = destinations.replace(second);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind(), ErrorKind::kExhausted);
}

TEST(Features, ThisMachineHasWhatTheAgentNeeds) {
  const auto features = probe_features({.bpf_directory = "/sys/fs/bpf/fairlead", .cgroup_mount = ""});
  EXPECT_GE(features.size(), 12u);
  for (const Feature& feature : features) {
    if (feature.required) EXPECT_TRUE(feature.ok) << feature.name << ": " << feature.detail;
    EXPECT_EQ(feature.ok, feature.remedy.empty()) << feature.name;
    EXPECT_FALSE(feature.detail.empty()) << feature.name;
  }
  const auto nowhere = probe_features({.bpf_directory = "/tmp", .cgroup_mount = "/tmp"});
  size_t failed = 0;
  for (const Feature& feature : nowhere) failed += feature.required && !feature.ok ? 1 : 0;
  EXPECT_GE(failed, 4u) << "a directory that is no cgroup and no bpffs";
  EXPECT_NE(::access(fmt::format("/tmp/fairlead-probe-{}", ::getpid()).c_str(), F_OK), 0) << "left behind";
}

}  // namespace
}  // namespace fairlead::ebpf::test
