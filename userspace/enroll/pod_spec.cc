#include "enroll/pod_spec.h"

#include <algorithm>
#include <functional>

namespace fairlead::enroll {
namespace {

constexpr std::string_view kOutboundPorts = "traffic.sidecar.istio.io/excludeOutboundPorts";
constexpr std::string_view kInboundPorts = "traffic.sidecar.istio.io/excludeInboundPorts";
constexpr std::string_view kOutboundRanges = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
constexpr size_t kMaxName = 253;
constexpr size_t kMaxUid = 63;

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_';
}

bool is_name(std::string_view text, size_t maximum) {
  return !text.empty() && text.size() <= maximum && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), is_name_char);
}

bool is_path(std::string_view path) {
  return path.size() > 1 && path.size() < 4096 && path.front() == '/' &&
         path.find('\0') == std::string_view::npos && path.find("/../") == std::string_view::npos;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// Calls `take` for each item of a comma-separated annotation.
Result<void> each_item(const PodSpec& pod, std::string_view key,
                       const std::function<Result<void>(std::string_view)>& take) {
  const auto found = pod.annotations.find(std::string(key));
  if (found == pod.annotations.end()) return {};
  std::string_view rest = found->second;
  for (size_t count = 0; !rest.empty(); ++count) {
    if (count == kMaxExclusions)
      return Error(ErrorKind::kExhausted, fmt::format("{}: more than {} items", key, kMaxExclusions));
    const size_t comma = rest.find(',');
    const std::string_view item = trimmed(rest.substr(0, comma));
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    if (item.empty()) continue;
    Result<void> taken = take(item);
    if (!taken) return std::move(taken).error().context(key);
  }
  return {};
}

Result<void> read_ports(const PodSpec& pod, std::string_view key, std::vector<uint16_t>& ports) {
  return each_item(pod, key, [&ports](std::string_view item) -> Result<void> {
    const auto port = parse_number(item, 65535);
    if (!port || *port == 0)
      return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a port", item));
    ports.push_back(static_cast<uint16_t>(*port));
    return {};
  });
}

}  // namespace

Result<Exclusions> exclusions_of(const PodSpec& pod) {
  Exclusions exclusions;
  FL_TRY(read_ports(pod, kOutboundPorts, exclusions.outbound_ports));
  FL_TRY(read_ports(pod, kInboundPorts, exclusions.inbound_ports));
  FL_TRY(each_item(pod, kOutboundRanges, [&](std::string_view item) -> Result<void> {
    FL_TRY_ASSIGN(const Cidr range, Cidr::parse(item));
    exclusions.outbound_ranges.push_back(range);
    return {};
  }));
  return exclusions;
}

Result<void> validate(const PodSpec& pod) {
  const auto invalid = [](std::string_view field, std::string_view want) {
    return Error(ErrorKind::kInvalidArgument, fmt::format("pod: {} must be {}", field, want));
  };
  if (!is_name(pod.uid, kMaxUid)) return invalid("uid", "1 to 63 of letters, digits, - . _");
  if (!is_name(pod.ns, kMaxName)) return invalid("namespace", "a Kubernetes name");
  if (!is_name(pod.name, kMaxName)) return invalid("name", "a Kubernetes name");
  if (!is_name(pod.service_account, kMaxName)) return invalid("serviceAccount", "a Kubernetes name");
  if (!is_path(pod.netns)) return invalid("netns", "an absolute path");
  if (!is_path(pod.cgroup)) return invalid("cgroup", "an absolute path");
  FL_TRY(exclusions_of(pod));
  return {};
}

}  // namespace fairlead::enroll
