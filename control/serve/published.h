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
  std::weak_ptr<const Published> previous;  // that this one replaced
  std::map<std::string, PublishedType> types;
  std::map<std::string, std::vector<std::string>> changes;  // type → names that are not as in `previous`
  std::map<std::string, std::set<SpiffeId>> identities_by_node;

  // An empty type for one that is not served.
  [[nodiscard]] const PublishedType& of(const std::string& type) const;
};
using PublishedPtr = std::shared_ptr<const Published>;

// `previous`: the state of the same server that this one replaces, or null. What has not changed is shared
// with it.
PublishedPtr encode(const model::Mesh& mesh, const PublishedPtr& previous = nullptr);

// The names of new, changed and gone resources. For two states in a row it costs nothing.
std::vector<std::string> changes_between(const Published& before, const Published& after,
                                         const std::string& type);

}  // namespace fairlead::serve
