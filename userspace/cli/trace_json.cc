// bpf trace: what the datapath programs decide, live. The kernel hands the events to this process; the agent
// is asked for the names of pods only, so a reader that is slow holds up nobody but itself.
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/rfc3339.h"
#include "cli/inventory_rows.h"
#include "cli/output.h"
#include "ebpf/inventory.h"
#include "ebpf/tracer.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;
using Steady = std::chrono::steady_clock;

constexpr uint64_t kMostEvents = 1'000'000'000;
constexpr std::chrono::milliseconds kAgentPatience{500};  // well below the lease
constexpr std::string_view kUsageText =
    "fairlead bpf trace [--pod NAMESPACE/NAME] [--verdict NAME[,NAME…]] [-n COUNT]";

struct Wanted {
  std::string pod;  // "namespace/name"; empty: all
  uint32_t verdicts = ~0u;
  uint64_t most = kMostEvents;
};

// 0: one of them is none; that was said.
uint32_t verdicts_of(std::string_view list) {
  uint32_t bits = 0;
  for (size_t at = 0; at <= list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    const std::string_view name = list.substr(at, comma - at);
    const uint32_t bit = ebpf::verdict_bit(name);
    if (bit == 0) {
      complain(kUsage, fmt::format("bpf trace: no verdict '{}': want {}\n  Try: {}", name,
                                   ebpf::verdict_names(), kUsageText));
      return 0;
    }
    bits |= bit;
    at = comma + 1;
  }
  return bits;
}

std::optional<Wanted> wanted_of(const Options& options) {
  Wanted wanted;
  uint32_t verdicts = 0;
  const auto& words = options.arguments;
  for (size_t i = 0; i < words.size(); i += 2) {
    const std::string value = i + 1 < words.size() ? words[i + 1] : std::string();
    if (words[i] == "--pod" && value.find('/') != std::string::npos) {
      wanted.pod = value;
    } else if (words[i] == "--verdict" && !value.empty()) {
      const uint32_t bits = verdicts_of(value);
      if (bits == 0) return std::nullopt;
      verdicts |= bits;
    } else if (words[i] == "-n" && parse_number(value, kMostEvents).value_or(0) > 0) {
      wanted.most = *parse_number(value, kMostEvents);
    } else {
      complain(kUsage, fmt::format("bpf trace: unexpected '{}'\n  Try: {}", words[i], kUsageText));
      return std::nullopt;
    }
  }
  if (options.format == Format::kYaml) {
    complain(
        kUsage,
        "bpf trace: -o json gives one object per line; there is no YAML\n  Try: fairlead -o json bpf trace");
    return std::nullopt;
  }
  if (verdicts != 0) wanted.verdicts = verdicts;
  return wanted;
}

// The pods by what an event tells of them. An event may come before the keeper knows its pod, or after it
// forgot it.
class Pods {
 public:
  explicit Pods(const Options& options) : options_(options) { refresh(); }
  void refresh() {
    const json rows = net_pods(options_);
    if (rows.empty()) return;  // the agent is away: what it said last is still the best there is
    by_cookie_.clear();
    by_cgroup_.clear();
    for (const json& pod : rows) {
      const std::string name = pod.value("namespace", "") + "/" + pod.value("name", "");
      by_cookie_[pod.value("netnsCookie", uint64_t{0})] = name;
      struct stat status{};
      if (::stat(pod.value("cgroup", "").c_str(), &status) == 0) by_cgroup_[status.st_ino] = name;
    }
  }
  // A process of a pod that went to another namespace is told by its cgroup.
  [[nodiscard]] std::string of(const ebpf::TraceEvent& event) {
    for (const bool again : {false, true}) {
      if (const auto pod = by_cookie_.find(event.netns_cookie); pod != by_cookie_.end()) return pod->second;
      if (const auto pod = by_cgroup_.find(event.cgroup_id); pod != by_cgroup_.end()) return pod->second;
      if (again || Steady::now() < next_refresh_) break;
      next_refresh_ = Steady::now() + ebpf::kTraceRenewal;
      refresh();
    }
    return {};
  }
  [[nodiscard]] uint64_t cookie_of(std::string_view name) const {
    for (const auto& [cookie, pod] : by_cookie_) {
      if (pod == name) return cookie;
    }
    return 0;
  }

 private:
  Options options_;
  std::map<uint64_t, std::string> by_cookie_, by_cgroup_;
  Steady::time_point next_refresh_{};
};

// Both clocks are read for each event: the wall clock may be set while one traces.
std::string clock_text(uint64_t monotonic_ns) {
  const auto wall = std::chrono::system_clock::now();
  timespec steady{};
  ::clock_gettime(CLOCK_MONOTONIC, &steady);
  const std::chrono::nanoseconds age(steady.tv_sec * 1'000'000'000 + steady.tv_nsec -
                                     static_cast<int64_t>(monotonic_ns));
  return rfc3339(wall - age, Precision::kMicroseconds);
}

