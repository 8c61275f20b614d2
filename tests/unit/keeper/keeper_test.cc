#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "keeper_bed.h"
#include "net/netns.h"
#include "net/socket.h"
#include "support/golden.h"

namespace fairlead::keeper::test {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string listeners_of(int number) {
  return fmt::format(
      "pod uid-{0} ns/pod-{0} account 10.200.{0}.2 fd42:{0}::2 127.0.0.1:15001 127.0.0.1:15006 [::1]:15001 "
      "[::1]:15006",
      number);
}

// A process that listens where the keeper wants to. Of its own, because the keeper under test is a fork of
// this one.
pid_t squat(const std::string& path) {
  const auto home = net::current_netns();
  const auto netns = net::open_netns(path);
  if (!home || !netns) return -1;
  const auto inside = net::NetnsScope::enter(*netns, *home);
  const auto listener = net::tcp_listener({*IpAddress::parse("127.0.0.1"), kOutboundPort}, 1);
  EXPECT_TRUE(listener);
  const pid_t child = ::fork();
  while (child == 0) (void)::pause();
  return child;
}

// ---- pods ----

TEST_F(KeeperBed, NoPodBeforeTheMeshIsKnown) {
  script({"hello 2"});
  start();
  EXPECT_EQ(report("welcome"), "welcome 2 3") << "the three map fds come with it";
  report("ready");
  const json pod = make_pod(1);
  EXPECT_THAT(add(pod).value("error", ""), HasSubstr("no mesh state yet"));
  EXPECT_THAT(pinned_pods(), IsEmpty());
  EXPECT_THAT(ask("pods"), IsEmpty());
}

TEST_F(KeeperBed, APodComesAndGoes) {
  start_and_wait();
  report("ready");
  const json added = add(make_pod(1));
  ASSERT_TRUE(added.value("ok", false)) << added;
  EXPECT_TRUE(added["ready"]);
  EXPECT_EQ(report("pod"), listeners_of(1));
  const json told = ask("pods");
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0]["netnsCookie"], added["netnsCookie"]);
  EXPECT_EQ(told[0]["addresses"], json::parse(R"(["10.200.1.2", "fd42:1::2"])"));
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1"));
  struct stat memory{};
  ASSERT_EQ(::stat(file("pods.json").c_str(), &memory), 0);
  EXPECT_EQ(memory.st_mode & 0777, 0600u);

  ASSERT_TRUE(remove("uid-1").value("ok", false));
  report("removed");
  EXPECT_THAT(ask("pods"), IsEmpty());
  EXPECT_THAT(pinned_pods(), IsEmpty());
  EXPECT_EQ(json::parse(*read_file(file("pods.json"))), json::array());
  EXPECT_EQ(remove("uid-1").value("error", ""), "no pod with uid uid-1");
}

// What `fairlead -o json` prints of the keeper is a stable API; what varies is replaced.
TEST_F(KeeperBed, AnswersAreStable) {
  start_and_wait();
  json pod = make_pod(1);
  pod["annotations"] = {{"traffic.sidecar.istio.io/excludeOutboundPorts", "7000"},
                        {"traffic.sidecar.istio.io/excludeInboundPorts", "9000"},
                        {"traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0/8"}};
  const auto golden = [](const char* name, const json& document) {
    fairlead::test::expect_golden(std::string("agent/keeper-") + name + ".json", document.dump(2) + "\n");
  };
  json added = add(pod);
  added["netnsCookie"] = 42;
  golden("pod.add", added);
  json pods = ask("pods");
  ASSERT_EQ(pods.size(), 1u);
  pods[0]["netnsCookie"] = 42;
  pods[0]["netns"] = "/run/netns/pod-1";
  pods[0]["cgroup"] = "/sys/fs/cgroup/kubepods/poduid-1";
  golden("pods", pods);
  json status = ask("status");
  status["pid"] = 4710;
  status["proxyPid"] = 4711;
  status["uptimeSeconds"] = 192;
  status["version"] = "0.0.0";
  status["bpf"]["directory"] = "/sys/fs/bpf/fairlead";
  golden("status", status);
  golden("pod.remove", remove("uid-1"));
}

