#include "keeper_bed.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "ebpf/features.h"
#include "net/query.h"

namespace fairlead::keeper::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void shell(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace

void KeeperBed::SetUp() {
  ASSERT_EQ(::geteuid(), 0u) << "the keeper's tests need root";
  static int number = 0;
  name_ = fmt::format("flk{}x{}", ::getpid(), ++number);
  directory_ = "/tmp/" + name_;
  ASSERT_EQ(::mkdir(directory_.c_str(), 0755), 0);
  const auto mount = ebpf::cgroup2_mount();
  ASSERT_TRUE(mount) << "cgroup v2 is not mounted";
  cgroups_ = *mount + "/" + name_;
  ASSERT_EQ(::mkdir(cgroups_.c_str(), 0755), 0);
  config_.node = "n1";
  config_.run_directory = directory_ + "/run";
  config_.bpf_directory = "/sys/fs/bpf/" + name_;
  config_.config_path = directory_ + "/script";
  config_.drain_deadline = std::chrono::milliseconds(200);
  const std::string reports = directory_ + "/reports";
  std::ofstream(reports).close();
  ASSERT_EQ(::chmod(reports.c_str(), 0666), 0);  // the proxy is another user
  reports_.open(reports);
  script({"hello 2", "synced"});
}

void KeeperBed::TearDown() {
  if (pid_ > 0) (void)stop(SIGKILL);
  const Result<void> cleaned = clean_up(config_);
  EXPECT_TRUE(cleaned) << cleaned.error().text();
  for (const std::string& netns : namespaces_) shell("ip netns delete " + netns + " 2>/dev/null || true");
  if (!cgroups_.empty()) shell("find " + cgroups_ + " -depth -type d -exec rmdir {} +");
  fs::remove_all(directory_);
}

void KeeperBed::script(const std::vector<std::string>& lines) const {
  std::string text = directory_ + "/reports\n";
  for (const std::string& line : lines) text += line + "\n";
  ASSERT_TRUE(write_file_atomically(config_.config_path, text));
}

void KeeperBed::start() {
  pid_ = ::fork();
  ASSERT_GE(pid_, 0);
  if (pid_ > 0) return;
  const int out = ::open((directory_ + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  (void)::dup2(out, STDERR_FILENO);
  rlimit files{};
  (void)::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &files);  // as the agent's main() does
  const Result<void> ended = Keeper(config_).run();
  if (!ended) std::fprintf(stderr, "%s\n", ended.error().text().c_str());
  ::_exit(ended ? 0 : 1);
}

void KeeperBed::start_and_wait() {
  start();
  eventually("the proxy is ready", [this] { return ask("status").value("proxyReady", false); });
}

int KeeperBed::wait_for_end() {
  int status = 0;
  bool ended = false;
  eventually("the keeper ends", [&] { return ended = ::waitpid(pid_, &status, WNOHANG) == pid_; });
  if (!ended) return -1;
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int KeeperBed::stop(int signal) {
  (void)::kill(pid_, signal);
  return wait_for_end();
}

bool KeeperBed::runs() const {
  return pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0;
}

json KeeperBed::ask(const std::string& line) const {
  const auto answer = net::query(file("keeper.sock"), line, kPatience);
  if (!answer) return json{{"unreachable", answer.error().text()}};
  return json::parse(*answer);
}

json KeeperBed::remove(const std::string& uid) const {
  return ask("pod.remove " + json{{"uid", uid}}.dump());
}

json KeeperBed::make_pod(int number) {
  const std::string netns = fmt::format("{}p{}", name_, number);
  namespaces_.push_back(netns);
  shell("ip netns add " + netns + " && ip -n " + netns +
        " link add eth0 type veth peer name eth1 && for i in lo eth0 eth1; do ip -n " + netns +
        " link set $i up; done");
  shell(fmt::format(
      "ip -n {0} addr add 10.200.{1}.2/24 dev eth0 && ip -n {0} addr add fd42:{1}::2/64 dev eth0 nodad",
      netns, number));
  const std::string cgroup = fmt::format("{}/pod{}", cgroups_, number);
  EXPECT_EQ(::mkdir(cgroup.c_str(), 0755), 0);
  return json{{"uid", fmt::format("uid-{}", number)},  {"namespace", "ns"},
              {"name", fmt::format("pod-{}", number)}, {"serviceAccount", "account"},
              {"netns", "/run/netns/" + netns},        {"cgroup", cgroup}};
}

void KeeperBed::destroy_namespace(int number) const {
  shell(fmt::format("ip netns delete {}p{}", name_, number));
}

std::vector<std::string> KeeperBed::reports_until(const std::string& beginning) {
  std::vector<std::string> all;
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::string part;
  while (std::chrono::steady_clock::now() < deadline) {
    std::string line;
    if (std::getline(reports_, line) && !reports_.eof()) {
      all.push_back(std::exchange(part, "") + line);
      if (all.back().starts_with(beginning)) return all;
      continue;
    }
    part += line;  // half a line so far, or nothing
    reports_.clear();
    (void)::poll(nullptr, 0, 5);
  }
  ADD_FAILURE() << "no report '" << beginning << "'; the keeper said:\n" << log();
  all.emplace_back();
  return all;
}

std::string KeeperBed::report(const std::string& beginning) {
  return reports_until(beginning).back();
}

void KeeperBed::eventually(const std::string& what, const std::function<bool()>& test) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (test()) return;
    (void)::poll(nullptr, 0, 5);
  }
  ADD_FAILURE() << "it never came true that " << what;
}

std::string KeeperBed::file(const std::string& name) const {
  return config_.run_directory + "/" + name;
}

std::vector<std::string> KeeperBed::pinned_pods() const {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(config_.bpf_directory + "/pods", none))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::string KeeperBed::log() const {
  std::ifstream file(directory_ + "/log");
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace fairlead::keeper::test
