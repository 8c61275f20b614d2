// fairlead-standin attach|update|drops: reads one JSON document on stdin (scripts/labtool/standin.py writes
// it), acts on the network namespace it runs in, and exits. Pins keep the programs on the cgroup, the
// interfaces keep theirs.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <net/if.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/net_types.h"
#include "base/unique_fd.h"
#include "standin.h"
#include "standin_bpf.skel.h"

namespace fairlead::standin {
namespace {

using nlohmann::json;
using Skeleton = std::unique_ptr<standin_bpf, decltype([](standin_bpf* s) { standin_bpf::destroy(s); })>;

template <class Octets>
void fill(Octets& out, const IpAddress& address) {
  std::copy(address.octets().begin(), address.octets().end(), std::begin(out));
}

Error bpf_error(std::string_view operation, int result) {
  return {ErrorKind::kBpf, fmt::format("{}: {}", operation, std::strerror(-result)), -result};
}

std::string map_path(const std::string& pins, std::string_view name) {
  return fmt::format("{}/{}", pins, name);
}

Result<Skeleton> load(const std::string& pins) {
  Skeleton skeleton(standin_bpf::open());
  if (skeleton == nullptr) return Error::from_errno("open programs");
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, skeleton->obj) {
    const std::string name = bpf_map__name(map);
    if (name.starts_with("standin_") && name.find('.') == std::string::npos) {
      bpf_map__set_pin_path(map, map_path(pins, name).c_str());  // reused when it is pinned already
    }
  }
  if (const int result = standin_bpf::load(skeleton.get()); result != 0)
    return bpf_error("load programs", result);
  return skeleton;
}

Result<void> attach_cgroup(bpf_program* program, int cgroup, const std::string& pins) {
  const std::string pin = map_path(pins, std::string("link_") + bpf_program__name(program));
  if (::access(pin.c_str(), F_OK) == 0) return {};
  bpf_link* link = bpf_program__attach_cgroup(program, cgroup);
  if (link == nullptr) return Error::from_errno(fmt::format("attach {}", bpf_program__name(program)));
  const int result = bpf_link__pin(link, pin.c_str());
  bpf_link__destroy(link);  // the pin keeps it
  if (result != 0) return bpf_error(fmt::format("pin {}", pin), result);
  return {};
}

Result<void> attach_interface(bpf_program* program, const std::string& name) {
  const unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0) return Error::from_errno(fmt::format("interface {}", name));
  LIBBPF_OPTS(bpf_tc_hook, hook);
  hook.ifindex = static_cast<int>(index);
  hook.attach_point = BPF_TC_EGRESS;
  if (const int result = bpf_tc_hook_create(&hook); result != 0 && result != -EEXIST)
    return bpf_error("tc hook", result);
  LIBBPF_OPTS(bpf_tc_opts, options);
  options.prog_fd = bpf_program__fd(program);
  options.flags = BPF_TC_F_REPLACE;
  options.handle = 1;
  options.priority = 1;
  if (const int result = bpf_tc_attach(&hook, &options); result != 0)
    return bpf_error(fmt::format("tc {}", name), result);
  return {};
}

// Replaces what a map holds by `entries`: adds first, then deletes what is not wanted.
template <class Key, class Value>
Result<void> replace(const std::string& pins, std::string_view name,
                     const std::vector<std::pair<Key, Value>>& entries) {
  const UniqueFd map(bpf_obj_get(map_path(pins, name).c_str()));
  if (!map) return Error::from_errno(fmt::format("map {}", name));
  for (const auto& [key, value] : entries) {
    if (const int result = bpf_map_update_elem(map.get(), &key, &value, BPF_ANY); result != 0)
      return bpf_error(name, result);
  }
  std::vector<Key> stale;
  Key key{};
  for (const Key* previous = nullptr; bpf_map_get_next_key(map.get(), previous, &key) == 0; previous = &key) {
    const bool wanted = std::any_of(entries.begin(), entries.end(), [&](const auto& entry) {
      return std::memcmp(&entry.first, &key, sizeof key) == 0;
    });
    if (!wanted) stale.push_back(key);
  }
  for (const Key& old : stale)
    (void)bpf_map_delete_elem(map.get(), &old);  // ignoring: gone is what is wanted
  return {};
}

Result<standin_vip> vip_of(const json& address, const json& port) {
  FL_TRY_ASSIGN(const IpAddress ip, IpAddress::parse(address.get<std::string>()));
  standin_vip vip{};
  fill(vip.address, ip);
  vip.port = htons(port.get<uint16_t>());
  return vip;
}

