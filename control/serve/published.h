// One state of the mesh as it is served: every resource encoded once and shared by all streams, its version
// the hash of its bytes. Immutable once made. Thread: any.
#pragma once

#include <google/protobuf/any.pb.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/spiffe_id.h"
#include "control/model/translate.h"

namespace fairlead::serve {

inline constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kPolicyType = "type.googleapis.com/istio.security.Authorization";

struct PublishedResource {
  std::string version;
  std::shared_ptr<const google::protobuf::Any> body;
  std::vector<std::string> aliases;  // "network/ip": by these too an agent may ask for it
};

struct PublishedType {
  std::map<std::string, PublishedResource> resources;
  std::map<std::string, std::set<std::string>> by_alias;
  // Who asks for a service wants its workloads as well.
  std::map<std::string, std::set<std::string>> members;
};

struct Published {
  std::map<std::string, PublishedType> types;
  std::map<std::string, std::set<SpiffeId>> identities_by_node;

  // An empty type for one that is not served.
  [[nodiscard]] const PublishedType& of(const std::string& type) const;
};
using PublishedPtr = std::shared_ptr<const Published>;

PublishedPtr encode(const model::Mesh& mesh);

}  // namespace fairlead::serve
