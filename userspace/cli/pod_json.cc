#include <nlohmann/json.hpp>

#include "cli/output.h"

namespace fairlead::cli {

using nlohmann::json;

int run_pod_list(const Options& options) {
  int status = kOk;
  const auto rows = ask(options, Socket::kKeeper, "pods", status);
  if (!rows) return status;
  print_list(
      options, *rows,
      {{"POD",
        [](const json& row) { return cell(row.value("namespace", "")) + "/" + cell(row.value("name", "")); }},
       column("SERVICE ACCOUNT", "serviceAccount"),
       column("ADDRESSES", "addresses"),
       column("UID", "uid"),
       column("NETNS COOKIE", "netnsCookie"),
       column("NOT CAPTURED OUT", "excludedOutboundPorts"),
       column("NOT CAPTURED IN", "excludedInboundPorts"),
       column("RANGES", "excludedOutboundRanges")});
  return kOk;
}

int run_pod_add(const Options& options) {
  const auto& words = options.arguments;
  const size_t slash = words.size() < 5 ? std::string::npos : words[1].find('/');
  if (slash == std::string::npos) {
    return complain(kUsage,
                    "pod add: want UID NAMESPACE/NAME SERVICE-ACCOUNT NETNS CGROUP [KEY=VALUE…]\n"
                    "  Try: fairlead pod list");
  }
  json pod{{"uid", words[0]},
           {"namespace", words[1].substr(0, slash)},
           {"name", words[1].substr(slash + 1)},
           {"serviceAccount", words[2]},
           {"netns", words[3]},
           {"cgroup", words[4]},
           {"annotations", json::object()}};
  for (size_t i = 5; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    if (equals == std::string::npos)
      return complain(kUsage,
                      fmt::format("pod add: '{}' is not KEY=VALUE\n  Try: fairlead --help", words[i]));
    pod["annotations"][words[i].substr(0, equals)] = words[i].substr(equals + 1);
  }
  int status = kOk;
  const auto answer = ask(options, Socket::kKeeper,
                          "pod.add " + pod.dump(-1, ' ', false, json::error_handler_t::replace), status);
  if (answer) print_document(options, *answer);
  return status;
}

int run_pod_remove(const Options& options) {
  if (options.arguments.size() != 1)
    return complain(kUsage, "pod remove: want one UID\n  Try: fairlead pod list");
  int status = kOk;
  const json uid{{"uid", options.arguments[0]}};
  const auto answer = ask(options, Socket::kKeeper,
                          "pod.remove " + uid.dump(-1, ' ', false, json::error_handler_t::replace), status);
  if (answer) print_document(options, *answer);
  return status;
}

}  // namespace fairlead::cli
