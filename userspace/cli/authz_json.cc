// authz check: who would be let in. The agent's own engine judges; this only asks and shows.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/net_types.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

constexpr std::string_view kTry =
    "\n  Try: fairlead authz check --from NAMESPACE/SERVICE-ACCOUNT[@ADDRESS]|plaintext[@ADDRESS]"
    " --to [service/|pod/]NAMESPACE/NAME --port N";

int unclear(std::string_view what) {
  return complain(kUsage, fmt::format("authz check: {}{}", what, kTry));
}

// "a/b" into two texts, both there.
bool split(std::string_view text, std::string& first, std::string& second) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == text.size()) return false;
  first = text.substr(0, slash);
  second = text.substr(slash + 1);
  return second.find('/') == std::string::npos;
}

bool read_source(std::string_view text, json& question) {
  const size_t at = text.find('@');
  if (at != std::string_view::npos) {
    if (!IpAddress::parse(text.substr(at + 1))) return false;
    question["sourceAddress"] = text.substr(at + 1);
    text = text.substr(0, at);
  }
  if (text == "plaintext") return true;
  std::string ns, account;
  if (!split(text, ns, account)) return false;
  question["sourceNamespace"] = ns;
  question["sourceServiceAccount"] = account;
  return true;
}

bool read_destination(std::string_view text, json& question) {
  for (const std::string_view kind : {"service", "pod"}) {
    const bool said = text.size() > kind.size() && text.starts_with(kind) && text[kind.size()] == '/';
    // A namespace may be called "service" or "pod", too: then there is but one slash.
    if (!said || text.find('/', kind.size() + 1) == std::string_view::npos) continue;
    question["kind"] = kind;
    text.remove_prefix(kind.size() + 1);
    break;
  }
  std::string ns, name;
  if (!split(text, ns, name)) return false;
  question["namespace"] = ns;
  question["name"] = name;
  return true;
}

// kOk, or what was complained about.
int read_question(const std::vector<std::string>& words, json& question) {
  for (size_t i = 0; i < words.size(); i += 2) {
    if (i + 1 == words.size()) return unclear(fmt::format("{} wants a value", words[i]));
    const std::string& value = words[i + 1];
    if (words[i] == "--from") {
      if (!read_source(value, question)) return unclear(fmt::format("--from {} is no source", value));
      question["from"] = value;
    } else if (words[i] == "--to") {
      if (!read_destination(value, question)) return unclear(fmt::format("--to {} is no destination", value));
    } else if (words[i] == "--port") {
      const auto port = parse_number(value, 65535);
      if (!port || *port == 0) return unclear(fmt::format("--port {} is no port", value));
      question["port"] = *port;
    } else {
      return unclear(fmt::format("unexpected '{}'", words[i]));
    }
  }
  for (const char* needed : {"from", "name", "port"}) {
    if (!question.contains(needed)) return unclear("wants --from, --to and --port");
  }
  return kOk;
}

Column rule(std::string_view header, std::string_view key) {
  return {header, [key](const json& row) {
            const json& by = key.empty() ? row : row.at(std::string(key));
            if (by.is_null()) return std::string("-");
            const std::string policy = by.value("policy", "");
            std::string text = cell(by.value("reason", ""));
            if (!policy.empty()) text += fmt::format(" {} of {}", by.value("rule", -1), cell(policy));
            return text;
          }};
}

std::string verdict(const json& by) {
  return by.is_null() ? "-" : by.value("allowed", false) ? "allowed" : "DENIED";
}

}  // namespace

int run_authz_check(const Options& options) {
  json question = json::object();
  if (const int wrong = read_question(options.arguments, question); wrong != kOk) return wrong;
  int status = kOk;
  // Words of a command line need not be UTF-8.
  const std::string text = question.dump(-1, ' ', false, json::error_handler_t::replace);
  const auto rows = ask(options, Socket::kProxy, "authz " + text, status);
  // 1 is "denied": what cannot be answered is not to be taken for it.
  if (!rows && status == kFailure) {
    std::fputs("  Try: fairlead service list; fairlead workload list; fairlead policy list\n", stderr);
    return kUsage;
  }
  if (!rows) return status;
  print_list(options, *rows,
             {{"VERDICT", [](const json& row) { return verdict(row); }},
              column("SOURCE", "source"),
              column("PRINCIPAL", "principal"),
              column("POD", "pod"),
              column("ENDPOINT", "endpoint"),
              rule("BECAUSE", ""),
              {"IF DRY-RUN WERE ENFORCED", [](const json& row) { return verdict(row.at("dryRun")); }},
              {"AUDIT", [](const json& row) {
                 json names = json::array();
                 for (const json& hit : row.at("audits"))
                   names.push_back(fmt::format("{} rule {}", hit.value("policy", ""), hit.value("rule", -1)));
                 return cell(names);
               }}});
  for (const json& row : *rows) {
    if (!row.value("allowed", false)) return kFailure;
  }
  return kOk;
}

}  // namespace fairlead::cli
