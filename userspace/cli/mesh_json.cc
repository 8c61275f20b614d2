// workload, service, policy, connection, cert: lists of what the proxy says.
#include <time.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

int list(const Options& options, const std::string& verb, const std::vector<Column>& columns) {
  int status = kOk;
  const auto rows = ask(options, Socket::kProxy, verb, status);
  if (rows) print_list(options, *rows, columns);
  return status;
}

Column full_name(std::string_view header) {
  return {header, [](const json& row) {
            return cell(row.value("namespace", "")) + "/" + cell(row.value("name", ""));
          }};
}

Column count(std::string_view header, std::string_view key) {
  return {header, [name = std::string(key)](const json& row) {
            return std::to_string(row.value(name, json::array()).size());
          }};
}

// Time left until an RFC 3339 moment.
std::string remaining(const std::string& text) {
  tm utc{};
  if (::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc) == nullptr) return "-";
  return duration((timegm(&utc) - ::time(nullptr)) * 1000);
}

}  // namespace

int run_workload_list(const Options& options) {
  return list(options, "workloads",
              {full_name("WORKLOAD"), column("NODE", "node"), column("ADDRESSES", "addresses"),
               column("TUNNEL", "tunnel"), column("IDENTITY", "identity"), column("POLICIES", "policies")});
}

int run_service_list(const Options& options) {
  return list(options, "services",
              {full_name("SERVICE"),
               column("ADDRESSES", "addresses"),
               {"PORTS",
                [](const json& row) {
                  json texts = json::array();
                  for (const json& port : row.value("ports", json::array())) {
                    // 0: a port by name, which each pod has where it likes.
                    const int target = port.value("targetPort", 0);
                    texts.push_back(fmt::format("{}->{}", port.value("servicePort", 0),
                                                target == 0 ? "named" : std::to_string(target)));
                  }
                  return cell(texts);
                }},
               count("ENDPOINTS", "endpoints")});
}

int run_policy_list(const Options& options) {
  return list(
      options, "policies",
      {column("NAMESPACE", "namespace"),
       column("NAME", "name"),
       column("ACTION", "action"),
       {"SCOPE",
        [](const json& row) {
          const json services = row.value("services", json::array());
          return services.empty() ? cell(row.value("scope", "")) : "service " + cell(services);
        }},
       column("RULES", "rules"),
       {"DRY-RUN", [](const json& row) { return std::string(row.value("dryRun", false) ? "yes" : "-"); }},
       column("BINDS HERE", "localWorkloads"),
       {"NOTES", [](const json& row) {
          std::string text;
          for (const json& note : row.value("notes", json::array()))
            text += (text.empty() ? "" : "; ") + cell(note);
          return text.empty() ? std::string("-") : text;
        }}});
}

// The agent gives no more at once than it can without making its connections wait.
std::optional<json> ask_connections(const Options& options, int& status) {
  json rows = json::array();
  json page;
  do {
    auto next = next_page(options, "connections", page);
    if (!next) {
      status = explain(next.error(), "connections");
      return std::nullopt;
    }
    page = std::move(*next);
    for (json& row : page["rows"]) {
      if (options.filter.matches(row)) rows.push_back(std::move(row));
    }
    if (const auto silent = page.value("silentWorkers", uint64_t{0}); silent != 0)
      complain(kOk, fmt::format("{} workers of the proxy do not answer: what they carry is missing", silent));
  } while (page.value("more", false));
  return rows;
}

// Who makes the records that are sent, and who opens those that come.
std::string records_of(const json& row) {
  const std::string sends = row.value("tlsSends", "");
  return sends.empty() ? "-" : sends + "/" + row.value("tlsReceives", "");
}

int run_connection_list(const Options& options) {
  int status = kOk;
  const auto rows = ask_connections(options, status);
  if (!rows) return status;
  print_rows(options, *rows,
             {column("ID", "id"),
              column("DIRECTION", "direction"),
              column("POD", "pod"),
              column("SOURCE", "source"),
              column("DESTINATION", "destination"),
              column("ENDPOINT", "endpoint"),
              column("PEER", "peer"),
              column("TUNNEL", "tunnel"),
              {"TLS", [](const json& row) { return records_of(row); }},
              column("STATE", "state"),
              {"SENT", [](const json& row) { return bytes(row.value("bytesSent", uint64_t{0})); }},
              {"RECEIVED", [](const json& row) { return bytes(row.value("bytesReceived", uint64_t{0})); }},
              {"AGE", [](const json& row) { return duration(row.value("ageMs", int64_t{0})); }}});
  return kOk;
}

int run_cert_list(const Options& options) {
  return list(options, "certs",
              {column("IDENTITY", "identity"),
               {"STATE",
                [](const json& row) { return std::string(row.value("ready", false) ? "ready" : "waiting"); }},
               {"EXPIRES IN", [](const json& row) { return remaining(row.value("notAfter", "")); }},
               {"RENEWS IN", [](const json& row) { return remaining(row.value("nextAttempt", "")); }},
               column("SERIAL", "serial"),
               column("LAST ERROR", "lastError")});
}

}  // namespace fairlead::cli