TEST_F(KeeperBed, TheSamePodAgainIsARefresh) {
  start_and_wait();
  json pod = make_pod(1);
  const json first = add(pod);
  pod["annotations"] = {{"traffic.sidecar.istio.io/excludeOutboundPorts", "7000"}};
  const json second = add(pod);
  EXPECT_EQ(first["netnsCookie"], second["netnsCookie"]);
  ASSERT_EQ(ask("pods").size(), 1u);
  EXPECT_EQ(ask("pods")[0]["excludedOutboundPorts"], json::array({7000}));
  report("pod");
  EXPECT_EQ(report("pod"), listeners_of(1)) << "the listeners are the old ones";
}

TEST_F(KeeperBed, APodWithAnotherNamespaceReplacesTheOldOne) {
  start_and_wait();
  json pod = make_pod(1);
  const json first = add(pod);
  pod["netns"] = make_pod(2)["netns"];
  const json second = add(pod);
  ASSERT_TRUE(second.value("ok", false)) << second;
  EXPECT_NE(first["netnsCookie"], second["netnsCookie"]);
  EXPECT_EQ(ask("pods").size(), 1u);
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1"));
}

TEST_F(KeeperBed, WhatCannotReplaceAPodLeavesItAsItWas) {
  start_and_wait();
  json pod = make_pod(1);
  const json first = add(pod);
  const std::string before = *read_file(file("pods.json"));
  const json other = make_pod(2);
  ASSERT_TRUE(add(other).value("ok", false));
  ASSERT_TRUE(remove("uid-2").value("ok", false));
  ASSERT_EQ(std::system(fmt::format("rmdir {}", other["cgroup"].get<std::string>()).c_str()), 0);
  for (const auto& [key, value] : {std::pair<const char*, json>("netns", "/run/netns/none"),
                                   {"netns", "/proc/self/ns/net"},
                                   {"cgroup", other["cgroup"]},
                                   {"cgroup", "/etc"}}) {
    json broken = pod;
    if (std::string_view(key) == "cgroup") broken["netns"] = other["netns"];
    broken[key] = value;
    EXPECT_TRUE(add(broken).contains("error")) << broken;
    ASSERT_EQ(ask("pods").size(), 1u) << broken;
    EXPECT_EQ(ask("pods")[0]["netnsCookie"], first["netnsCookie"]);
    EXPECT_THAT(pinned_pods(), ElementsAre("uid-1"));
    EXPECT_EQ(*read_file(file("pods.json")), before);
  }
}

