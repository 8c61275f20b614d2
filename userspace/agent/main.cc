// fairlead-agent: the node's agent. Without a sub-command it is the keeper, which starts the proxy from this
// same binary.
#include <sys/prctl.h>
#include <sys/resource.h>

#include <array>
#include <cstdio>
#include <optional>
#include <string_view>

#include "agent/config.h"
#include "base/net_types.h"
#include "keeper/keeper.h"
#include "proxy/proxy_main.h"
#include "tls/key_memory.h"

namespace fairlead::agent {
namespace {

constexpr int kOk = 0;
constexpr int kFailure = 1;
constexpr int kUsage = 2;

// What a resolver reads to find the controller. c-ares takes the numbers of its questions from /dev/urandom,
// and worse ones where it cannot.
constexpr std::array kResolverFiles = {"/dev/urandom",       "/etc/resolv.conf", "/etc/hosts",
                                       "/etc/nsswitch.conf", "/etc/host.conf",   "/etc/gai.conf",
                                       "/etc/services"};

constexpr std::string_view kHelp =
    "Usage: fairlead-agent --config FILE                 run on this node (the keeper; it starts the "
    "proxy);\n"
    "                                                    takes over from an agent that runs there already\n"
    "       fairlead-agent cleanup --config FILE         detach everything: the node as it was before\n"
    "       fairlead-agent --check-config --config FILE  read the configuration and say what is wrong with "
    "it\n"
    "       fairlead-agent --version | --help\n";

struct Arguments {
  enum class Command { kKeeper, kProxy, kCleanup, kCheck, kVersion, kHelp };
  Command command = Command::kKeeper;
  std::string config;
  int contract_fd = -1;
  bool successor = false;
};

std::optional<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--config" && has_value) {
      arguments.config = argv[++i];
    } else if (word == "--contract-fd" && has_value) {
      const auto number = parse_number(argv[++i], 1 << 20);
      if (!number) return std::nullopt;
      arguments.contract_fd = static_cast<int>(*number);
    } else if (word == "--successor") {
      arguments.successor = true;
    } else if (word == "proxy" && i == 1) {
      arguments.command = Arguments::Command::kProxy;
    } else if (word == "cleanup" && i == 1) {
      arguments.command = Arguments::Command::kCleanup;
    } else if (word == "--check-config") {
      arguments.command = Arguments::Command::kCheck;
    } else if (word == "--version") {
      arguments.command = Arguments::Command::kVersion;
    } else if (word == "--help" || word == "-h") {
      arguments.command = Arguments::Command::kHelp;
    } else {
      std::fprintf(stderr, "fairlead-agent: unexpected '%s'\n", argv[i]);
      return std::nullopt;
    }
  }
  return arguments;
}

void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);  // ignoring: the soft limit stays as it was
}

keeper::KeeperConfig keeper_config(const AgentConfig& config, const std::string& path) {
  keeper::KeeperConfig keeper;
  keeper.node = config.node;
  keeper.run_directory = config.run_directory;
  keeper.bpf_directory = config.bpf_directory;
  keeper.config_path = path;
  keeper.proxy_uid = config.proxy.user;
  keeper.drain_deadline = config.drain.deadline;
  keeper.stay_when_given = config.hand_over.stay;
  keeper.proxy_locked_memory = tls::kKeyArena;
  return keeper;
}

proxy::ProxyConfig proxy_config(const AgentConfig& config, bool successor) {
  proxy::ProxyConfig proxy;
  proxy.node = config.node;
  proxy.query_socket = config.run_directory + "/proxy/proxy.sock";
  proxy.listen_socket = successor ? config.run_directory + "/proxy/successor.sock" : proxy.query_socket;
  proxy.workers = config.proxy.workers;
  proxy.controller.address = config.controller.address;
  proxy.controller.server_name = config.controller.server_name;
  proxy.controller.roots_file = config.controller.roots;
  proxy.controller.token_file = config.controller.token;
  proxy.controller.cluster_id = config.controller.cluster_id;
  proxy.controller.network = config.network;
  proxy.controller.node_name = config.node;
  proxy.kernel_tls.enabled = config.kernel_tls.enabled;
  proxy.kernel_tls.after = config.kernel_tls.after;
  proxy.certificate_ttl = config.certificates.ttl;
  proxy.lock_in.seccomp = config.proxy.seccomp;
  proxy.lock_in.files.readable.assign(kResolverFiles.begin(), kResolverFiles.end());
  proxy.lock_in.files.readable.push_back(config.controller.roots);
  proxy.lock_in.files.readable.push_back(config.controller.token);
  proxy.lock_in.files.sockets = config.run_directory + "/proxy";
  return proxy;
}

int report(const Result<void>& result) {
  if (result) return kOk;
  log::error("agent", "{}", result.error().text());
  return kFailure;
}

int run(const Arguments& arguments) {
  const auto config = load_config(arguments.config);
  if (!config) {
    std::fprintf(stderr, "%s\n", config.error().text().c_str());
    return kUsage;
  }
  log::set_level(config->log_level);
  raise_file_limit();
  switch (arguments.command) {
    case Arguments::Command::kCheck: return kOk;
    case Arguments::Command::kCleanup:
      return report(keeper::clean_up(keeper_config(*config, arguments.config)));
    case Arguments::Command::kProxy:
      if (arguments.contract_fd < 0) return kUsage;
      ::prctl(PR_SET_NAME, "fairlead-proxy");
      return proxy::run(proxy_config(*config, arguments.successor), UniqueFd(arguments.contract_fd));
    default: return report(keeper::Keeper(keeper_config(*config, arguments.config)).run());
  }
}

int main(int argc, char** argv) {
  const auto arguments = parse(argc, argv);
  if (arguments && arguments->command == Arguments::Command::kHelp) {
    std::fputs(kHelp.data(), stdout);
    return kOk;
  }
  if (arguments && arguments->command == Arguments::Command::kVersion) {
    std::puts("fairlead-agent " FAIRLEAD_VERSION);
    return kOk;
  }
  if (!arguments || arguments->config.empty()) {
    std::fputs(kHelp.data(), stderr);
    return kUsage;
  }
  return run(*arguments);
}

}  // namespace
}  // namespace fairlead::agent

int main(int argc, char** argv) {
  return fairlead::agent::main(argc, argv);
}
