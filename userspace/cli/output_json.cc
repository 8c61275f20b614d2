#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/output.h"
#include "net/query.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string scalar_yaml(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

// Names come from a cluster: whatever they hold must not steer a terminal.
std::string cell(const json& value) {
  std::string raw;
  if (value.is_null()) return "-";
  if (value.is_array()) {
    for (const json& item : value) raw += (raw.empty() ? "" : ",") + cell(item);
  } else {
    raw = value.is_string() ? value.get<std::string>() : value.dump();
  }
  if (raw.empty()) return "-";
  std::string safe;
  for (const char c : raw) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      safe += fmt::format("\\x{:02x}", byte);
    } else {
      safe += c;
    }
  }
  return safe;
}

Column column(std::string_view header, std::string_view key) {
  return {header, [name = std::string(key)](const json& row) {
            return cell(row.contains(name) ? row.at(name) : json());
          }};
}

std::string duration(int64_t milliseconds) {
  if (milliseconds < 0) return "-" + duration(-milliseconds);
  if (milliseconds < 1000) return fmt::format("{}ms", milliseconds);
  const int64_t seconds = milliseconds / 1000;
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{}s", seconds / 60, seconds % 60);
  if (seconds < 172800) return fmt::format("{}h{}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{}h", seconds / 86400, seconds / 3600 % 24);
}

std::string bytes(uint64_t count) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(count);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{}B", count) : fmt::format("{:.1f}{}", value, kUnits[unit]);
}

std::string table(const json& rows, const std::vector<Column>& columns) {
  std::vector<std::vector<std::string>> lines(1);
  for (const Column& column : columns) lines[0].emplace_back(column.header);
  for (const json& row : rows) {
    auto& line = lines.emplace_back();
    for (const Column& column : columns) line.push_back(column.text(row));
  }
  std::vector<size_t> widths(columns.size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) text += fmt::format("{:{}}  ", line[i], widths[i]);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  return out;
}

// Block style; strings always quoted as JSON quotes them, which is YAML, too.
std::string yaml(const json& document, int indent) {
  const std::string pad(static_cast<size_t>(indent), ' ');
  std::string out;
  if (document.is_object() && !document.empty()) {
    for (const auto& [key, value] : document.items()) {
      const bool nested = (value.is_object() || value.is_array()) && !value.empty();
      out += pad + key + ":" + (nested ? "\n" + yaml(value, indent + 2) : " " + scalar_yaml(value) + "\n");
    }
  } else if (document.is_array() && !document.empty()) {
    for (const json& value : document) {
      const bool nested = (value.is_object() || value.is_array()) && !value.empty();
      std::string body = nested ? yaml(value, indent + 2) : scalar_yaml(value) + "\n";
      if (nested) body.erase(0, static_cast<size_t>(indent) + 2);
      out += pad + "- " + body;
    }
  } else {
    out = pad + scalar_yaml(document) + "\n";
  }
  return out;
}

std::string document_text(const Options& options, const json& document) {
  return options.format == Format::kYaml
             ? yaml(document)
             : document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void print_document(const Options& options, const json& document) {
  put(document_text(options, document));
}

json filtered(const Options& options, const json& rows) {
  if (options.filter.empty()) return rows;
  json kept = json::array();
  for (const json& row : rows) {
    if (options.filter.matches(row)) kept.push_back(row);
  }
  return kept;
}

void print_list(const Options& options, const json& rows, const std::vector<Column>& columns) {
  print_rows(options, filtered(options, rows), columns);
}

void print_rows(const Options& options, const json& rows, const std::vector<Column>& columns) {
  if (options.format != Format::kTable) return print_document(options, rows);
  put(table(rows, columns));
}

int complain(int status, std::string_view text) {
  std::fprintf(stderr, "fairlead: %.*s\n", static_cast<int>(text.size()), text.data());
  return status;
}

Result<json> question(const Options& options, Socket socket, const std::string& line) {
  const std::string path =
      options.run_directory + (socket == Socket::kKeeper ? "/keeper.sock" : "/proxy.sock");
  FL_TRY_ASSIGN(const std::string answer, net::query(path, line, options.timeout));
  json document = json::parse(answer, nullptr, false);
  if (document.is_discarded())
    return Error(ErrorKind::kProtocol, path + " answered something that is not JSON");
  if (document.is_object() && document.contains("error"))
    return Error(ErrorKind::kDenied, cell(document["error"]));
  return document;
}

int explain(const Error& error, const std::string& line) {
  if (error.kind() == ErrorKind::kProtocol) {
    return complain(kFailure, error.text() + "\n  Are agent and CLI of one version? Try: fairlead --version");
  }
  if (error.kind() == ErrorKind::kDenied) {
    return complain(kFailure, fmt::format("{}\n  Try: fairlead {}", error.text(),
                                          line.starts_with("pod.") ? "pod list" : "status"));
  }
  const bool forbidden = error.code() == EACCES || error.code() == EPERM;
  return complain(kUnreachable,
                  error.text() + (forbidden ? "\n  Only root may ask the agent. Try: sudo fairlead …"
                                            : "\n  Is the agent running here? Try: fairlead check; or "
                                              "name its directory: --run-dir DIR"));
}

std::optional<json> ask(const Options& options, Socket socket, const std::string& line, int& status) {
  auto answer = question(options, socket, line);
  status = answer ? kOk : explain(answer.error(), line);
  if (!answer) return std::nullopt;
  return std::move(*answer);
}

Result<json> next_page(const Options& options, const std::string& verb, const json& from) {
  json position = json::object();
  if (!from.is_null()) position = {{"instance", from.at("instance")}, {"cursor", from.at("cursor")}};
  FL_TRY_ASSIGN(json page, question(options, Socket::kProxy, verb + " " + position.dump()));
  const bool whole = page.is_object() && page.contains("rows") && page["rows"].is_array() &&
                     page.contains("cursor") && page.contains("instance") && page["instance"].is_string();
  if (!whole) return Error(ErrorKind::kProtocol, verb + ": the agent's answer is not understood");
  return page;
}

}  // namespace fairlead::cli
