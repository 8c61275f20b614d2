#include <nlohmann/json.hpp>

#include "base/file.h"
#include "enroll/pod_spec.h"

namespace fairlead::enroll {
namespace {

using nlohmann::json;

constexpr size_t kMaxFile = 16 << 20;

Error invalid(std::string_view why) {
  return {ErrorKind::kInvalidArgument, fmt::format("pod: {}", why)};
}

Result<json> parse(std::string_view text) {
  json document = json::parse(text, nullptr, false);
  if (document.is_discarded()) return invalid("not JSON");
  return document;
}

Result<void> read_string(const json& value, std::string_view key, std::string& into) {
  if (!value.is_string()) return invalid(fmt::format("'{}' must be a string", key));
  into = value.get<std::string>();
  return {};
}

Result<void> read_annotations(const json& value, std::map<std::string, std::string>& into) {
  if (!value.is_object()) return invalid("'annotations' must be an object of strings");
  for (const auto& [key, text] : value.items()) FL_TRY(read_string(text, key, into[key]));
  return {};
}

Result<PodSpec> pod_from(const json& document) {
  if (!document.is_object()) return invalid("want an object");
  PodSpec pod;
  const std::map<std::string, std::string*> fields = {
      {"uid", &pod.uid},     {"namespace", &pod.ns},
      {"name", &pod.name},   {"serviceAccount", &pod.service_account},
      {"netns", &pod.netns}, {"cgroup", &pod.cgroup}};
  for (const auto& [key, value] : document.items()) {
    const auto field = fields.find(key);
    if (field != fields.end()) {
      FL_TRY(read_string(value, key, *field->second));
    } else if (key == "annotations") {
      FL_TRY(read_annotations(value, pod.annotations));
    } else {
      return invalid(fmt::format("unknown field '{}'", key));
    }
  }
  FL_TRY(validate(pod));
  return pod;
}

json to_json(const PodSpec& pod) {
  return {{"uid", pod.uid},
          {"namespace", pod.ns},
          {"name", pod.name},
          {"serviceAccount", pod.service_account},
          {"netns", pod.netns},
          {"cgroup", pod.cgroup},
          {"annotations", pod.annotations}};
}

}  // namespace

Result<PodSpec> pod_from_json(std::string_view text) {
  FL_TRY_ASSIGN(const json document, parse(text));
  return pod_from(document);
}

Result<std::string> uid_from_json(std::string_view text) {
  FL_TRY_ASSIGN(const json document, parse(text));
  if (!document.is_object() || document.size() != 1 || !document.contains("uid"))
    return invalid("want {\"uid\": …}");
  std::string uid;
  FL_TRY(read_string(document["uid"], "uid", uid));
  return uid;
}

Result<std::vector<PodSpec>> load_pods(const std::string& path) {
  auto text = read_file(path, kMaxFile);
  if (!text && text.error().code() == ENOENT) return std::vector<PodSpec>();
  if (!text) return Error(std::move(text).error());
  auto document = parse(*text);
  if (!document || !document->is_array())
    return Error(ErrorKind::kInvalidArgument, fmt::format("{}: not a list of pods", path));
  std::vector<PodSpec> pods;
  for (const json& item : *document) {
    auto pod = pod_from(item);
    if (!pod) return std::move(pod).error().context(path);
    if (pods.size() == kMaxPods)
      return Error(ErrorKind::kExhausted, fmt::format("{}: more than {} pods", path, kMaxPods));
    pods.push_back(std::move(*pod));
  }
  return pods;
}

Result<void> save_pods(const std::string& path, const std::vector<PodSpec>& pods) {
  json list = json::array();
  for (const PodSpec& pod : pods) list.push_back(to_json(pod));
  return write_file_atomically(path, list.dump(1) + "\n", 0600);
}

}  // namespace fairlead::enroll
