#include "control/model/parts.h"

#include <fmt/core.h>

#include <algorithm>
#include <tuple>

namespace fairlead::model {
namespace {

bool older(const PeerAuthentication* a, const PeerAuthentication* b) {
  return std::tuple(a->meta.created.empty(), std::string_view(a->meta.created),
                    std::string_view(a->meta.name)) < std::tuple(b->meta.created.empty(),
                                                                 std::string_view(b->meta.created),
                                                                 std::string_view(b->meta.name));
}

}  // namespace

Index::Index(const ObjectSet& objects) {
  for (const Namespace& ns : objects.namespaces) namespaces.emplace(ns.meta.name, &ns);
  for (const Service& service : objects.services) services[service.meta.ns].push_back(&service);
  for (const PeerAuthentication& peer : objects.peer_authentications)
    peer_authentications[peer.meta.ns].push_back(&peer);
  for (auto& [ns, list] : peer_authentications) std::sort(list.begin(), list.end(), older);
  for (const AuthorizationPolicy& policy : objects.authorization_policies) {
    if (policy.has_selector || !policy.target_refs.empty())
      attached_policies[policy.meta.ns].push_back(&policy);
  }
}

bool selects(const Labels& selector, const Labels& labels) {
  return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
    const auto found = labels.find(wanted.first);
    return found != labels.end() && found->second == wanted.second;
  });
}

std::string value_of(const Labels& labels, std::string_view key) {
  const auto found = labels.find(std::string(key));
  return found == labels.end() ? std::string() : found->second;
}

std::string object_name(std::string_view kind, const Meta& meta) {
  return meta.ns.empty() ? fmt::format("{} {}", kind, meta.name)
                         : fmt::format("{} {}/{}", kind, meta.ns, meta.name);
}

std::string_view to_string(Report::Severity severity) noexcept {
  switch (severity) {
    case Report::Severity::kInfo: return "info";
    case Report::Severity::kWarning: return "warning";
    case Report::Severity::kError: return "error";
  }
  return "error";
}

std::string to_string(const Report& report) {
  std::string text =
      report.at.file.empty() ? std::string() : fmt::format("{}:{}: ", report.at.file, report.at.line);
  if (!report.object.empty()) text += report.object + ": ";
  if (!report.field.empty()) text += report.field + ": ";
  return text + report.message;
}

}  // namespace fairlead::model
