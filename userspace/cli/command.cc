#include "cli/command.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/net_types.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

constexpr Flag kCommonFlags[] = {
    {"--run-dir", "DIR", "where the agent's sockets are; else FAIRLEAD_RUN_DIR, or /run/fairlead"},
    {"-o", "table|json|yaml", "how to print; --output is the same"},
    {"--output", "table|json|yaml", "how to print"},
    {"--timeout", "SECONDS", "how long the agent may take to answer: 5, at most 3600"},
    {"--filter", "EXPR", "of lists: only rows of which EXPR is true, such as 'namespace=shop,peer~*/sa/web'"},
    {"--help", "", "what there is"},
    {"--version", "", "the version"},
};
constexpr Flag kWhyFlags[] = {
    {"--denied", "", "only what was refused"},
    {"-n", "COUNT", "at most so many of the past: 20"},
    {"--watch", "", "then what comes, as it comes, until interrupted; JSON is one object a line"},
};
constexpr Flag kMeasureFlags[] = {{"--measure", "SECONDS", "counts and times of the next seconds alone"}};
constexpr Flag kTraceFlags[] = {
    {"--pod", "NAMESPACE/NAME", "only this pod's"},
    {"--verdict", "NAME[,NAME…]", "only these: captured, passed, refused, denied, dropped, and more"},
    {"-n", "COUNT", "ends after so many"},
};
constexpr Flag kAuthzFlags[] = {
    {"--from", "SOURCE", "NAMESPACE/SERVICE-ACCOUNT or plaintext, and @ADDRESS if policies ask for it"},
    {"--to", "NAMESPACE/NAME", "a Service or a pod"},
    {"--port", "N", "the Service's port, or the pod's"},
};

constexpr std::array kCommands = {
    Command{"status", "", "", "the agent, its controller, pods and counters", run_status},
    Command{"pod", "list", "", "pods that are captured", run_pod_list},
    Command{"pod", "add", "UID NAMESPACE/NAME SERVICE-ACCOUNT NETNS CGROUP [KEY=VALUE…]", "capture a pod",
            run_pod_add},
    Command{"pod", "remove", "UID", "stop capturing a pod", run_pod_remove},
    Command{"workload", "list", "", "workloads of the mesh", run_workload_list},
    Command{"service", "list", "", "Services of the mesh and their endpoints", run_service_list},
    Command{"policy", "list", "", "policies in force, whom they bind here, and how they were read",
            run_policy_list},
    Command{"authz", "check",
            "--from NAMESPACE/SERVICE-ACCOUNT|plaintext[@ADDRESS] --to NAMESPACE/NAME --port N",
            "who would be let in, by which rule (exit status: 0 allowed, 1 denied, 2 no answer)",
            run_authz_check, kAuthzFlags},
    Command{"connection", "list", "", "connections that live now", run_connection_list},
    Command{"cert", "list", "", "certificates of the pods here", run_cert_list},
    Command{"why", "", "[--denied] [-n COUNT] [--watch]",
            "the last decisions: who was let in or not, by which rule; what could not be reached", run_why,
            kWhyFlags},
    Command{"bpf", "progs", "[--measure SECONDS]",
            "BPF programs on our hooks, ours and others', with runs and their mean time", run_bpf_progs,
            kMeasureFlags},
    Command{"bpf", "maps", "", "our BPF maps and how full they are", run_bpf_maps},
    Command{"bpf", "links", "", "what is attached where, ours and others'", run_bpf_links},
    Command{"bpf", "trace", "[--pod NAMESPACE/NAME] [--verdict NAME[,NAME…]] [-n COUNT]",
            "what the programs decide, live: captured, left alone, refused, and why", run_bpf_trace,
            kTraceFlags},
    Command{"config", "show", "", "what the proxy was started with, and what was set since", run_config_show},
    Command{"config", "set", "ktls on|off", "until the proxy's next start: whether bulk moves to kernel TLS",
            run_config_set},
    Command{"check", "", "", "kernel features, cgroups, collisions, each with what to do", run_check},
    Command{"dump", "", "[FILE|-]",
            "everything that a report of a bug needs, as one document, without keys and tokens", run_dump},
    Command{"completion", "", "bash|zsh|fish", "a script that completes commands, flags and keys of filters",
            run_completion},
    Command{"man", "", "", "the manual page: fairlead man | man -l -", run_man},
};