TEST_F(KeeperBed, EnrolmentIsValidated) {
  start_and_wait();
  const json good = make_pod(1);
  const auto with = [&good](const char* key, const json& value) {
    json pod = good;
    pod[key] = value;
    return pod.dump();
  };
  const std::string root = good["cgroup"].get<std::string>();
  const std::pair<std::string, const char*> cases[] = {
      {"", "not JSON"},
      {"{", "not JSON"},
      {"[]", "want an object"},
      {with("uid", ""), "uid must be"},
      {with("uid", "../../etc"), "uid must be"},
      {with("uid", 7), "'uid' must be a string"},
      {with("netns", "run/netns/x"), "netns must be an absolute path"},
      {with("netns", "/run/netns/there-is-none"), "No such file"},
      {with("netns", "/etc/passwd"), "no network namespace"},
      {with("netns", "/proc/self/ns/net"), "the node's own network namespace"},
      {with("cgroup", "/sys/../etc"), "cgroup must be"},
      {with("cgroup", "/etc"), "no cgroup v2"},
      {with("cgroup", root.substr(0, root.find("/" + name_))), "the root cgroup"},
      {with("cgroup", root + "/none"), "No such file"},
      {with("annotations", json{{"traffic.sidecar.istio.io/excludeInboundPorts", "http"}}), "is not a port"},
      {with("pid", 1), "unknown field 'pid'"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_THAT(ask("pod.add " + text).value("error", ""), HasSubstr(expected)) << text;
    EXPECT_THAT(ask("pods"), IsEmpty()) << text;
    EXPECT_THAT(pinned_pods(), IsEmpty()) << text;
  }
  EXPECT_THAT(ask("pod.remove {}").value("error", ""), HasSubstr("want {\"uid\""));
  EXPECT_THAT(ask("fly").value("error", ""), HasSubstr("unknown question 'fly'"));
}

TEST_F(KeeperBed, OnlyRootReachesItsSocket) {
  start_and_wait();
  struct stat info{};
  ASSERT_EQ(::stat(file("keeper.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_uid, 0u);
}

// ---- its memory ----

TEST_F(KeeperBed, AKilledKeeperFindsItsPodsAgain) {
  start_and_wait();
  const json before = (add(make_pod(1)), add(make_pod(2)), ask("pods"));
  ASSERT_EQ(before.size(), 2u);
  report("pod uid-2");  // what follows is the next proxy's
  EXPECT_EQ(stop(SIGKILL), 128 + SIGKILL);
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1", "uid-2")) << "the pods would be let out in clear";
  start_and_wait();
  EXPECT_EQ(ask("pods"), before);
  const auto heard = reports_until("ready");
  EXPECT_THAT(heard, ::testing::IsSupersetOf({listeners_of(1), listeners_of(2)}));
}

TEST_F(KeeperBed, APodThatVanishedMeanwhileIsDetachedAndForgotten) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  ASSERT_TRUE(add(make_pod(2)).value("ok", false));
  (void)stop(SIGKILL);
  destroy_namespace(1);
  start_and_wait();
  ASSERT_EQ(ask("pods").size(), 1u);
  EXPECT_EQ(ask("pods")[0]["uid"], "uid-2");
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-2"));
  EXPECT_EQ(json::parse(*read_file(file("pods.json"))).size(), 1u);
}

// Whoever holds its listener's port keeps the keeper from serving it: then it must not be let out in clear.
TEST_F(KeeperBed, APodThatCannotBeServedStaysCapturedAndRemembered) {
  start_and_wait();
  const json pod = make_pod(1);
  ASSERT_TRUE(add(pod).value("ok", false));
  (void)stop(SIGKILL);
  const pid_t squatter = squat(pod["netns"].get<std::string>());
  start_and_wait();
  EXPECT_THAT(ask("pods"), IsEmpty());
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1")) << "an enrolled pod was let out in clear";
  EXPECT_EQ(json::parse(*read_file(file("pods.json"))).size(), 1u);
  EXPECT_THAT(log(), HasSubstr("stays captured without service"));
  (void)::kill(squatter, SIGKILL);
  (void)::waitpid(squatter, nullptr, 0);
  ASSERT_TRUE(add(pod).value("ok", false)) << "once the port is free";
  EXPECT_EQ(ask("pods").size(), 1u);
  ASSERT_TRUE(remove("uid-1").value("ok", false));
  EXPECT_THAT(pinned_pods(), IsEmpty());
}

TEST_F(KeeperBed, OneRunDirectoryHasOneAgent) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  const json before = ask("pods");
  KeeperConfig other = config_;
  other.node = "n2";
  const Result<void> second = Keeper(other).run();
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().text(), HasSubstr("this is node n1, not n2"));
  EXPECT_THAT(clean_up(config_).error().text(), HasSubstr("stop it first"));
  EXPECT_EQ(ask("pods"), before);
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1"));
  EXPECT_EQ(ask("status")["handOvers"]["failed"], 1);
}

TEST_F(KeeperBed, ABrokenMemoryOpensNothing) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  const std::string whole = *read_file(file("pods.json"));
  json escape = json::parse(whole);
  escape[0]["uid"] = "../../../../etc";
  const std::string cases[] = {"",
                               whole.substr(0, whole.size() / 2),
                               "{}",
                               "[7]",
                               std::string("\0\xff", 2),
                               escape.dump(),
                               std::string(17 << 20, '[')};
  for (const std::string& content : cases) {
    (void)stop(SIGKILL);
    ASSERT_TRUE(write_file_atomically(file("pods.json"), content));
    start_and_wait();
    EXPECT_THAT(ask("pods"), IsEmpty()) << content.substr(0, 100);
    EXPECT_THAT(pinned_pods(), ElementsAre("uid-1")) << "an enrolled pod was let out in clear";
    EXPECT_THAT(log(), HasSubstr("pods.json"));
  }
}

