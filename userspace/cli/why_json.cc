#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/net_types.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

constexpr uint64_t kMostDecisions = 100000;

std::string sentence(const json& row) {
  const std::string principal = row.value("principal", "");
  const std::string policy = row.value("policy", "");
  std::string text = fmt::format("{}  {}  {} from {} to {} of {}: {}", cell(row.value("time", "")),
                                 row.value("allowed", false) ? "allowed" : "DENIED ",
                                 principal.empty() ? "plaintext" : cell(principal),
                                 cell(row.value("source", "")), cell(row.value("destination", "")),
                                 cell(row.value("pod", "")), cell(row.value("reason", "")));
  if (!policy.empty()) text += fmt::format(" {} of policy {}", row.value("rule", -1), cell(policy));
  for (const json& hit : row.value("audits", json::array()))
    text += fmt::format("; marked by rule {} of AUDIT policy {}", hit.value("rule", -1),
                        cell(hit.value("policy", "")));
  const json dry = row.value("dryRun", json());
  if (dry.is_object() && dry.value("allowed", false) != row.value("allowed", false)) {
    text += fmt::format("; with dry-run policies in force: {}, {}",
                        dry.value("allowed", false) ? "allowed" : "DENIED", cell(dry.value("reason", "")));
    if (!dry.value("policy", "").empty())
      text += fmt::format(" {} of policy {}", dry.value("rule", -1), cell(dry.value("policy", "")));
  }
  return text + "\n";
}

}  // namespace

int run_why(const Options& options) {
  bool only_denied = false;
  size_t most = 20;
  for (size_t i = 0; i < options.arguments.size(); ++i) {
    const std::string& word = options.arguments[i];
    if (word == "--denied") {
      only_denied = true;
    } else if (word == "-n" && i + 1 < options.arguments.size() &&
               parse_number(options.arguments[i + 1], kMostDecisions)) {
      most = *parse_number(options.arguments[++i], kMostDecisions);
    } else {
      return complain(kUsage,
                      fmt::format("why: unexpected '{}'\n  Try: fairlead why [--denied] [-n COUNT]", word));
    }
  }
  int status = kOk;
  const auto answer = ask(options, Socket::kProxy, "decisions", status);
  if (!answer) return status;
  json rows = json::array();
  for (const json& row : *answer) {
    if (rows.size() < most && (!only_denied || !row.value("allowed", false))) rows.push_back(row);
  }
  if (options.format != Format::kTable) {
    print_document(options, rows);
    return kOk;
  }
  for (const json& row : rows) std::fputs(sentence(row).c_str(), stdout);
  if (rows.empty()) std::fputs("nothing has been decided yet\n", stderr);
  return kOk;
}

}  // namespace fairlead::cli