std::string usage() {
  std::string text =
      "Usage: fairlead [--run-dir DIR] [-o table|json|yaml] [--timeout SECONDS] NOUN [VERB] [ARGUMENTS]\n"
      "       fairlead … --filter 'KEY=VALUE,KEY~GLOB,KEY>NUMBER'     with every list, and with why\n\n";
  for (const Command& command : kCommands) {
    std::string words(command.noun);
    if (!command.verb.empty()) words += fmt::format(" {}", command.verb);
    text += fmt::format("  {:16} {}\n", words, command.help);
    if (!command.arguments.empty()) text += fmt::format("  {:16}   {}\n", "", command.arguments);
  }
  return text +
         "\nThe agent is found by --run-dir, by FAIRLEAD_RUN_DIR, or at /run/fairlead.\n"
         "Exit status: 0 ok, 1 failure, 2 usage, 3 the agent cannot be reached.\n";
}

struct Parsed {
  Options options;
  std::vector<std::string> words;
  std::vector<std::string> filters;
  bool help = false;
  bool version = false;
};

std::optional<Format> format_of(std::string_view name) {
  if (name == "table") return Format::kTable;
  if (name == "json") return Format::kJson;
  if (name == "yaml") return Format::kYaml;
  return std::nullopt;
}

const Flag* flag_of(std::span<const Flag> flags, std::string_view name) {
  const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag& f) { return f.name == name; });
  return found == flags.end() ? nullptr : &*found;
}

// "--output=json" and "-ojson" are "--output json" and "-o json".
std::vector<std::string> separated(std::span<const char* const> words) {
  std::vector<std::string> separate;
  for (const std::string_view word : words) {
    const size_t equals = word.find('=');
    const bool joined = word.starts_with("--") && equals != std::string_view::npos;
    if (joined && flag_of(kCommonFlags, word.substr(0, equals)) != nullptr) {
      separate.emplace_back(word.substr(0, equals));
      separate.emplace_back(word.substr(equals + 1));
    } else if (word.starts_with("-o") && word.size() > 2) {
      separate.emplace_back("-o");
      separate.emplace_back(word.substr(word[2] == '=' ? 3 : 2));
    } else {
      separate.emplace_back(word);
    }
  }
  return separate;
}

// One option with its value; false: what is wrong was said.
bool take_option(std::string_view name, std::string_view value, Parsed& parsed) {
  Options& options = parsed.options;
  if (name == "--filter") {
    parsed.filters.emplace_back(value);
    return true;
  }
  if (name == "--run-dir") {
    options.run_directory = value;
    options.chosen = true;
    return true;
  }
  if (name == "-o" || name == "--output") {
    const auto format = format_of(value);
    if (format) options.format = *format;
    return format.has_value() || complain(kUsage, fmt::format("{} {}: want table, json or yaml\n"
                                                              "  Try: fairlead -o json status",
                                                              name, value)) == kOk;
  }
  const auto seconds = parse_number(value, 3600);
  if (seconds) options.timeout = std::chrono::seconds(*seconds);
  return seconds.has_value() || complain(kUsage, fmt::format("--timeout {}: want seconds, up to 3600\n"
                                                             "  Try: fairlead --timeout 10 status",
                                                             value)) == kOk;
}

std::optional<Parsed> parse(std::span<const char* const> given) {
  Parsed parsed;
  const std::vector<std::string> words = separated(given);
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    const Flag* flag = flag_of(kCommonFlags, word);
    if (word == "--help" || word == "-h" || (word == "help" && parsed.words.empty())) {
      parsed.help = true;
    } else if (word == "--version") {
      parsed.version = true;
    } else if (word == "--no-color") {
      continue;  // nothing is coloured; scripts may say so all the same
    } else if (flag != nullptr) {
      if (i + 1 == words.size()) {
        complain(kUsage, fmt::format("{} wants a value\n  Try: fairlead --help", word));
        return std::nullopt;
      }
      if (!take_option(word, words[++i], parsed)) return std::nullopt;
    } else {
      parsed.words.emplace_back(word);
    }
  }
  return parsed;
}