TEST_F(KeeperBed, ABrokenMemoryIsMadeGoodByEnrollingAgain) {
  start_and_wait();
  const json pod = make_pod(1);
  ASSERT_TRUE(add(pod).value("ok", false));
  (void)stop(SIGKILL);
  ASSERT_TRUE(write_file_atomically(file("pods.json"), "{"));
  start_and_wait();
  ASSERT_TRUE(add(pod).value("ok", false));
  (void)stop(SIGKILL);
  start_and_wait();
  EXPECT_EQ(ask("pods").size(), 1u);
}

TEST_F(KeeperBed, CleanUpLeavesNothing) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  (void)stop(SIGKILL);
  ASSERT_TRUE(clean_up(config_));
  EXPECT_FALSE(std::filesystem::exists(config_.bpf_directory));
  EXPECT_FALSE(std::filesystem::exists(config_.run_directory));
  EXPECT_TRUE(clean_up(config_)) << "twice is as good as once";
}

// ---- the contract ----

TEST_F(KeeperBed, TheProxyHasNoPrivilegeAndInheritsNothing) {
  start();
  const std::string told = report("start");
  EXPECT_THAT(told, HasSubstr("Uid: 65532 65532 65532 65532 Gid: 65532 65532 65532 65532"));
  EXPECT_THAT(told, HasSubstr("Groups: Cap"));
  for (const char* set : {"CapPrm:", "CapEff:", "CapBnd:"})
    EXPECT_THAT(told, HasSubstr(std::string(set) + " 0000000000000000"));
  EXPECT_THAT(told, HasSubstr("NoNewPrivs: 1"));
  EXPECT_THAT(told, HasSubstr("inherited:."));
}

TEST_F(KeeperBed, SocketsAreMadeInThePodsNamespace) {
  script({"hello 2", "synced", "need 2 32", "need 10 5", "need-unknown"});
  start_and_wait();
  EXPECT_EQ(report("sockets"), "sockets 4 0 0") << "of a pod that is not there: none";
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  EXPECT_EQ(report("sockets"), "sockets 4 32 32");
  EXPECT_EQ(report("sockets"), "sockets 6 5 5");
}

class Breach : public KeeperBed, public ::testing::WithParamInterface<std::vector<std::string>> {};

TEST_P(Breach, TheProxyIsReplaced) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  script(GetParam());
  const pid_t old = ask("status").value("proxyPid", -1);
  ASSERT_GT(old, 0);
  (void)::kill(old, SIGKILL);
  eventually("the breach is seen", [&] { return ask("status").value("proxyRestarts", 0u) >= 2; });
  script({"hello 2", "synced"});
  eventually("a good proxy is taken", [&] { return ask("status").value("proxyReady", false); });
  EXPECT_EQ(ask("pods").size(), 1u);
  EXPECT_TRUE(runs());
}

INSTANTIATE_TEST_SUITE_P(
    Contract, Breach,
    ::testing::Values(std::vector<std::string>{"garbage"}, std::vector<std::string>{"hello 1"},
                      std::vector<std::string>{"ready"}, std::vector<std::string>{"need-now"},
                      std::vector<std::string>{"synced"}, std::vector<std::string>{"hello 2", "garbage"},
                      std::vector<std::string>{"hello 2", "hello 2"},
                      std::vector<std::string>{"hello 2", "ready"}),
    [](const auto& instance) {
      std::string name;
      for (const std::string& line : instance.param) {
        for (const char c : line) name += c >= '0' ? c : '_';
        name += "__";
      }
      return name;
    });

TEST_F(KeeperBed, AProxyThatOnlyAsksDoesNotExhaustTheKeeper) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  const auto open = [this] {
    using Entries = std::filesystem::directory_iterator;
    return std::distance(Entries(fmt::format("/proc/{}/fd", pid_)), Entries());
  };
  const auto before = open();
  script({"hello 2", "flood"});
  (void)::kill(ask("status").value("proxyPid", -1), SIGKILL);
  decltype(open()) most = 0;
  eventually("the keeper answers meanwhile and puts an end to it", [&] {
    most = std::max(most, open());
    return ask("status").value("proxyRestarts", 0u) >= 2;
  });
  EXPECT_LT(most, 10000);
  script({"hello 2", "synced"});
  eventually("a good proxy is taken", [&] { return ask("status").value("proxyReady", false); });
  eventually("what was made for it is closed", [&] { return open() <= before + 8; });
}

