// What the verifier walks for each program, against budget.txt: more than 10 % above the record fails.
// Kernels differ in what they count; the record is of the kernel that it names. FAIRLEAD_UPDATE_BUDGET=1
// writes a new one. And: the structs of bpf/abi as the BPF compiler laid them out, against the C++ ones.
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <sys/utsname.h>

#include <cstdlib>
#include <map>
#include <sstream>

#include "base/file.h"
#include "bpf/abi/trace.h"
#include "bpf/abi/types.h"
#include "connect_bpf.skel.h"
#include "decisions_bpf.skel.h"
#include "lookup_bpf.skel.h"
#include "names_bpf.skel.h"
#include "sockops_bpf.skel.h"

namespace fairlead::ebpf {
namespace {

// Major and minor: "6.18".
std::string kernel() {
  utsname name{};
  ::uname(&name);
  const std::string release = name.release;
  return release.substr(0, release.find('.', release.find('.') + 1));
}

void count_object(bpf_object* object, std::map<std::string, uint32_t>& counts) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object) {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    ASSERT_EQ(::bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size), 0);
    counts[bpf_program__name(program)] = info.verified_insns;
  }
}

template <class Skeleton, class Prepare>
void count_skeleton(std::map<std::string, uint32_t>& counts, Prepare prepare) {
  Skeleton* skeleton = Skeleton::open();
  ASSERT_NE(skeleton, nullptr);
  prepare(*skeleton);
  EXPECT_EQ(Skeleton::load(skeleton), 0);
  count_object(skeleton->obj, counts);
  Skeleton::destroy(skeleton);
}

std::map<std::string, uint32_t> verified() {
  std::map<std::string, uint32_t> counts;
  count_skeleton<connect_bpf>(counts, [](connect_bpf& object) { object.rodata->with_mptcp = 1; });
  count_skeleton<sockops_bpf>(counts, [](sockops_bpf& object) { object.rodata->with_mptcp = 1; });
  count_skeleton<names_bpf>(counts, [](names_bpf&) {});
  count_skeleton<lookup_bpf>(counts, [](lookup_bpf& object) { object.rodata->netns_cookie = 1; });
  return counts;
}

TEST(Budget, NoProgramGrewByMoreThanATenth) {
  const auto counts = verified();
  ASSERT_EQ(counts.size(), 8u);
  if (std::getenv("FAIRLEAD_UPDATE_BUDGET") != nullptr) {
    std::string text = "kernel " + kernel() + "\n";
    for (const auto& [name, count] : counts) text += fmt::format("{} {}\n", name, count);
    ASSERT_TRUE(write_file_atomically(FAIRLEAD_BUDGET_FILE, text));
  }
  const auto text = read_file(FAIRLEAD_BUDGET_FILE);
  ASSERT_TRUE(text) << text.error().text();
  std::istringstream lines(*text);
  std::string name, recorded_kernel;
  ASSERT_TRUE(lines >> name >> recorded_kernel && name == "kernel");
  // Another verifier counts otherwise; that all programs load is what can be said there.
  const double allowed = recorded_kernel == kernel() ? 1.10 : 3.0;
  std::map<std::string, uint32_t> recorded;
  for (uint32_t count = 0; lines >> name >> count;) recorded[name] = count;
  for (const auto& [program, count] : counts) {
    ASSERT_TRUE(recorded.contains(program)) << program << " has no budget";
    EXPECT_LE(count, recorded[program] * allowed)
        << program << ": FAIRLEAD_UPDATE_BUDGET=1 records a new budget";
  }
  EXPECT_EQ(recorded.size(), counts.size()) << "a budget without program";
}

// 'name.member offset' and 'name size' as the BTF of an object has them.
class Layout : public testing::Test {
 protected:
  void SetUp() override {
    connect_ = connect_bpf::open();
    decisions_ = decisions_bpf::open();
    ASSERT_TRUE(connect_ != nullptr && decisions_ != nullptr);
  }
  void TearDown() override {
    connect_bpf::destroy(connect_);
    decisions_bpf::destroy(decisions_);
  }
  const btf_type* find(const char* name) {
    for (const bpf_object* object : {connect_->obj, decisions_->obj}) {
      btf_ = bpf_object__btf(object);
      const int id = btf__find_by_name_kind(btf_, name, BTF_KIND_STRUCT);
      if (id >= 0) return btf__type_by_id(btf_, static_cast<uint32_t>(id));
    }
    return nullptr;
  }
  void expect_size(const char* name, size_t size, size_t members) {
    const btf_type* type = find(name);
    ASSERT_NE(type, nullptr) << name;
    EXPECT_EQ(type->size, size) << name;
    EXPECT_EQ(btf_vlen(type), members) << name << ": a member without a check";
  }
  void expect_offset(const char* name, const char* member, size_t offset) {
    const btf_type* type = find(name);
    ASSERT_NE(type, nullptr) << name;
    const btf_member* members = btf_members(type);
    for (uint32_t i = 0; i < btf_vlen(type); ++i) {
      if (std::string_view(btf__name_by_offset(btf_, members[i].name_off)) == member) {
        EXPECT_EQ(btf_member_bit_offset(type, i), offset * 8) << name << "." << member;
        return;
      }
    }
    ADD_FAILURE() << name << " has no " << member;
  }
  connect_bpf* connect_ = nullptr;
  decisions_bpf* decisions_ = nullptr;
  const btf* btf_ = nullptr;
};

