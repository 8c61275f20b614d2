#include "base/net_types.h"
#include "base/reader_yaml.h"
#include "base/spiffe_id.h"
#include "control/ca/issuer.h"
#include "control/controller/config.h"

namespace fairlead::controller {

Result<ControllerConfig> load_config(const std::string& path) {
  ControllerConfig config;
  using R = YamlReader;
  FL_TRY(
      R::read(path, {
                        {"listen", R::text(config.listen)},
                        {"source", R::section({{"directory", R::text(config.source.directory)}})},
                        {"stateDirectory", R::text(config.state_directory)},
                        {"certificates", R::section({{"maxTtl", R::seconds(config.certificates.max_ttl)}})},
                        {"trustDomain", R::text(config.trust_domain)},
                        {"clusterDomain", R::text(config.cluster_domain)},
                        {"clusterId", R::text(config.cluster_id)},
                        {"rootNamespace", R::text(config.root_namespace)},
                        {"log", R::section({{"level", R::level(config.log_level)}})},
                    }));
  if (config.source.directory.empty())
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: 'source.directory' is required", path));
  if (!SocketAddress::parse(config.listen)) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: listen: got '{}', want IP:PORT", path, config.listen));
  }
  if (config.certificates.max_ttl < ca::kMinTtl || config.certificates.max_ttl > ca::kDefaultTtl) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}: certificates.maxTtl: got {}s, want {}s to {}h", path,
                             config.certificates.max_ttl.count(), ca::kMinTtl.count(),
                             std::chrono::duration_cast<std::chrono::hours>(ca::kDefaultTtl).count()));
  }
  // It becomes part of every identity: what would fail there fails here.
  if (const auto id = SpiffeId::make(config.trust_domain, "default", "default"); !id) {
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: trustDomain: {}", path, id.error().text()));
  }
  return config;
}

}  // namespace fairlead::controller
