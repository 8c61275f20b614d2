#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

void line(std::string_view name, const std::string& text) {
  std::fputs((text.empty() ? fmt::format("{}\n", name) : fmt::format("{:14} {}\n", name, text)).c_str(),
             stdout);
}

void counters(const json& values) {
  for (const auto& [name, value] : values.items()) {
    if (value.is_number_unsigned() && value.get<uint64_t>() > 0)
      line("", fmt::format("{:32} {}", name, value.get<uint64_t>()));
  }
}

void locked_in(const json& locked) {
  const int landlock = locked.value("landlock", 0);
  line("locked in", fmt::format("seccomp {}, landlock {}, keys {}", cell(locked.value("seccomp", "")),
                                landlock == 0 ? std::string("ABSENT") : fmt::format("version {}", landlock),
                                locked.value("keysLocked", false) ? "locked" : "NOT LOCKED"));
}

void hand_overs(const json& told) {
  const std::string state = told.value("state", "none");
  const std::string why = told.value("lastFailure", "");
  line("hand-overs", fmt::format("{} taken, {} failed{}{}", told.value("taken", 0), told.value("failed", 0),
                                 state == "none" ? "" : ", one is under way: " + cell(state),
                                 why.empty() ? "" : ", the last: " + cell(why)));
}

}  // namespace

int run_status(const Options& options) {
  int status = kOk;
  const auto keeper = ask(options, Socket::kKeeper, "status", status);
  if (!keeper) return status;
  int proxy_status = kOk;
  const auto proxy = ask(options, Socket::kProxy, "status", proxy_status);
  if (options.format != Format::kTable) {
    print_document(options, json{{"keeper", *keeper}, {"proxy", proxy ? *proxy : json()}});
    return proxy_status;
  }
  line("node", cell(keeper->value("node", "")));
  line("keeper", fmt::format("pid {}, up {}, version {}, {} pods", keeper->value("pid", 0),
                             duration(keeper->value("uptimeSeconds", int64_t{0}) * 1000),
                             cell(keeper->value("version", "")), keeper->value("pods", 0)));
  if (keeper->contains("handOvers")) hand_overs(keeper->at("handOvers"));  // an older agent knows none
  if (!proxy) return proxy_status;
  if (proxy->contains("lockedIn")) locked_in(proxy->at("lockedIn"));  // an older agent does not tell
  const json& controller = proxy->at("controller");
  line("proxy",
       fmt::format("pid {}, up {}, {} workers, {}, restarted {} times", proxy->value("pid", 0),
                   duration(proxy->value("uptimeSeconds", int64_t{0}) * 1000), proxy->value("workers", 0),
                   proxy->value("ready", false) ? "ready" : "NOT READY", keeper->value("proxyRestarts", 0)));
  line("controller",
       fmt::format("{}, {}, {} pushes{}", cell(controller.value("address", "")),
                   controller.value("connected", false) ? "connected" : "NOT CONNECTED",
                   controller.value("pushes", 0),
                   controller.value("lastError", "").empty() ? "" : ", " + cell(controller["lastError"])));
  const json& snapshot = proxy->at("snapshot");
  line("mesh", fmt::format("{} workloads, {} services, {} policies", snapshot.value("workloads", 0),
                           snapshot.value("services", 0), snapshot.value("policies", 0)));
  line("connections",
       fmt::format("{} inbound, {} outbound, {} tunnels", proxy->at("connections").value("inbound", 0),
                   proxy->at("connections").value("outbound", 0), proxy->at("tunnels").value("open", 0)));
  line("counters", "");
  counters(proxy->at("counters"));
  line("bpf", cell(keeper->at("bpf").value("directory", "")));
  counters(keeper->at("bpf").at("counters"));
  return kOk;
}

}  // namespace fairlead::cli
