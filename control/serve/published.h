// One state of the mesh as it is served: every resource encoded once, its version the hash of its bytes.
#pragma once

#include <google/protobuf/any.pb.h>

#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/spiffe_id.h"
#include "control/model/translate.h"

namespace fairlead::serve {

inline constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kPolicyType = "type.googleapis.com/istio.security.Authorization";

struct PublishedResource {
  std::string version;
  std::shared_ptr<const google::protobuf::Any> body;
};

struct Published {
  std::map<std::string, std::map<std::string, PublishedResource>> types;  // type → name → resource
  std::map<std::string, std::set<SpiffeId>> identities_by_node;
};
using PublishedPtr = std::shared_ptr<const Published>;

PublishedPtr encode(const model::Mesh& mesh);

}  // namespace fairlead::serve
