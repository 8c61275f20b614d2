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

// Prints those of a list of objects that the filter lets through, in the chosen format.
void print_list(const Options& options, const nlohmann::json& rows, const std::vector<Column>& columns);
// The same for rows that have met the filter already.
void print_rows(const Options& options, const nlohmann::json& rows, const std::vector<Column>& columns);
void print_document(const Options& options, const nlohmann::json& document);  // JSON and YAML only
std::string document_text(const Options& options, const nlohmann::json& document);
std::string table(const nlohmann::json& rows, const std::vector<Column>& columns);
std::string yaml(const nlohmann::json& document, int indent = 0);

nlohmann::json filtered(const Options& options, const nlohmann::json& rows);

// The common columns: a string, number or list under a key; "-" for nothing; control characters are shown as
// \xNN.
Column column(std::string_view header, std::string_view key);
std::string cell(const nlohmann::json& value);
std::string duration(int64_t milliseconds);
std::string bytes(uint64_t count);

enum class Socket { kKeeper, kProxy };
// The agent's answer, and nothing is said. Errors: kProtocol, it is no JSON; kDenied, it is a refusal; every
// other kind, the agent cannot be reached.
Result<nlohmann::json> question(const Options& options, Socket socket, const std::string& line);
// Says what failed, with what to do next. The exit status.
int explain(const Error& error, const std::string& line);
// Both of them. On failure gives the exit status.
std::optional<nlohmann::json> ask(const Options& options, Socket socket, const std::string& line,
                                  int& status);
// A page of "connections" or "decisions" of the proxy (proxy/pages_json.h), whole. `from`: the page before.
Result<nlohmann::json> next_page(const Options& options, const std::string& verb, const nlohmann::json& from);
// All of them that the filter lets through, page by page; what is missing is said on stderr.
std::optional<nlohmann::json> ask_connections(const Options& options, int& status);
int complain(int status, std::string_view text);

}  // namespace fairlead::cli