#define EXPECT_MEMBER(type, member) expect_offset(#type, #member, offsetof(abi::type, member))

TEST_F(Layout, AbiStructsAreTheSameOnBothSides) {
  expect_size("fl_address", sizeof(abi::fl_address), 1);
  expect_size("fl_dest", sizeof(abi::fl_dest), 1);
  EXPECT_MEMBER(fl_dest, flags);
  expect_size("fl_pod", sizeof(abi::fl_pod), 5);
  EXPECT_MEMBER(fl_pod, address4);
  EXPECT_MEMBER(fl_pod, address6);
  EXPECT_MEMBER(fl_pod, outbound_port);
  EXPECT_MEMBER(fl_pod, inbound_port);
  EXPECT_MEMBER(fl_pod, flags);
  expect_size("fl_excluded_port", sizeof(abi::fl_excluded_port), 4);
  EXPECT_MEMBER(fl_excluded_port, netns_cookie);
  EXPECT_MEMBER(fl_excluded_port, port);
  EXPECT_MEMBER(fl_excluded_port, direction);
  expect_size("fl_excluded_range", sizeof(abi::fl_excluded_range), 3);
  EXPECT_MEMBER(fl_excluded_range, prefix_length);
  EXPECT_MEMBER(fl_excluded_range, netns_cookie);
  EXPECT_MEMBER(fl_excluded_range, address);
  expect_size("fl_connection", sizeof(abi::fl_connection), 6);
  EXPECT_MEMBER(fl_connection, netns_cookie);
  EXPECT_MEMBER(fl_connection, address);
  EXPECT_MEMBER(fl_connection, agent_address);
  EXPECT_MEMBER(fl_connection, port);
  EXPECT_MEMBER(fl_connection, agent_port);
  expect_size("fl_flow", sizeof(abi::fl_flow), 4);
  EXPECT_MEMBER(fl_flow, netns_cookie);
  EXPECT_MEMBER(fl_flow, address);
  EXPECT_MEMBER(fl_flow, port);
  expect_size("fl_original", sizeof(abi::fl_original), 4);
  EXPECT_MEMBER(fl_original, address);
  EXPECT_MEMBER(fl_original, port);
  EXPECT_MEMBER(fl_original, socket_cookie);
  expect_size("fl_client", sizeof(abi::fl_client), 3);
  EXPECT_MEMBER(fl_client, address);
  EXPECT_MEMBER(fl_client, port);
  expect_size("fl_listener_key", sizeof(abi::fl_listener_key), 3);
  EXPECT_MEMBER(fl_listener_key, netns_cookie);
  EXPECT_MEMBER(fl_listener_key, family);
  EXPECT_MEMBER(fl_listener_key, direction);
  expect_size("fl_endpoint", sizeof(abi::fl_endpoint), 3);
  EXPECT_MEMBER(fl_endpoint, port);
  expect_size("fl_tracer", sizeof(abi::fl_tracer), 5);
  EXPECT_MEMBER(fl_tracer, until);
  EXPECT_MEMBER(fl_tracer, lost);
  EXPECT_MEMBER(fl_tracer, netns_cookie);
  EXPECT_MEMBER(fl_tracer, verdicts);
  EXPECT_MEMBER(fl_tracer, pid);
  expect_size("fl_event", sizeof(abi::fl_event), 11);
  EXPECT_MEMBER(fl_event, time);
  EXPECT_MEMBER(fl_event, netns_cookie);
  EXPECT_MEMBER(fl_event, cgroup_id);
  EXPECT_MEMBER(fl_event, socket_cookie);
  EXPECT_MEMBER(fl_event, source);
  EXPECT_MEMBER(fl_event, destination);
  EXPECT_MEMBER(fl_event, loopback);
  EXPECT_MEMBER(fl_event, pid);
  EXPECT_MEMBER(fl_event, end);
  EXPECT_MEMBER(fl_event, protocol);
  EXPECT_MEMBER(fl_event, comm);
}

}  // namespace
}  // namespace fairlead::ebpf
