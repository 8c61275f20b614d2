// What the parts of the translation share with each other and with nobody else. Thread: values; an Index
// refers to the objects it was made of.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "control/model/translate.h"

namespace fairlead::model {

// Objects by the namespace in whose pods they are interested.
struct Index {
  explicit Index(const ObjectSet& objects);

  template <class T>
  using ByNamespace = std::map<std::string, std::vector<const T*>, std::less<>>;
  std::map<std::string, const Namespace*, std::less<>> namespaces;
  ByNamespace<Service> services;
  ByNamespace<PeerAuthentication> peer_authentications;  // the first in a list is the oldest
  ByNamespace<AuthorizationPolicy> attached_policies;    // by a selector or to Services

  template <class T>
  static const std::vector<const T*>& of(const ByNamespace<T>& map, std::string_view ns) {
    static const std::vector<const T*> kNone;
    const auto found = map.find(ns);
    return found == map.end() ? kNone : found->second;
  }
};

[[nodiscard]] bool selects(const Labels& selector, const Labels& labels);
[[nodiscard]] std::string value_of(const Labels& labels, std::string_view key);  // empty: not there
[[nodiscard]] std::string object_name(std::string_view kind, const Meta& meta);

// translate.cc
[[nodiscard]] bool is_served(const Service& service);
[[nodiscard]] bool is_enrolled(const Pod& pod, const Index& index);
// Whether the pod stands behind the Service on at least one port.
[[nodiscard]] bool is_behind(const Pod& pod, const Service& service);
// Of the Service, in the namespace/hostname form.
[[nodiscard]] std::string service_resource(std::string_view ns, std::string_view name,
                                           const MeshSettings& settings);

// authorization.cc: fills mesh.policies and mesh.reports.
void translate_policies(const ObjectSet& objects, const Index& index, const MeshSettings& settings,
                        Mesh& mesh);
// The names of the policies with a selector or targetRefs that apply to a pod and were translated.
std::vector<std::string> attached_policies_of(const Pod& pod, const Index& index,
                                              const MeshSettings& settings, const Mesh& mesh);

// peer_authentication.cc
// What of them is not in force.
void report_peer_authentications(const ObjectSet& objects, const Index& index, const MeshSettings& settings,
                                 Mesh& mesh);
// The name of the policy that turns plaintext to a pod away, put into mesh.policies;
// empty: none.
std::string plaintext_policy_of(const Pod& pod, const Index& index, const MeshSettings& settings, Mesh& mesh);

}  // namespace fairlead::model