// Before the agent is asked: what is mistyped is no empty list.
bool read_filters(const Command& command, Parsed& parsed) {
  const std::string name = fmt::format("{}{}{}", command.noun, command.verb.empty() ? "" : " ", command.verb);
  const auto keys = keys_of(command.noun, command.verb);
  for (const std::string& text : parsed.filters) {
    if (keys.empty()) {
      complain(kUsage,
               fmt::format("{} is no list: --filter does not go with it\n  Try: fairlead --help", name));
      return false;
    }
    const Result<void> added = parsed.options.filter.add(text, keys, std::chrono::system_clock::now());
    if (added) continue;
    complain(kUsage, fmt::format("{}: --filter '{}': {}\n  Try: fairlead {} --filter '{}=…'", name,
                                 cell(text), added.error().text(), name, keys.front().name));
    return false;
  }
  return true;
}

const Command* find(const std::vector<std::string>& words, size_t& used) {
  for (const Command& command : kCommands) {
    if (words[0] != command.noun) continue;
    used = command.verb.empty() ? 1 : 2;
    if (command.verb.empty() || (words.size() > 1 && words[1] == command.verb)) return &command;
  }
  return nullptr;
}

std::string no_such_command(const std::vector<std::string>& words) {
  if (words[0].starts_with("-")) return fmt::format("unknown option '{}'\n  Try: fairlead --help", words[0]);
  std::string verbs;
  for (const Command& command : kCommands) {
    if (words[0] == command.noun) verbs += fmt::format("\n  Try: fairlead {} {}", command.noun, command.verb);
  }
  const std::string asked = words[0] + (words.size() > 1 ? " " + words[1] : "");
  return fmt::format("no command '{}'{}", asked, verbs.empty() ? "\n  Try: fairlead --help" : verbs);
}

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

std::span<const Flag> common_flags() {
  return kCommonFlags;
}

std::vector<Flag> flags_of(const Command& command) {
  std::vector<Flag> flags(command.flags.begin(), command.flags.end());
  // "[--denied] [-n COUNT]"
  for (std::string_view rest = flags.empty() ? command.arguments : ""; !rest.empty();) {
    rest.remove_prefix(std::min(rest.find_first_not_of(" []"), rest.size()));
    const std::string_view word = rest.substr(0, rest.find_first_of(" ]"));
    rest.remove_prefix(word.size());
    if (word.size() < 2 || word[0] != '-') continue;
    const bool valued = rest.starts_with(' ') && rest.size() > 1 && rest[1] != '[' && rest[1] != '-';
    flags.push_back({word, valued ? rest.substr(1, rest.find_first_of(" ]", 1) - 1) : "", ""});
  }
  if (!keys_of(command.noun, command.verb).empty()) flags.push_back(*flag_of(kCommonFlags, "--filter"));
  return flags;
}

int run(std::span<const char* const> words, const char* environment_run_directory) {
  auto parsed = parse(words);
  if (!parsed) return kUsage;
  if (environment_run_directory != nullptr && !parsed->options.chosen)
    parsed->options.run_directory = environment_run_directory;
  if (parsed->version) {
    std::puts("fairlead " FAIRLEAD_VERSION);
    return kOk;
  }
  if (parsed->help || parsed->words.empty()) {
    std::fputs(usage().c_str(), parsed->help ? stdout : stderr);
    return parsed->help ? kOk : kUsage;
  }
  size_t used = 0;
  const Command* command = find(parsed->words, used);
  if (command == nullptr) {
    return complain(kUsage, no_such_command(parsed->words));
  }
  parsed->options.arguments.assign(parsed->words.begin() + static_cast<ptrdiff_t>(used), parsed->words.end());
  if (command->arguments.empty() && !parsed->options.arguments.empty()) {
    return complain(kUsage,
                    fmt::format("unexpected '{}'\n  Try: fairlead --help", parsed->options.arguments[0]));
  }
  if (!read_filters(*command, *parsed)) return kUsage;
  return command->run(parsed->options);
}

}  // namespace fairlead::cli