Result<void> update_services(const json& configuration) {
  std::vector<std::pair<standin_vip, standin_backends>> entries;
  for (const json& service : configuration.at("services")) {
    FL_TRY_ASSIGN(const standin_vip vip, vip_of(service.at(0), service.at(1)));
    standin_backends backends{};
    for (const json& backend : service.at(2)) {
      if (backends.count == STANDIN_MAX_BACKENDS) break;
      FL_TRY_ASSIGN(const standin_vip endpoint, vip_of(backend.at(0), backend.at(1)));
      static_assert(sizeof(standin_vip) == sizeof(standin_endpoint));
      std::memcpy(&backends.list[backends.count++], &endpoint, sizeof endpoint);
    }
    entries.emplace_back(vip, backends);
  }
  return replace(configuration.at("pins").get<std::string>(), "standin_vips", entries);
}

Result<void> update_policy(const json& configuration) {
  const auto pins = configuration.at("pins").get<std::string>();
  std::vector<std::pair<std::array<uint8_t, 16>, uint8_t>> pods;
  for (const json& text : configuration.at("protected")) {
    FL_TRY_ASSIGN(const IpAddress ip, IpAddress::parse(text.get<std::string>()));
    pods.emplace_back(ip.octets(), 1);
  }
  std::vector<std::pair<standin_allow, uint8_t>> rules;
  for (const json& rule : configuration.at("allowed")) {
    FL_TRY_ASSIGN(const IpAddress pod, IpAddress::parse(rule.at(0).get<std::string>()));
    FL_TRY_ASSIGN(const Cidr source, Cidr::parse(rule.at(1).get<std::string>()));
    standin_allow key{};
    key.prefix_length = STANDIN_ALLOW_FIXED + source.length;
    fill(key.pod, pod);
    key.port = htons(rule.at(2).get<uint16_t>());
    fill(key.source, source.base);
    rules.emplace_back(key, 1);
  }
  FL_TRY(replace(pins, "standin_allow", rules));
  return replace(pins, "standin_prot", pods);
}

Result<void> attach(const json& configuration) {
  const auto pins = configuration.at("pins").get<std::string>();
  FL_TRY(make_directories(pins));
  FL_TRY_ASSIGN(const Skeleton skeleton, load(pins));
  FL_TRY(update_services(configuration));
  FL_TRY(update_policy(configuration));
  FL_TRY_ASSIGN(const UniqueFd cgroup,
                open_file(configuration.at("cgroup").get<std::string>(), O_RDONLY | O_DIRECTORY));
  auto& programs = skeleton->progs;
  for (bpf_program* program :
       {programs.standin_conn4, programs.standin_conn6, programs.standin_peer4, programs.standin_peer6}) {
    FL_TRY(attach_cgroup(program, cgroup.get(), pins));
  }
  for (const json& name : configuration.at("interfaces"))
    FL_TRY(attach_interface(programs.standin_to_pod, name.get<std::string>()));
  return {};
}

Result<void> print_drops(const json& configuration) {
  const UniqueFd map(
      bpf_obj_get(map_path(configuration.at("pins").get<std::string>(), "standin_drops").c_str()));
  if (!map) return Error::from_errno("map standin_drops");
  const uint32_t zero = 0;
  uint64_t drops = 0;
  if (const int result = bpf_map_lookup_elem(map.get(), &zero, &drops); result != 0)
    return bpf_error("standin_drops", result);
  std::printf("%llu\n", static_cast<unsigned long long>(drops));
  return {};
}

Result<void> act(std::string_view verb) {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  try {
    const json configuration = json::parse(text);
    if (verb == "attach") return attach(configuration);
    if (verb == "drops") return print_drops(configuration);
    if (verb != "update") return Error(ErrorKind::kInvalidArgument, fmt::format("unknown verb '{}'", verb));
    FL_TRY(update_services(configuration));
    return update_policy(configuration);
  } catch (const json::exception& broken) {
    return Error(ErrorKind::kInvalidArgument, broken.what());
  }
}

}  // namespace
}  // namespace fairlead::standin

int main(int argc, char** argv) {
  const auto result = fairlead::standin::act(argc == 2 ? argv[1] : "");
  if (result) return 0;
  std::fprintf(stderr, "fairlead-standin: %s\n", result.error().text().c_str());
  return 1;
}
