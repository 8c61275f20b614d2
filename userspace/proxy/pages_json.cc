#include "proxy/pages_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "proxy/rows_json.h"

namespace fairlead::proxy {
namespace {

using nlohmann::json;

std::string namespace_of(const std::string& pod) {
  return pod.substr(0, pod.find('/'));
}

std::string_view name_of(tls::CipherSuite suite) {
  return suite == tls::CipherSuite::kAes128GcmSha256 ? "TLS_AES_128_GCM_SHA256" : "TLS_AES_256_GCM_SHA384";
}

// Of a connection without a tunnel nothing, under the same keys.
void add_records(const std::optional<TunnelRecords>& records, json& row) {
  const auto place = [&](bool kernel) { return !records ? "" : kernel ? "kernel" : "user"; };
  const TunnelRecords known = records.value_or(TunnelRecords{});
  row["cipher"] = records ? name_of(known.cipher) : "";
  row["tlsSends"] = place(known.kernel_sends);
  row["tlsReceives"] = place(known.kernel_receives);
  row["ulp"] = known.ulp ? "tls" : "";
  row["recordsSent"] = known.sent;
  row["recordsReceived"] = known.received;
}

json connection_row(size_t worker, const std::string& pod, const ConnectionRecord& record, TimePoint now) {
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - record.since).count();
  const SocketAddress& reached = record.endpoint.port != 0 ? record.endpoint : record.destination;
  const SocketAddress& remote = record.inbound ? record.source : reached;
  json row{{"id", fmt::format("{}-{}", worker, record.id)},
           {"direction", record.inbound ? "inbound" : "outbound"},
           {"namespace", namespace_of(pod)},
           {"pod", pod},
           {"source", record.source.to_string()},
           {"destination", record.destination.to_string()},
           {"port", record.destination.port},
           {"endpoint", record.endpoint.to_string()},
           {"remoteAddress", remote.ip.to_string()},
           {"remotePort", remote.port},
           {"service", record.service != nullptr ? record.service->full_name() : ""},
           {"peer", record.peer != nullptr ? record.peer->uri() : ""},
           {"tunnel", to_string(record.tunnel)},
           {"tunnelId", record.tunnel_id},
           {"state", record.state},
           {"bytes", record.sent + record.received},
           {"bytesSent", record.sent},
           {"bytesReceived", record.received},
           {"bytesSpliced", record.spliced},
           {"ageMs", age}};
  add_records(record.records, row);
  return row;
}

json decision_row(size_t worker, const DecisionRecord& record) {
  json row{{"id", fmt::format("{}-{}", worker, record.number)},
           {"time", rfc3339(record.time)},
           {"direction", record.inbound ? "inbound" : "outbound"},
           {"namespace", namespace_of(record.pod)},
           {"pod", record.pod},
           {"source", record.source.to_string()},
           {"principal", record.principal},
           {"destination", record.destination.to_string()},
           {"endpoint", record.endpoint.port != 0 ? record.endpoint.to_string() : ""},
           {"service", record.service},
           {"allowed", record.allowed},
           {"policy", record.policy},
           {"rule", record.rule},
           {"reason", record.reason},
           {"detail", record.detail}};
  add_remarks(record.remarks, row);
  return row;
}

// The oldest first.
json decision_rows(const std::vector<WorkerReport>& reports) {
  std::vector<std::pair<size_t, const DecisionRecord*>> records;
  for (const WorkerReport& report : reports) {
    for (const DecisionRecord& record : report.decisions) records.emplace_back(report.worker, &record);
  }
  std::stable_sort(records.begin(), records.end(),
                   [](const auto& a, const auto& b) { return a.second->time < b.second->time; });
  json list = json::array();
  for (const auto& [worker, record] : records) list.push_back(decision_row(worker, *record));
  return list;
}

json connection_rows(const std::vector<WorkerReport>& reports) {
  json list = json::array();
  const TimePoint now = Clock::now();
  for (const WorkerReport& report : reports) {
    for (const auto& [pod, record] : report.connections)
      list.push_back(connection_row(report.worker, pod, record, now));
  }
  return list;
}

}  // namespace

Result<PageQuestion> page_question(std::string_view argument, const Answerer& answerer) {
  PageQuestion question;
  if (argument.empty()) return question;
  const Error broken(ErrorKind::kInvalidArgument, "the question cannot be read");
  const json document = json::parse(argument, nullptr, false);
  if (!document.is_object()) return broken;
  if (document.empty()) return question;
  const auto instance = document.find("instance");
  const auto cursor = document.find("cursor");
  if (instance == document.end() || !instance->is_string() || cursor == document.end() || !cursor->is_array())
    return broken;
  question.of_another = instance->get_ref<const std::string&>() != answerer.instance;
  if (question.of_another) return question;
  if (cursor->size() != answerer.workers) return broken;
  for (const json& number : *cursor) {
    if (!number.is_number_unsigned()) return broken;
    question.cursor.push_back(number.get<uint64_t>());
  }
  return question;
}

std::string connections_json(const std::vector<WorkerReport>& reports) {
  return dump(connection_rows(reports));
}

std::string connections_page_json(const Answerer& answerer, const std::vector<WorkerReport>& reports) {
  std::vector<uint64_t> cursor(answerer.workers);  // 0: nothing more, of a silent worker as well
  size_t total = 0;
  bool more = false;
  for (const WorkerReport& report : reports) {
    cursor[report.worker] = report.connections_left_below;
    more = more || report.connections_left_below != 0;
    total += report.inbound + report.outbound;
  }
  return dump(json{{"instance", answerer.instance},
                   {"cursor", cursor},
                   {"more", more},
                   {"total", total},
                   {"silentWorkers", answerer.workers - reports.size()},
                   {"rows", connection_rows(reports)}});
}

std::string decisions_json(const std::vector<WorkerReport>& reports) {
  json rows = decision_rows(reports);
  std::reverse(rows.begin(), rows.end());
  return dump(rows);
}

std::string decisions_page_json(const Answerer& answerer, const PageQuestion& question,
                                const std::vector<WorkerReport>& reports) {
  std::vector<uint64_t> cursor = question.cursor;  // a silent worker's stays where it was
  cursor.resize(answerer.workers);
  uint64_t missed = 0;
  for (const WorkerReport& report : reports) {
    cursor[report.worker] = report.decisions_end;
    missed += report.decisions_missed;
  }
  return dump(json{{"instance", answerer.instance},
                   {"cursor", cursor},
                   {"missed", missed},
                   {"silentWorkers", answerer.workers - reports.size()},
                   {"rows", decision_rows(reports)}});
}

}  // namespace fairlead::proxy
