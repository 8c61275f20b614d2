// config: what the proxy was started with, and the few settings that may change while it runs.
#include <nlohmann/json.hpp>

#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

// A row for each setting; "controller.address" is the one inside the other.
void flatten(const json& document, const std::string& prefix, json& rows) {
  for (const auto& [key, value] : document.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object()) {
      flatten(value, name, rows);
    } else {
      rows.push_back({{"setting", name}, {"value", value}});
    }
  }
}

int show(const Options& options, const json& document) {
  if (options.format != Format::kTable) {
    print_document(options, document);
    return kOk;
  }
  json rows = json::array();
  flatten(document, "", rows);
  print_rows(options, rows, {column("SETTING", "setting"), column("VALUE", "value")});
  return kOk;
}

}  // namespace

int run_config_show(const Options& options) {
  int status = kOk;
  const auto document = ask(options, Socket::kProxy, "config", status);
  return document ? show(options, *document) : status;
}

int run_config_set(const Options& options) {
  const auto& words = options.arguments;
  if (words.size() != 2 || words[0] != "ktls" || (words[1] != "on" && words[1] != "off"))
    return complain(kUsage, "want: fairlead config set ktls on|off");
  int status = kOk;
  const auto document = ask(options, Socket::kProxy, "set ktls=" + words[1], status);
  return document ? show(options, *document) : status;
}

}  // namespace fairlead::cli
