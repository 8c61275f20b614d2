// The `fairlead` command: noun, then verb. Each noun is a file that fills rows of one table.
// Exit status: 0 ok, 1 failure, 2 usage, 3 the agent cannot be reached. Data goes to stdout, everything else
// to stderr.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/filter.h"

namespace fairlead::cli {

constexpr int kOk = 0;
constexpr int kFailure = 1;
constexpr int kUsage = 2;
constexpr int kUnreachable = 3;

enum class Format { kTable, kJson, kYaml };

struct Options {
  std::string run_directory = "/run/fairlead";
  bool chosen = false;  // by --run-dir, and not by the environment or as the default
  Format format = Format::kTable;
  std::chrono::milliseconds timeout{5000};
  std::vector<std::string> arguments;  // behind noun and verb
  Filter filter;                       // of lists; print_list() applies it
};

struct Flag {
  std::string_view name;   // "-n", "--watch"
  std::string_view value;  // what it wants, empty: nothing. "a|b|c" are the choices
  std::string_view help;
};

struct Command {
  std::string_view noun;
  std::string_view verb;  // empty: the noun alone
  std::string_view arguments;
  std::string_view help;
  int (*run)(const Options&);
  std::span<const Flag> flags = {};  // of this command alone; usage, completion and manual tell of them
};

std::span<const Command> commands();
std::span<const Flag> common_flags();
// Of one command; those that only its arguments name have no help. A list has --filter.
std::vector<Flag> flags_of(const Command& command);

// One per file.
int run_status(const Options& options);
int run_pod_list(const Options& options);
int run_pod_add(const Options& options);
int run_pod_remove(const Options& options);
int run_workload_list(const Options& options);
int run_service_list(const Options& options);
int run_policy_list(const Options& options);
int run_authz_check(const Options& options);
int run_connection_list(const Options& options);
int run_cert_list(const Options& options);
int run_why(const Options& options);
int run_bpf_progs(const Options& options);
int run_bpf_maps(const Options& options);
int run_bpf_links(const Options& options);
int run_bpf_trace(const Options& options);
int run_config_show(const Options& options);
int run_config_set(const Options& options);
int run_check(const Options& options);
int run_dump(const Options& options);
int run_completion(const Options& options);
int run_man(const Options& options);

// Parses everything and runs it: the whole program but for main(). `environment_run_directory` may be null.
int run(std::span<const char* const> words, const char* environment_run_directory);

}  // namespace fairlead::cli
