// The parts of ebpf/ that need no kernel object.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/file.h"
#include "bpf/abi/trace.h"
#include "ebpf/abi_convert.h"
#include "ebpf/features.h"
#include "ebpf/flow_maps.h"
#include "ebpf/inventory_names.h"
#include "ebpf/pins.h"
#include "ebpf/tracer.h"

namespace fairlead::ebpf {
namespace {

// docs/reference/trace.md names every end of every program, and no other.
TEST(TraceReference, IsWhatTheProgramsSay) {
  const auto text = read_file(FAIRLEAD_REFERENCE_DIR "/trace.md");
  ASSERT_TRUE(text) << text.error().text();
  const struct {
    uint32_t end;
    std::string_view hook, name;
  } ends[] = {
#define FL_END_ROW(id, verdict, hook, name) {abi::FL_END_##id, #hook, #name},
      FL_ENDS(FL_END_ROW)
#undef FL_END_ROW
  };
  const std::string_view verdicts[] = {"",
#define FL_VERDICT_ROW(id, name) #name,
                                       FL_VERDICTS(FL_VERDICT_ROW)
#undef FL_VERDICT_ROW
  };
  for (const auto& [end, hook, name] : ends) {
    const auto row = fmt::format("| `{}` | {} | `{}` |", hook, verdicts[end >> 8], name);
    EXPECT_NE(text->find(row), std::string::npos) << row;
    EXPECT_EQ(verdict_bit(verdicts[end >> 8]), 1u << (end >> 8)) << row;
  }
  size_t rows = 0;
  for (size_t at = text->find("## Reasons"); (at = text->find("\n| `", at + 1)) != std::string::npos;) ++rows;
  EXPECT_EQ(rows, std::size(ends)) << "a row of something else";
}

TEST(Cgroup2Mount, IsFoundAmongTheOthers) {
  const struct {
    const char* what;
    const char* mounts;
    std::optional<std::string> mount;
  } cases[] = {
      {"pure v2", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", "/sys/fs/cgroup"},
      {"hybrid: the v1 controllers come first",
       "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
       "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
       "/sys/fs/cgroup/unified"},
      {"two of them: the first", "a /first cgroup2 rw 0 0\nb /second cgroup2 rw 0 0\n", "/first"},
      {"a blank in the path", "none /mnt/a\\040b cgroup2 rw 0 0\n", "/mnt/a b"},
      {"a device of that name", "cgroup2 /mnt ext4 rw 0 0\n", std::nullopt},
      {"no newline at the end", "x /c cgroup2", "/c"},
      {"a truncated escape", "x /c\\04 cgroup2 rw 0 0\n", "/c\\04"},
      {"nothing", "", std::nullopt},
      {"noise", "\n\n  \nx\nx y\n", std::nullopt},
  };
  for (const auto& c : cases) EXPECT_EQ(cgroup2_mount_in(c.mounts), c.mount) << c.what;
}

TEST(Names, AreTheKernels) {
  EXPECT_EQ(program_type_name(BPF_PROG_TYPE_CGROUP_SOCK_ADDR), "cgroup_sock_addr");
  EXPECT_EQ(program_type_name(BPF_PROG_TYPE_SK_LOOKUP), "sk_lookup");
  EXPECT_EQ(map_type_name(BPF_MAP_TYPE_SOCKHASH), "sockhash");
  EXPECT_EQ(link_type_name(BPF_LINK_TYPE_NETNS), "netns");
  EXPECT_EQ(link_type_name(11), "tcx") << "younger than libbpf";
  EXPECT_EQ(attach_type_name(BPF_CGROUP_INET4_CONNECT), "cgroup_inet4_connect");
  EXPECT_EQ(attach_type_name(46), "tcx_ingress");
  EXPECT_EQ(program_type_name(4000), "4000") << "younger than we";
}

TEST(AbiConvert, AddressesAndPortsKeepTheirForm) {
  for (const char* text : {"10.1.2.3", "2001:db8::1", "::", "0.0.0.0", "::ffff:0:0:1"}) {
    const IpAddress address = *IpAddress::parse(text);
    EXPECT_EQ(from_abi(to_abi(address)), address) << text;
  }
  const abi::fl_flow flow = to_flow(7, {*IpAddress::parse("10.1.2.3"), 0x1234});
  EXPECT_EQ(flow.netns_cookie, 7u);
  EXPECT_EQ(flow.port, htons(0x1234));
  EXPECT_EQ(flow.address.octets[10], 0xff) << "mapped form";
  for (const uint8_t octet : flow.pad) EXPECT_EQ(octet, 0) << "keys are hashed whole";
}

TEST(Pins, DirectoriesAreListedSortedAndMayBeMissing) {
  EXPECT_EQ(list_directory("/definitely/not/there")->size(), 0u);
  EXPECT_FALSE(list_directory("/proc/self/status")) << "no directory";
  const auto names = list_directory("/proc/self");
  ASSERT_TRUE(names);
  EXPECT_TRUE(std::is_sorted(names->begin(), names->end()));
}

TEST(Bpffs, IsRecognisedByTheNearestParent) {
  EXPECT_FALSE(on_bpffs("/"));
  EXPECT_FALSE(on_bpffs("/tmp/not/there/yet"));
  EXPECT_FALSE(on_bpffs("relative/and/missing"));
  EXPECT_FALSE(on_bpffs(""));
}

// What is handed over may be anything.
TEST(FlowMaps, FdsThatAreNoMapsAreErrors) {
  const SocketAddress address{*IpAddress::parse("10.0.0.1"), 1};
  for (const int fd : {-1, ::open("/dev/null", O_RDONLY | O_CLOEXEC)}) {
    const OriginalDestinations originals{UniqueFd(::dup(fd))};
    const auto taken = originals.take(1, address, address);
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().kind(), ErrorKind::kBpf);
    EXPECT_NE(taken.error().code(), 0);
    const ClientNames clients{UniqueFd(::dup(fd))};
    EXPECT_FALSE(clients.publish(1, address, address));
    EXPECT_FALSE(clients.forget(1, address));
    const Destinations destinations{UniqueFd(fd)};
    EXPECT_FALSE(destinations.read());
    EXPECT_FALSE(destinations.replace({}));
  }
}

}  // namespace
}  // namespace fairlead::ebpf
