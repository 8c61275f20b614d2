// The answers of keeper.sock.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "keeper/keeper.h"

namespace fairlead::keeper {
namespace {

using nlohmann::json;

std::string dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}
std::string error_json(std::string_view text) {
  return dump(json{{"error", text}});
}

}  // namespace

std::string Keeper::answer(std::string_view verb, std::string_view argument, const net::QueryPeer& peer) {
  if (peer.uid != 0) return error_json("only root may ask the keeper");
  if (verb == "status") return status_json();
  if (verb == "pods") return pods_json();
  if (verb == "pod.add" || verb == "pod.remove") return answer_about_pods(verb, argument);
  return error_json(fmt::format("unknown question '{}'", verb));
}

std::string Keeper::answer_about_pods(std::string_view verb, std::string_view argument) {
  // A moment: the next answer is the successor's, or this one goes on.
  if (given_ || giving_->pods_are_fixed())
    return error_json("the agent is being replaced by its successor: try again");
  if (verb == "pod.remove") {
    const auto uid = enroll::uid_from_json(argument);
    if (!uid) return error_json(uid.error().text());
    Result<void> removed = remove_pod(*uid);
    if (removed) removed = save();
    return removed ? dump(json{{"ok", true}}) : error_json(removed.error().text());
  }
  auto spec = enroll::pod_from_json(argument);
  if (!spec) return error_json(spec.error().text());
  // Nothing would be captured yet: a pod that starts now would speak plaintext to the mesh.
  if (!ever_synced_)
    return error_json("the agent has no mesh state yet (is its controller reachable?): try again");
  const std::string uid = spec->uid;
  const auto cookie = add_pod(std::move(*spec));
  if (!cookie) return error_json(cookie.error().text());
  const Result<void> saved = save();
  if (!saved) {
    giving_->give_up(saved.error().text());  // the successor could not read it
    return error_json(saved.error().text());
  }
  offer_pod(pods_.at(uid));
  return dump(json{{"ok", true}, {"netnsCookie", *cookie}, {"ready", proxy_synced_}});
}

std::string Keeper::pods_json() const {
  json list = json::array();
  for (const auto& [uid, pod] : pods_) {
    json addresses = json::array();
    for (const IpAddress& address : pod.where.addresses) addresses.push_back(address.to_string());
    json ranges = json::array();
    const auto exclusions = enroll::exclusions_of(pod.spec);
    if (exclusions) {
      for (const Cidr& range : exclusions->outbound_ranges) ranges.push_back(range.to_string());
    }
    list.push_back(
        {{"uid", uid},
         {"namespace", pod.spec.ns},
         {"name", pod.spec.name},
         {"serviceAccount", pod.spec.service_account},
         {"netns", pod.spec.netns},
         {"cgroup", pod.spec.cgroup},
         {"netnsCookie", pod.where.cookie},
         {"addresses", addresses},
         {"outboundPort", kOutboundPort},
         {"inboundPort", kInboundPort},
         {"excludedOutboundPorts", exclusions ? exclusions->outbound_ports : std::vector<uint16_t>()},
         {"excludedInboundPorts", exclusions ? exclusions->inbound_ports : std::vector<uint16_t>()},
         {"excludedOutboundRanges", ranges}});
  }
  return dump(list);
}

std::string Keeper::status_json() const {
  json counters = json::object();
  if (const auto values = datapath_->counters()) {
    for (const auto& counter : *values) counters[counter.name] = counter.value;
  }
  const auto uptime = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - started_).count();
  return dump(json{{"node", config_.node},
                   {"version", FAIRLEAD_VERSION},
                   {"pid", ::getpid()},
                   {"proxyPid", proxy_->pid()},
                   {"proxyRestarts", proxy_->restarts()},
                   {"proxyReady", proxy_synced_},
                   {"uptimeSeconds", uptime},
                   {"pods", pods_.size()},
                   {"handOvers",
                    {{"state", giving_->state()},
                     {"taken", hand_overs_.taken},
                     {"failed", hand_overs_.failed},
                     {"lastFailure", hand_overs_.last_failure}}},
                   {"bpf", {{"directory", config_.bpf_directory}, {"counters", counters}}}});
}

}  // namespace fairlead::keeper