json endpoint(const SocketAddress& address) {
  return address.port == 0 && address.ip.is_unspecified() ? json() : json(address.to_string());
}

std::string protocol_name(uint16_t protocol) {
  switch (protocol) {
    case IPPROTO_TCP: return "tcp";
    case IPPROTO_UDP: return "udp";
    case 262: return "mptcp";
    default: return std::to_string(protocol);
  }
}

json row_of(const ebpf::TraceEvent& event, const std::string& pod) {
  const SocketAddress& tells_family = event.destination.port != 0 ? event.destination : event.source;
  return {{"time", clock_text(event.time_ns)},
          {"pod", pod.empty() ? json() : json(pod)},
          {"netnsCookie", event.netns_cookie},
          {"cgroupId", event.cgroup_id == 0 ? json() : json(event.cgroup_id)},
          {"socketCookie", event.socket_cookie == 0 ? json() : json(event.socket_cookie)},
          {"pid", event.pid == 0 ? json() : json(event.pid)},
          {"process", event.pid == 0 ? json() : json(event.process)},
          {"hook", event.hook},
          {"verdict", event.verdict},
          {"reason", event.reason},
          {"protocol", protocol_name(event.protocol)},
          {"family", tells_family.ip.is_v4() ? "ipv4" : "ipv6"},
          {"source", endpoint(event.source)},
          {"destination", endpoint(event.destination)},
          {"loopback", endpoint(event.loopback)}};
}

constexpr std::string_view kLine = "{:<15}  {:<24}  {:<22}  {:<11}  {:<9}  {:<20}  {}\n";

std::string line_of(const json& row) {
  const std::string time = cell(row["time"]);
  const std::string process =
      row["pid"].is_null() ? "-" : fmt::format("{}/{}", cell(row["pid"]), cell(row["process"]));
  std::string way = fmt::format("{} > {}", cell(row["source"]), cell(row["destination"]));
  if (!row["loopback"].is_null()) way += fmt::format(" ({})", cell(row["loopback"]));
  if (row["protocol"] != "tcp") way += " " + cell(row["protocol"]);
  return fmt::format(fmt::runtime(kLine), time.substr(11, 15), cell(row["pod"]), process, cell(row["hook"]),
                     cell(row["verdict"]), cell(row["reason"]), way);
}

