#include "proxy/reports_json.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "proxy/rows_json.h"

namespace fairlead::proxy {
namespace {

using nlohmann::json;

json addresses_of(const std::vector<IpAddress>& addresses) {
  json list = json::array();
  for (const IpAddress& address : addresses) list.push_back(address.to_string());
  return list;
}

std::string_view tunnel_of(const state::Workload& workload) {
  if (workload.foreign) return "other-network";
  if (workload.tunnel == state::Tunnel::kNone) return "none";
  if (workload.tunnel == state::Tunnel::kUnsupported) return "unsupported";
  return workload.in_place ? "in-place" : "hbone";
}

std::string_view scope_of(policy::Scope scope) {
  switch (scope) {
    case policy::Scope::kGlobal: return "mesh";
    case policy::Scope::kNamespace: return "namespace";
    case policy::Scope::kWorkload: return "workload";
  }
  return "workload";
}

std::string_view action_of(policy::Action action) {
  switch (action) {
    case policy::Action::kAllow: return "ALLOW";
    case policy::Action::kDeny: return "DENY";
    case policy::Action::kAudit: return "AUDIT";
  }
  return "DENY";
}

json notes_of(const policy::Policy& policy) {
  json notes = json::array();
  for (const std::string& note : policy.notes) notes.push_back(note);
  if (policy::is_undecidable(policy))
    notes.push_back("says something that this agent does not understand: taken in its stricter reading");
  return notes;
}

// How many pods of the node each policy applies to.
std::unordered_map<const policy::Policy*, size_t> local_bindings(const state::Snapshot& snapshot,
                                                                 const std::string& node) {
  std::unordered_map<const policy::Policy*, size_t> counts;
  for (const auto& workload : snapshot.workloads()) {
    if (workload->node != node || workload->tunnel == state::Tunnel::kNone) continue;
    std::set<const policy::Policy*> bound;
    for (const policy::Binding& binding : workload->policies) bound.insert(binding.policy.get());
    for (const policy::Policy* policy : bound) ++counts[policy];
  }
  return counts;
}

json ports_of(const std::vector<state::ServicePort>& ports) {
  json list = json::array();
  for (const auto& port : ports)
    list.push_back({{"servicePort", port.service_port}, {"targetPort", port.target_port}});
  return list;
}

}  // namespace

std::string_view to_string(confine::Mode mode) noexcept {
  return mode == confine::Mode::kEnforce ? "enforce" : "audit";
}

std::string error_json(std::string_view text) {
  return dump(json{{"error", text}});
}

std::string status_json(const ProxyStatus& status, const state::Snapshot& snapshot,
                        const std::vector<WorkerReport>& reports) {
  Counters counters;
  size_t inbound = 0;
  size_t outbound = 0;
  size_t tunnels = 0;
  for (const WorkerReport& report : reports) {
    counters.add(report.counters);
    inbound += report.inbound;
    outbound += report.outbound;
    tunnels += report.tunnels;
  }
  json named = json::object();
  counters.each([&](std::string_view name, uint64_t value) { named[std::string(name)] = value; });
  const json controller{
      {"address", status.controller_address},   {"connected", status.controller.connected},
      {"synced", status.controller.synced},     {"pushes", status.controller.pushes},
      {"rejected", status.controller.rejected}, {"lastError", status.controller.last_error}};
  const json kernel_tls{{"active", status.kernel_tls_on},
                        {"support", to_string(status.kernel_tls.why)},
                        {"detail", status.kernel_tls.detail},
                        {"remedy", status.kernel_tls.remedy},
                        {"rekeys", status.kernel_tls.rekey}};
  const json locked{{"seccomp", to_string(status.locked.confined.seccomp)},
                    {"landlock", status.locked.confined.landlock},
                    {"keysLocked", status.locked.keys.locked},
                    {"keyBytes", status.locked.keys.arena},
                    {"keyBytesUsed", tls::key_arena_used()}};
  return dump(json{{"node", status.node},
                   {"pid", ::getpid()},
                   {"uptimeSeconds", status.uptime.count()},
                   {"workers", status.workers},
                   {"ready", status.ready},
                   {"controller", controller},
                   {"lockedIn", locked},
                   {"kernelTls", kernel_tls},
                   {"snapshot",
                    {{"version", snapshot.version()},
                     {"workloads", snapshot.workloads().size()},
                     {"services", snapshot.services().size()},
                     {"policies", snapshot.policies().size()}}},
                   {"connections", {{"inbound", inbound}, {"outbound", outbound}}},
                   {"tunnels", {{"open", tunnels}}},
                   {"counters", named}});
}

std::string config_json(const ProxyConfig& config, bool kernel_tls_on) {
  const auto& controller = config.controller;
  return dump(json{{"node", config.node},
                   {"querySocket", config.query_socket},
                   {"workers", config.workers},
                   {"certificateTtlSeconds", config.certificate_ttl.count()},
                   {"kernelTls",
                    {{"enabled", config.kernel_tls.enabled},
                     {"after", config.kernel_tls.after},
                     {"active", kernel_tls_on}}},
                   {"seccomp", to_string(config.lock_in.seccomp)},
                   {"controller",
                    {{"address", controller.address},
                     {"serverName", controller.server_name},
                     {"rootsFile", controller.roots_file},
                     {"tokenFile", controller.token_file},
                     {"clusterId", controller.cluster_id},
                     {"network", controller.network}}}});
}

std::string workloads_json(const state::Snapshot& snapshot) {
  json list = json::array();
  for (const auto& workload : snapshot.workloads()) {
    json services = json::array();
    for (const auto& [name, ports] : workload->services) services.push_back(name);
    json policies = json::array();
    for (const policy::Binding& binding : workload->policies) {
      json name = binding.policy->full_name();
      if (std::find(policies.begin(), policies.end(), name) == policies.end())
        policies.push_back(std::move(name));
    }
    list.push_back({{"name", workload->name},
                    {"namespace", workload->ns},
                    {"node", workload->node},
                    {"network", workload->network},
                    {"addresses", addresses_of(workload->addresses)},
                    {"identity", workload->identity.uri()},
                    {"tunnel", tunnel_of(*workload)},
                    {"services", services},
                    {"policies", policies}});
  }
  return dump(list);
}

std::string services_json(const state::Snapshot& snapshot) {
  json list = json::array();
  for (const auto& service : snapshot.services()) {
    json endpoints = json::array();
    for (const auto& endpoint : service->endpoints) {
      endpoints.push_back({{"workload", endpoint.workload->ns + "/" + endpoint.workload->name},
                           {"addresses", addresses_of(endpoint.workload->addresses)}});
    }
    list.push_back({{"name", service->name},
                    {"namespace", service->ns},
                    {"hostname", service->hostname},
                    {"addresses", addresses_of(service->addresses)},
                    {"ports", ports_of(service->ports)},
                    {"endpoints", endpoints}});
  }
  return dump(list);
}

std::string policies_json(const state::Snapshot& snapshot, const std::string& node) {
  const auto local = local_bindings(snapshot, node);
  json list = json::array();
  for (const auto& policy : snapshot.policies()) {
    const auto count = local.find(policy.get());
    list.push_back({{"name", policy->name},
                    {"namespace", policy->ns},
                    {"scope", policy->services.empty() ? scope_of(policy->scope) : "service"},
                    {"services", policy->services},
                    {"action", action_of(policy->action)},
                    {"dryRun", policy->dry_run},
                    {"rules", policy->rules.size()},
                    {"localWorkloads", count == local.end() ? 0 : count->second},
                    {"notes", notes_of(*policy)}});
  }
  return dump(list);
}

Result<AuthzQuestion> authz_question(std::string_view argument) {
  const json document = json::parse(argument, nullptr, false);
  const Error broken(ErrorKind::kInvalidArgument, "authz: the question cannot be read");
  if (!document.is_object()) return broken;
  const auto text = [&](const char* key) {
    const auto found = document.find(key);
    return found != document.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  AuthzQuestion question;
  question.source_ns = text("sourceNamespace");
  question.source_account = text("sourceServiceAccount");
  question.ns = text("namespace");
  question.name = text("name");
  const std::string kind = text("kind");
  if (kind == "service") question.kind = AuthzQuestion::Kind::kService;
  if (kind == "pod") question.kind = AuthzQuestion::Kind::kPod;
  if (const std::string address = text("sourceAddress"); !address.empty()) {
    FL_TRY_ASSIGN(question.source_ip, IpAddress::parse(address));
  }
  const auto port = document.find("port");
  if (port == document.end() || !port->is_number_unsigned()) return broken;
  const auto number = port->get<uint64_t>();
  if (number == 0 || number > 65535 || question.ns.empty() || question.name.empty()) return broken;
  // Without an account it would be plaintext that the asker did not mean.
  if (question.source_ns.empty() != question.source_account.empty()) return broken;
  question.port = static_cast<uint16_t>(number);
  return question;
}

std::string authz_json(const std::vector<AuthzAnswer>& answers) {
  json list = json::array();
  for (const AuthzAnswer& answer : answers) {
    json row{{"allowed", answer.decision.allowed},
             {"pod", answer.workload->ns + "/" + answer.workload->name},
             {"node", answer.workload->node},
             {"endpoint", answer.endpoint.to_string()},
             {"principal", answer.principal},
             {"source", answer.source_ip.is_unspecified() ? "" : answer.source_ip.to_string()},
             {"policy", answer.decision.policy()},
             {"rule", answer.decision.rule},
             {"reason", answer.decision.reason}};
    add_remarks(answer.remarks, row);
    list.push_back(std::move(row));
  }
  return dump(list);
}

std::string certificates_json(const std::vector<state::CertificateClient::Status>& certificates) {
  json list = json::array();
  for (const auto& certificate : certificates) {
    list.push_back({{"identity", certificate.id.uri()},
                    {"ready", certificate.ready},
                    {"serial", certificate.serial},
                    {"notBefore", rfc3339(certificate.not_before)},
                    {"notAfter", rfc3339(certificate.not_after)},
                    {"nextAttempt", rfc3339(certificate.next_attempt)},
                    {"lastError", certificate.last_error}});
  }
  return dump(list);
}

}  // namespace fairlead::proxy
