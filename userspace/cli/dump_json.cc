// dump: what a report of a bug needs, in one document. Nobody who answers holds back the others: a section is
// {"data": …} or {"error": "…"}. There is no secret in it: keys never leave the proxy, and of tokens only the
// file's name is told.
#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/rfc3339.h"
#include "base/scope.h"
#include "cli/inventory_rows.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

constexpr size_t kMostConnections = 10000;

json kernel() {
  utsname name{};
  if (::uname(&name) != 0) return nullptr;
  return {{"release", name.release}, {"version", name.version}, {"machine", name.machine}};
}

struct Question {
  const char* section;
  Socket socket;
  const char* verb;
};
constexpr Question kQuestions[] = {
    {"keeper", Socket::kKeeper, "status"},       {"proxy", Socket::kProxy, "status"},
    {"configuration", Socket::kProxy, "config"}, {"pods", Socket::kKeeper, "pods"},
    {"workloads", Socket::kProxy, "workloads"},  {"services", Socket::kProxy, "services"},
    {"policies", Socket::kProxy, "policies"},    {"certificates", Socket::kProxy, "certs"},
    {"decisions", Socket::kProxy, "decisions"},
};

class Dump {
 public:
  explicit Dump(const Options& options) : options_(options) {
    document_ = {{"fairlead", FAIRLEAD_VERSION},
                 {"time", rfc3339(std::chrono::system_clock::now(), Precision::kSeconds)},
                 {"kernel", kernel()},
                 {"runDirectory", options.run_directory}};
  }

  void ask_the_agent() {
    for (const Question& asked : kQuestions)
      take(asked.section, question(options_, asked.socket, asked.verb));
    take("connections", connections());
  }
  void ask_the_kernel() {
    document_["check"] = {{"data", check_rows(options_)}};
    const auto inventory = read_inventory(options_);
    for (const auto& [section, rows] : {std::pair{"bpfPrograms", &program_rows}, {"bpfMaps", &map_rows}}) {
      if (inventory) document_[section] = {{"data", rows(*inventory)}};
      if (!inventory) fail(section, inventory.error());
    }
    if (inventory) document_["bpfLinks"] = {{"data", link_rows(options_, *inventory)}};
    if (!inventory) fail("bpfLinks", inventory.error());
  }
  [[nodiscard]] const json& document() const { return document_; }
  [[nodiscard]] int status() const {
    if (answered_ == 0) return kUnreachable;
    return failed_ == 0 ? kOk : kFailure;
  }

 private:
  void take(const char* section, Result<json> answer) {
    if (!answer) return fail(section, answer.error());
    ++answered_;
    document_[section] = {{"data", std::move(*answer)}};
  }
  void fail(const char* section, const Error& error) {
    ++failed_;
    document_[section] = {{"error", error.text()}};
    complain(kOk, fmt::format("dump: {}: {}", section, error.text()));
  }
  // As many as help: with more of them than that the count says enough.
  Result<json> connections() {
    json rows = json::array();
    json page;
    do {
      FL_TRY_ASSIGN(page, next_page(options_, "connections", page));
      for (json& row : page["rows"]) {
        if (rows.size() < kMostConnections) rows.push_back(std::move(row));
      }
    } while (page.value("more", false) && rows.size() < kMostConnections);
    return json{{"total", page.value("total", rows.size())}, {"rows", std::move(rows)}};
  }

  const Options& options_;
  json document_;
  size_t answered_ = 0;  // of the agent's sections
  size_t failed_ = 0;
};

// A file of one's own, for nobody else to read; what is there already stays.
Result<void> write_new_file(const std::string& path, std::string_view text) {
  FL_TRY_ASSIGN(const UniqueFd fd, open_file(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  ScopeExit remove([&] { ::unlink(path.c_str()); });
  while (!text.empty()) {
    const ssize_t count = ::write(fd.get(), text.data(), text.size());
    if (count < 0 && errno != EINTR) return Error::from_errno(fmt::format("write {}", path));
    text.remove_prefix(count < 0 ? 0 : static_cast<size_t>(count));
  }
  remove.dismiss();
  return {};
}

}  // namespace

int run_dump(const Options& options) {
  const auto& words = options.arguments;
  if (words.size() > 1 || (!words.empty() && words[0].size() > 1 && words[0].starts_with('-')))
    return complain(kUsage, "dump: want one FILE, or - for stdout\n  Try: fairlead dump report.json");
  Dump dump(options);
  dump.ask_the_agent();
  dump.ask_the_kernel();
  const std::string text = document_text(options, dump.document());
  if (words.empty() || words[0] == "-") {
    const bool written =
        std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    return written ? dump.status() : complain(kFailure, "dump: stdout cannot be written to");
  }
  const Result<void> written = write_new_file(words[0], text);
  if (!written)
    return complain(kFailure,
                    fmt::format("dump: {}\n  Try: fairlead dump OTHER-FILE", written.error().text()));
  complain(kOk, fmt::format(
                    "{}: {} bytes. It names pods, addresses and identities: look at it before you share it",
                    words[0], text.size()));
  return dump.status();
}

}  // namespace fairlead::cli