// SIGINT and SIGTERM as an fd, for as long as it lives; a reader that went is an error of write(), not a
// signal.
class Signals {
 public:
  Signals() {
    sigset_t wanted;
    ::sigemptyset(&wanted);
    ::sigaddset(&wanted, SIGINT);
    ::sigaddset(&wanted, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &wanted, &before_);
    ::signal(SIGPIPE, SIG_IGN);
    fd_.reset(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~Signals() {
    signalfd_siginfo taken{};  // what is left pending would end us as soon as it is let through
    while (::read(fd_.get(), &taken, sizeof taken) > 0) continue;
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  sigset_t before_{};
  UniqueFd fd_;
};

// Stdout: events, and what is missing between them, until nobody reads any more or a signal comes. A line is
// shorter than PIPE_BUF: what poll() calls writable takes it whole.
class Output {
 public:
  Output(Format format, const Signals& signals) : json_(format == Format::kJson), signals_(signals) {
    if (!json_)
      put(fmt::format(fmt::runtime(kLine), "TIME", "POD", "PROCESS", "HOOK", "VERDICT", "REASON",
                      "SOURCE > DESTINATION (INSTEAD)"));
  }
  void event(const json& row) { put(json_ ? dumped(row) : line_of(row)); }
  void lost(uint64_t count) {
    put(json_ ? dumped({{"lost", count}}) : fmt::format("{} events lost: more came than were read\n", count));
  }
  void paused() {
    put(json_ ? dumped({{"paused", true}})
              : std::string("tracing was off for a while: nobody read what it said\n"));
  }
  [[nodiscard]] bool goes_on() const { return goes_on_; }

 private:
  static std::string dumped(const json& row) {
    return row.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  }
  void put(const std::string& text) {
    pollfd watched[] = {{STDOUT_FILENO, POLLOUT, 0}, {signals_.fd(), POLLIN, 0}};
    goes_on_ = goes_on_ && ::poll(watched, std::size(watched), -1) > 0 && watched[1].revents == 0 &&
               std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  }
  bool json_;
  const Signals& signals_;
  bool goes_on_ = true;
};

class Session {
 public:
  Session(const Options& options, Wanted wanted, ebpf::Tracer& tracer)
      : options_(options),
        wanted_(std::move(wanted)),
        tracer_(tracer),
        pods_(options),
        output_(options.format, signals_),
        agent_(agent_pid()) {}
  int run();

 private:
  int begin();
  std::optional<int> tick();
  std::optional<int> read();
  void watch_agent();
  void follow_pod();
  int64_t agent_pid() const;  // 0: it does not answer
  void say(const std::string& text) const { complain(kOk, text); }

  Options options_;
  Wanted wanted_;
  ebpf::Tracer& tracer_;
  Pods pods_;
  Signals signals_;
  Output output_;
  uint64_t cookie_ = 0;
  uint64_t printed_ = 0;
  uint64_t lost_ = 0;
  int64_t agent_ = 0;
  bool away_ = false;
  bool more_ = false;
};

int64_t Session::agent_pid() const {
  const json status = agent_status(options_);
  return status.is_object() ? status.value("pid", int64_t{0}) : 0;
}

int Session::begin() {
  if (!wanted_.pod.empty()) {
    cookie_ = pods_.cookie_of(wanted_.pod);
    if (cookie_ == 0)
      return complain(kFailure,
                      fmt::format("no pod {} is captured here\n  Try: fairlead pod list", wanted_.pod));
  }
  tracer_.wish({.netns_cookie = cookie_, .verdicts = wanted_.verdicts});
  say("tracing; end it with ^C");
  return kOk;
}

// The programs go on without the agent, and so does this.
void Session::watch_agent() {
  const int64_t now = agent_pid();
  if (now == 0 && !away_) say("the agent does not answer; its programs go on");
  if (now != 0 && (away_ || now != agent_)) {
    say(now == agent_
            ? "the agent answers again"
            : fmt::format("the agent was restarted (process {}); its programs are new, tracing goes on",
                          now));
    pods_.refresh();
  }
  away_ = now == 0;
  if (now != 0) agent_ = now;
}

// A pod that is made anew keeps its name and gets another namespace.
void Session::follow_pod() {
  if (wanted_.pod.empty() || away_) return;
  pods_.refresh();
  const uint64_t now = pods_.cookie_of(wanted_.pod);
  if (now == 0 || now == cookie_) return;
  cookie_ = now;
  tracer_.wish({.netns_cookie = cookie_, .verdicts = wanted_.verdicts});
  say(fmt::format("pod {} was made anew", wanted_.pod));
}

std::optional<int> Session::tick() {
  if (!tracer_.renew()) output_.paused();
  if (!tracer_.is_current())
    return complain(kFailure,
                    "the agent made its maps anew, or was removed\n  Try: fairlead bpf trace, again");
  watch_agent();
  follow_pod();
  return std::nullopt;
}

std::optional<int> Session::read() {
  const auto more = tracer_.read([this](const ebpf::TraceEvent& event) {
    output_.event(row_of(event, pods_.of(event)));
    return ++printed_ < wanted_.most && output_.goes_on();
  });
  if (!more) return complain(kFailure, more.error().text());
  more_ = *more;
  if (const uint64_t lost = tracer_.lost(); lost != lost_) {
    output_.lost(lost - lost_);
    lost_ = lost;
  }
  if (printed_ >= wanted_.most || !output_.goes_on()) return kOk;
  return std::nullopt;
}

int Session::run() {
  if (const int failed = begin(); failed != kOk) return failed;
  auto next_tick = Steady::now() + ebpf::kTraceRenewal;
  for (;;) {
    pollfd watched[] = {{tracer_.events().get(), POLLIN, 0}, {signals_.fd(), POLLIN, 0}};
    ::poll(watched, std::size(watched), more_ ? 0 : static_cast<int>(ebpf::kTracePoll.count()));
    if (const auto status = read()) return *status;
    if (watched[1].revents != 0) return kOk;
    if (Steady::now() < next_tick) continue;
    next_tick = Steady::now() + ebpf::kTraceRenewal;
    if (const auto status = tick()) return *status;
  }
}

}  // namespace

int run_bpf_trace(const Options& options) {
  auto wanted = wanted_of(options);
  if (!wanted) return kUsage;
  std::string directory = bpf_directory(options);
  if (directory.empty()) directory = ebpf::InventoryOptions().pin_directory;
  const auto tracer = ebpf::Tracer::open(directory);
  if (!tracer) {
    const int code = tracer.error().code();
    const bool forbidden = code == EACCES || code == EPERM;
    return complain(kFailure,
                    tracer.error().text() +
                        (forbidden ? "\n  Needs root: try sudo"
                         : tracer.error().kind() == ErrorKind::kExhausted
                             ? "\n  Try: end that one, or wait for it"
                             : "\n  Is the agent running here? Try: fairlead check; or name its directory: "
                               "--run-dir DIR"));
  }
  Options patient = options;
  patient.timeout = std::min(patient.timeout, kAgentPatience);
  return Session(patient, std::move(*wanted), **tracer).run();
}

}  // namespace fairlead::cli
