#include "proxy/authz_check.h"

#include <algorithm>

namespace fairlead::proxy {
namespace {

using state::Workload;

struct Destination {
  std::shared_ptr<const Workload> workload;
  uint16_t port = 0;  // the application's
};

Error unanswerable(std::string text) {
  return {ErrorKind::kInvalidArgument, std::move(text)};
}

template <class List>
auto find_named(const List& list, const AuthzQuestion& question) {
  return std::find_if(list.begin(), list.end(), [&](const auto& item) {
    return item->ns == question.ns && item->name == question.name;
  });
}

Result<std::vector<Destination>> endpoints_of(const state::Service& service, uint16_t port) {
  const bool known =
      std::any_of(service.ports.begin(), service.ports.end(),
                  [port](const state::ServicePort& candidate) { return candidate.service_port == port; });
  if (!known)
    return unanswerable(fmt::format("Service {}/{} has no port {}", service.ns, service.name, port));
  std::vector<Destination> found;
  for (const state::Endpoint& endpoint : service.endpoints) {
    const uint16_t target = service.target_port(endpoint, port);
    if (target != 0 && !endpoint.workload->addresses.empty()) found.push_back({endpoint.workload, target});
  }
  if (found.empty()) {
    return unanswerable(
        fmt::format("Service {}/{} has no endpoint for port {}", service.ns, service.name, port));
  }
  return found;
}

Result<std::vector<Destination>> destinations_of(const state::Snapshot& snapshot,
                                                 const AuthzQuestion& question) {
  using Kind = AuthzQuestion::Kind;
  const std::string name = question.ns + "/" + question.name;
  const auto service = find_named(snapshot.services(), question);
  const auto pod = find_named(snapshot.workloads(), question);
  const bool is_service = service != snapshot.services().end() && question.kind != Kind::kPod;
  const bool is_pod = pod != snapshot.workloads().end() && question.kind != Kind::kService;
  if (is_service && is_pod)
    return unanswerable(fmt::format("{0} is a Service and a pod: say service/{0} or pod/{0}", name));
  if (is_service) return endpoints_of(**service, question.port);
  if (!is_pod) return unanswerable(fmt::format("the mesh knows no Service or pod {}", name));
  if ((*pod)->addresses.empty()) return unanswerable(fmt::format("pod {} has no address", name));
  return std::vector<Destination>{{*pod, question.port}};
}

// Where the source may come from; the unspecified address when nobody asks for it.
Result<std::vector<IpAddress>> sources_of(const state::Snapshot& snapshot, const AuthzQuestion& question,
                                          const std::vector<Destination>& destinations) {
  if (question.source_ip) return std::vector<IpAddress>{*question.source_ip};
  std::vector<IpAddress> found;
  for (const auto& workload : snapshot.workloads()) {
    if (question.source_ns.empty() || workload->ns != question.source_ns ||
        workload->identity.service_account != question.source_account)
      continue;
    found.insert(found.end(), workload->addresses.begin(), workload->addresses.end());
  }
  if (!found.empty()) return found;
  for (const Destination& destination : destinations) {
    for (const policy::Binding& binding : destination.workload->policies) {
      if (binding.concerns(destination.port) && policy::asks_for_source_address(*binding.policy)) {
        return unanswerable(fmt::format("policy {} asks for the source's address: say --from …@ADDRESS",
                                        binding.policy->full_name()));
      }
    }
  }
  return std::vector<IpAddress>{IpAddress()};
}

AuthzAnswer answer_for(const Destination& destination, const IpAddress& address, const IpAddress& source,
                       const SpiffeId* identity) {
  AuthzAnswer answer;
  answer.workload = destination.workload;
  answer.endpoint = {address, destination.port};
  answer.source_ip = source;
  if (identity != nullptr) answer.principal = identity->principal();
  if (destination.workload->tunnel == state::Tunnel::kNone) {
    answer.decision = {true, {}, {}, -1, "the pod is not in the mesh: nothing is enforced there"};
    return answer;
  }
  const policy::ConnectionFacts facts{identity, source, address, destination.port};
  answer.decision = judge(destination.workload.get(), facts);
  answer.remarks = remarks(destination.workload.get(), facts);
  return answer;
}

}  // namespace

Result<std::vector<AuthzAnswer>> check_authz(const state::Snapshot& snapshot, const AuthzQuestion& question) {
  FL_TRY_ASSIGN(const auto destinations, destinations_of(snapshot, question));
  FL_TRY_ASSIGN(const auto sources, sources_of(snapshot, question, destinations));
  std::vector<AuthzAnswer> answers;
  for (const Destination& destination : destinations) {
    std::optional<SpiffeId> identity;
    if (!question.source_ns.empty()) {
      // Of the mesh that the destination belongs to.
      FL_TRY_ASSIGN(identity, SpiffeId::make(destination.workload->identity.trust_domain, question.source_ns,
                                             question.source_account));
    }
    for (const IpAddress& address : destination.workload->addresses) {
      for (const IpAddress& source : sources) {
        if (!source.is_unspecified() && source.is_v4() != address.is_v4()) continue;
        if (answers.size() >= kMaxAuthzAnswers)
          return unanswerable(
              fmt::format("more than {} connections: ask for a pod, or from an address", kMaxAuthzAnswers));
        answers.push_back(answer_for(destination, address, source, identity ? &*identity : nullptr));
      }
    }
  }
  if (answers.empty()) return unanswerable("source and destination have no address of the same family");
  return answers;
}

}  // namespace fairlead::proxy
