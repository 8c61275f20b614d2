// why: the last decisions, or those that come.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/net_types.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

constexpr uint64_t kMostDecisions = 100000;
constexpr std::chrono::duration<int, std::milli> kLook{200};

std::string sentence(const json& row) {
  const std::string principal = row.value("principal", "");
  const std::string policy = row.value("policy", "");
  const bool leaves = row.value("direction", "") == "outbound";
  const std::string service = row.value("service", "");
  const std::string of = leaves ? service : row.value("pod", "");
  std::string text = fmt::format("{}  {}  {} from {} to {}{}: {}", cell(row.value("time", "")),
                                 row.value("allowed", false) ? "allowed" : "DENIED ",
                                 leaves              ? cell(row.value("pod", ""))
                                 : principal.empty() ? "plaintext"
                                                     : cell(principal),
                                 cell(row.value("source", "")), cell(row.value("destination", "")),
                                 of.empty() ? "" : " of " + cell(of), cell(row.value("reason", "")));
  if (!row.value("detail", "").empty()) text += fmt::format(" ({})", cell(row.value("detail", "")));
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

struct Wanted {
  bool denied = false;  // only those
  bool watch = false;
  size_t most = 20;
};

std::optional<Wanted> read_arguments(const std::vector<std::string>& words) {
  Wanted wanted;
  for (size_t i = 0; i < words.size(); ++i) {
    const auto number =
        words[i] == "-n" && i + 1 < words.size() ? parse_number(words[i + 1], kMostDecisions) : std::nullopt;
    if (words[i] == "--denied") {
      wanted.denied = true;
    } else if (words[i] == "--watch") {
      wanted.watch = true;
    } else if (number) {
      wanted.most = *number;
      ++i;
    } else {
      complain(
          kUsage,
          fmt::format("why: unexpected '{}'\n  Try: fairlead why [--denied] [-n COUNT] [--watch]", words[i]));
      return std::nullopt;
    }
  }
  return wanted;
}

json chosen(const Options& options, const Wanted& wanted, const json& rows) {
  json kept = json::array();
  for (const json& row : rows) {
    if ((!wanted.denied || !row.value("allowed", false)) && options.filter.matches(row)) kept.push_back(row);
  }
  return kept;
}

// Follows the decisions: asks for what came since, again and again. The proxy keeps the last ones anyhow and
// need not know who watches.
class Watch {
 public:
  Watch(const Options& options, const Wanted& wanted) : options_(options), wanted_(wanted) {}

  // Until it is interrupted, which is its orderly end, or stdout breaks.
  int run() {
    struct sigaction interrupted{};
    interrupted.sa_handler = [](int) { ::_exit(kOk); };  // every line that is complete was flushed
    ::sigaction(SIGINT, &interrupted, nullptr);
    for (;; ::poll(nullptr, 0, kLook.count())) {
      auto page = next_page(options_, "decisions", page_);
      if (page) {
        greet(*page);
        if (!show(*page)) return complain(kFailure, "stdout cannot be written to\n  Try: fairlead why");
        page_ = std::move(*page);
        page_["rows"].clear();
      } else if (page_.is_null() || page.error().kind() == ErrorKind::kProtocol ||
                 page.error().kind() == ErrorKind::kDenied) {
        return explain(page.error(), "decisions");
      } else if (!std::exchange(away_, true)) {
        complain(kOk, page.error().text() + ": waiting for the agent");
      }
    }
  }

 private:
  void greet(const json& page) {
    const bool first = page_.is_null();
    if (!first && page_["instance"] != page["instance"]) {
      complain(kOk, "the agent was restarted: what it decided at the end of its life may be missing");
    } else if (away_) {
      complain(kOk, "the agent answers again");
    }
    away_ = false;
    const auto missed = page.value("missed", uint64_t{0});
    if (!first && missed != 0)
      complain(kOk, fmt::format("{} decisions missed: there were more than the agent remembers", missed));
  }

  // Of the past, the last few; of what comes, everything.
  bool show(const json& page) {
    const json rows = chosen(options_, wanted_, page.at("rows"));
    const size_t skip = page_.is_null() ? rows.size() - std::min(rows.size(), wanted_.most) : 0;
    std::string text;
    for (size_t i = skip; i < rows.size(); ++i) {
      if (options_.format == Format::kTable) text += sentence(rows[i]);
      if (options_.format == Format::kYaml) text += yaml(json::array({rows[i]}));
      if (options_.format == Format::kJson)
        text += rows[i].dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    }
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  }

  const Options& options_;
  const Wanted& wanted_;
  json page_;  // the last one, without its rows
  bool away_ = false;
};

}  // namespace

int run_why(const Options& options) {
  const auto wanted = read_arguments(options.arguments);
  if (!wanted) return kUsage;
  if (wanted->watch) return Watch(options, *wanted).run();
  int status = kOk;
  const auto answer = ask(options, Socket::kProxy, "decisions", status);
  if (!answer) return status;
  json rows = chosen(options, *wanted, *answer);
  if (rows.size() > wanted->most) rows.erase(rows.begin() + static_cast<ptrdiff_t>(wanted->most), rows.end());
  if (options.format != Format::kTable) {
    print_document(options, rows);
    return kOk;
  }
  for (const json& row : rows) std::fputs(sentence(row).c_str(), stdout);
  if (rows.empty()) {
    std::fputs(answer->empty() ? "nothing has been decided yet\n" : "nothing that was decided is like that\n",
               stderr);
  }
  return kOk;
}

}  // namespace fairlead::cli
