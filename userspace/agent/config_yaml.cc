#include "agent/config.h"
#include "base/net_types.h"
#include "base/reader_yaml.h"

namespace fairlead::agent {
namespace {

bool is_host_port(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  const auto port = parse_number(text.substr(colon + 1), 65535);
  return port && *port != 0;
}

bool is_absolute(std::string_view path) {
  return path.size() > 1 && path.front() == '/' &&
         (std::string(path) + "/").find("/../") == std::string::npos;
}

// What reads well and could never work: told at the start and not by a process that fails later.
Result<void> validate(const std::string& path, const AgentConfig& config) {
  const auto refuse = [&path](std::string_view key, std::string_view value, std::string_view want) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: {}: got '{}', want {}", path, key, value, want));
  };
  if (!is_subdomain(config.node)) return refuse("node", config.node, "a DNS name");
  if (!is_host_port(config.controller.address))
    return refuse("controller.address", config.controller.address, "HOST:PORT");
  if (!is_absolute(config.run_directory))
    return refuse("runDirectory", config.run_directory, "an absolute path");
  if (!is_absolute(config.bpf_directory))
    return refuse("bpfDirectory", config.bpf_directory, "an absolute path");
  if (config.certificates.ttl.count() < 1) return refuse("certificates.ttl", "less than 1s", "1s or more");
  return {};
}

}  // namespace

Result<AgentConfig> load_config(const std::string& path) {
  AgentConfig config;
  using R = YamlReader;
  FL_TRY(R::read(
      path,
      {
          {"node", R::text(config.node)},
          {"network", R::text(config.network)},
          {"runDirectory", R::text(config.run_directory)},
          {"bpfDirectory", R::text(config.bpf_directory)},
          {"proxy",
           R::section({{"user", R::number(config.proxy.user, 1, 0x7fffffff)},
                       {"workers", R::number(config.proxy.workers, 1, 256)},
                       {"seccomp", R::choice(config.proxy.seccomp, {{"enforce", confine::Mode::kEnforce},
                                                                    {"audit", confine::Mode::kAudit}})}})},
          {"controller", R::section({{"address", R::text(config.controller.address)},
                                     {"serverName", R::text(config.controller.server_name)},
                                     {"roots", R::text(config.controller.roots)},
                                     {"token", R::text(config.controller.token)},
                                     {"clusterId", R::text(config.controller.cluster_id)}})},
          {"certificates", R::section({{"ttl", R::seconds(config.certificates.ttl)}})},
          {"kernelTls",
           R::section({{"enabled", R::choice(config.kernel_tls.enabled, {{"true", true}, {"false", false}})},
                       {"after", R::number(config.kernel_tls.after, 0, 0x7fffffff)}})},
          {"drain", R::section({{"deadline", R::milliseconds(config.drain.deadline)}})},
          {"handOver",
           R::section({{"afterwards", R::choice(config.hand_over.stay, {{"exit", false}, {"stay", true}})}})},
          {"log", R::section({{"level", R::level(config.log_level)}})},
      }));
  for (const auto& [key, value] :
       {std::pair("node", &config.node), std::pair("controller.address", &config.controller.address)}) {
    if (value->empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("{}: '{}' is required", path, key));
  }
  FL_TRY(validate(path, config));
  return config;
}

}  // namespace fairlead::agent