// ---- the proxy's life ----

TEST_F(KeeperBed, AProxyThatDiesYoungIsStartedEverMoreRarely) {
  script({"exit 3"});
  start();
  std::vector<std::chrono::steady_clock::time_point> starts;
  for (int i = 0; i < 7; ++i) {
    report("start");
    starts.push_back(std::chrono::steady_clock::now());
  }
  // 20, 40, … 640 ms: each of the last gaps is the double of the one before, give or take the machine.
  const auto gap = [&starts](size_t i) { return starts[i] - starts[i - 1]; };
  EXPECT_GE(gap(6), std::chrono::milliseconds(400));
  EXPECT_GE(gap(5), std::chrono::milliseconds(200));
  EXPECT_GE(gap(4), std::chrono::milliseconds(100));
  EXPECT_LT(gap(1), std::chrono::milliseconds(600));
  EXPECT_GE(ask("status").value("proxyRestarts", 0u), 6u);
  EXPECT_FALSE(ask("status").value("proxyReady", true));
  // And it recovers on its own.
  script({"hello 2", "synced"});
  eventually("the next one is taken", [this] { return ask("status").value("proxyReady", false); });
}

TEST_F(KeeperBed, PodsAreTakenWhileTheNextProxyStarts) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  script({"hello 2"});  // the next one has not synced yet
  (void)::kill(ask("status").value("proxyPid", -1), SIGKILL);
  eventually("it is gone", [this] { return ask("status").value("proxyRestarts", 0u) == 1; });
  // fl_dests has held the mesh: the new pod is captured, and waits.
  const json added = add(make_pod(2));
  EXPECT_TRUE(added.value("ok", false)) << added;
  EXPECT_FALSE(added.value("ready", true));
}

TEST_F(KeeperBed, StopDrainsTheProxyAndKeepsThePodsClosed) {
  start_and_wait();
  ASSERT_TRUE(add(make_pod(1)).value("ok", false));
  EXPECT_EQ(stop(SIGTERM), 0);
  EXPECT_EQ(report("drain"), "drain 200");
  EXPECT_THAT(pinned_pods(), ElementsAre("uid-1"));
  EXPECT_EQ(json::parse(*read_file(file("pods.json"))).size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(file("keeper.sock")));
}

TEST_F(KeeperBed, AProxyThatDoesNotDrainIsKilled) {
  script({"hello 2", "synced", "deaf"});
  start_and_wait();
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(stop(SIGTERM), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(1100));
}

TEST_F(KeeperBed, ASecondSignalEndsItAtOnce) {
  config_.drain_deadline = std::chrono::minutes(10);
  script({"hello 2", "synced", "deaf"});
  start_and_wait();
  (void)::kill(pid_, SIGTERM);
  report("drain");
  EXPECT_EQ(stop(SIGTERM), 0);
}

TEST_F(KeeperBed, TheProxyDoesNotOutliveTheKeeper) {
  start_and_wait();
  const pid_t proxy = ask("status").value("proxyPid", -1);
  ASSERT_GT(proxy, 0);
  (void)stop(SIGKILL);
  eventually("the proxy is gone", [proxy] {
    std::ifstream stat(fmt::format("/proc/{}/stat", proxy));
    std::string text;
    std::getline(stat, text);
    return text.empty() || text.find(") Z") != std::string::npos;
  });
}

// ---- what cannot start ----

TEST_F(KeeperBed, ABpfDirectoryThatIsNoneIsAClearError) {
  const std::string good = config_.bpf_directory;
  config_.bpf_directory = directory_ + "/bpf";
  start();
  EXPECT_EQ(wait_for_end(), 1);
  EXPECT_THAT(log(), HasSubstr("no BPF file system"));
  config_.bpf_directory = good;
}

}  // namespace
}  // namespace fairlead::keeper::test
