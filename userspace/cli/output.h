// One writer for tables, JSON and YAML, and the way to ask the agent. JSON is the stable API: it is what the
// agent said.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"

namespace fairlead::cli {

struct Column {
  std::string_view header;
  std::function<std::string(const nlohmann::json& row)> text;
};

// Prints a list of objects in the chosen format.
void print_list(const Options& options, const nlohmann::json& rows, const std::vector<Column>& columns);
void print_document(const Options& options, const nlohmann::json& document);  // JSON and YAML only
std::string table(const nlohmann::json& rows, const std::vector<Column>& columns);
std::string yaml(const nlohmann::json& document, int indent = 0);

// The common columns: a string, number or list under a key; "-" for nothing; control characters are shown as
// \xNN.
Column column(std::string_view header, std::string_view key);
std::string cell(const nlohmann::json& value);
std::string duration(int64_t milliseconds);
std::string bytes(uint64_t count);

enum class Socket { kKeeper, kProxy };
// The agent's answer; on failure says so on stderr, with what to do next, and gives the exit status.
std::optional<nlohmann::json> ask(const Options& options, Socket socket, const std::string& line,
                                  int& status);
int complain(int status, std::string_view text);

}  // namespace fairlead::cli
