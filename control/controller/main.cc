// fairlead-controller: watches configuration, has certificates signed, sends each agent what it needs.
#include <cstdio>
#include <optional>
#include <string_view>

#include "base/reader_yaml.h"
#include "base/rfc3339.h"
#include "control/ca/roots.h"
#include "control/controller/controller.h"

namespace fairlead::controller {
namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;
constexpr std::string_view kHelp =
    "Usage: fairlead-controller --config FILE                            serve\n"
    "       fairlead-controller token --config FILE --node NAME [--ttl 24h]  print the token of a node's "
    "agent\n"
    "       fairlead-controller root [add|use|retire] --config FILE [--now] the development CA's roots, and "
    "their change step by step\n"
    "       fairlead-controller --check-config --config FILE             say what is wrong with "
    "configuration and manifests\n"
    "       fairlead-controller --version | --help\n";

struct Arguments {
  enum class Command { kServe, kToken, kRoot, kCheck, kVersion, kHelp };
  Command command = Command::kServe;
  std::string config;
  std::string node;
  std::string step;  // of root; empty: only to look
  bool at_once = false;
  std::chrono::milliseconds ttl{std::chrono::hours(24 * 3650)};
};

std::optional<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--config" && has_value) {
      arguments.config = argv[++i];
    } else if (word == "--node" && has_value) {
      arguments.node = argv[++i];
    } else if (word == "--ttl" && has_value) {
      const auto ttl = parse_duration(argv[++i]);
      if (!ttl) {
        std::fprintf(stderr, "fairlead-controller: --ttl: %s\n", ttl.error().text().c_str());
        return std::nullopt;
      }
      arguments.ttl = *ttl;
    } else if (word == "token" && i == 1) {
      arguments.command = Arguments::Command::kToken;
    } else if (word == "root" && i == 1) {
      arguments.command = Arguments::Command::kRoot;
    } else if (arguments.command == Arguments::Command::kRoot && arguments.step.empty() &&
               (word == "add" || word == "use" || word == "retire")) {
      arguments.step = word;
    } else if (word == "--now" && (arguments.step == "use" || arguments.step == "retire")) {
      arguments.at_once = true;
    } else if (word == "--check-config") {
      arguments.command = Arguments::Command::kCheck;
    } else if (word == "--version") {
      arguments.command = Arguments::Command::kVersion;
    } else if (word == "--help" || word == "-h") {
      arguments.command = Arguments::Command::kHelp;
    } else {
      std::fprintf(stderr, "fairlead-controller: unexpected '%s'\n", argv[i]);
      return std::nullopt;
    }
  }
  return arguments;
}

int fail(const Error& error) {
  log::error("controller", "{}", error.text());
  return kFailure;
}

int print_token(const ControllerConfig& config, const Arguments& arguments) {
  if (arguments.node.empty()) {
    std::fputs("fairlead-controller token: --node is missing\n", stderr);
    return kUsage;
  }
  const auto tokens = ca::NodeTokens::open(config.state_directory);
  if (!tokens) return fail(tokens.error());
  const auto token =
      (*tokens)->issue(arguments.node, std::chrono::duration_cast<std::chrono::seconds>(arguments.ttl));
  if (!token) return fail(token.error());
  std::puts(token->c_str());
  return 0;
}

Result<void> take_step(const ControllerConfig& config, const Arguments& arguments) {
  const auto longest = config.certificates.max_ttl;
  if (arguments.step == "add") return ca::add_root(config.state_directory, longest);
  if (arguments.step == "use") return ca::use_root(config.state_directory, longest, arguments.at_once);
  if (arguments.step == "retire") return ca::retire_root(config.state_directory, longest, arguments.at_once);
  return {};
}

// The step first, then how things are and what comes next.
int root(const ControllerConfig& config, const Arguments& arguments) {
  const Result<void> taken = take_step(config, arguments);
  if (!taken) return fail(taken.error());
  const auto report = ca::look_at_roots(config.state_directory, config.certificates.max_ttl);
  if (!report) return fail(report.error());
  for (const ca::RootLine& line : report->roots) {
    std::printf("%s until %s%s\n", line.fingerprint.c_str(),
                rfc3339(line.not_after, Precision::kSeconds).c_str(), line.signs ? " signs" : "");
  }
  using Phase = ca::RootChange::Phase;
  if (report->change.phase == Phase::kNone) return 0;
  std::fprintf(stderr, "from %s on: %s`fairlead-controller root %s`\n",
               rfc3339(report->change.next_from, Precision::kSeconds).c_str(),
               report->change.phase == Phase::kAdded ? "with root-cert.pem brought to every agent, " : "",
               report->change.phase == Phase::kAdded ? "use" : "retire");
  return 0;
}

int check(const ControllerConfig& config) {
  const auto lines = check_manifests(config);
  if (!lines) {
    std::fprintf(stderr, "%s\n", lines.error().text().c_str());
    return kFailure;
  }
  for (const std::string& line : *lines) std::fprintf(stderr, "%s\n", line.c_str());
  return 0;
}

int main(int argc, char** argv) {
  const auto arguments = parse(argc, argv);
  if (arguments && arguments->command == Arguments::Command::kHelp) {
    std::fputs(kHelp.data(), stdout);
    return 0;
  }
  if (arguments && arguments->command == Arguments::Command::kVersion) {
    std::puts("fairlead-controller " FAIRLEAD_VERSION);
    return 0;
  }
  if (!arguments || arguments->config.empty()) {
    std::fputs(kHelp.data(), stderr);
    return kUsage;
  }
  const auto config = load_config(arguments->config);
  if (!config) {
    std::fprintf(stderr, "%s\n", config.error().text().c_str());
    return kUsage;
  }
  log::set_level(config->log_level);
  if (arguments->command == Arguments::Command::kCheck) return check(*config);
  if (arguments->command == Arguments::Command::kRoot) return root(*config, *arguments);
  if (arguments->command == Arguments::Command::kToken) return print_token(*config, *arguments);
  const Result<void> result = Controller(*config).run();
  return result ? 0 : fail(result.error());
}

}  // namespace
}  // namespace fairlead::controller

int main(int argc, char** argv) {
  return fairlead::controller::main(argc, argv);
}
