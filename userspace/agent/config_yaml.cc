#include "agent/config.h"
#include "base/reader_yaml.h"

namespace fairlead::agent {

Result<AgentConfig> load_config(const std::string& path) {
  AgentConfig config;
  using R = YamlReader;
  FL_TRY(R::read(path, {
                           {"node", R::text(config.node)},
                           {"network", R::text(config.network)},
                           {"runDirectory", R::text(config.run_directory)},
                           {"bpfDirectory", R::text(config.bpf_directory)},
                           {"proxy", R::section({{"user", R::number(config.proxy.user, 1, 0x7fffffff)},
                                                 {"workers", R::number(config.proxy.workers, 1, 256)}})},
                           {"controller", R::section({{"address", R::text(config.controller.address)},
                                                      {"serverName", R::text(config.controller.server_name)},
                                                      {"roots", R::text(config.controller.roots)},
                                                      {"token", R::text(config.controller.token)},
                                                      {"clusterId", R::text(config.controller.cluster_id)}})},
                           {"certificates", R::section({{"ttl", R::seconds(config.certificates.ttl)}})},
                           {"drain", R::section({{"deadline", R::milliseconds(config.drain.deadline)}})},
                           {"log", R::section({{"level", R::level(config.log_level)}})},
                       }));
  for (const auto& [key, value] :
       {std::pair("node", &config.node), std::pair("controller.address", &config.controller.address)}) {
    if (value->empty())
      return Error(ErrorKind::kInvalidArgument, fmt::format("{}: '{}' is required", path, key));
  }
  return config;
}

}  // namespace fairlead::agent
