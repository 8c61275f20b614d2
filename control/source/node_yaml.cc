#include "control/source/node_yaml.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "base/net_types.h"

namespace fairlead::source {
namespace {

using YAML::Node;

constexpr size_t kMaxErrorBytes = 64 * 1024;
constexpr size_t kMaxShown = 100;

bool is_absent(const Node& node) {
  return !node.IsDefined() || node.IsNull();
}

std::string shape(const Node& node) {
  if (node.IsScalar()) return fmt::format("'{}'", node.Scalar().substr(0, kMaxShown));
  return node.IsMap() ? "a mapping" : node.IsSequence() ? "a list" : "nothing";
}

std::string mismatch(const std::string& what, const Node& node, std::string_view want) {
  return fmt::format("{}: got {}, want {}", what, shape(node), want);
}

}  // namespace

void NodeReader::error(int line, const std::string& text) const {
  if (errors_.size() > kMaxErrorBytes) return;  // whoever reads that far has enough
  errors_ += fmt::format("{}{}:{}: {}", errors_.empty() ? "" : "\n", file_, line, text);
}

std::string NodeReader::text(const Node& node, const std::string& what) const {
  if (is_absent(node)) return {};
  if (node.IsScalar()) return node.Scalar();
  error(node, mismatch(what, node, "a string"));
  return {};
}

bool NodeReader::boolean(const Node& node, const std::string& what) const {
  bool value = false;
  if (!is_absent(node) && (!node.IsScalar() || !YAML::convert<bool>::decode(node, value))) {
    error(node, mismatch(what, node, "true or false"));
  }
  return value;
}

model::Labels NodeReader::labels(const Node& node, const std::string& what) const {
  model::Labels result;
  if (is_absent(node)) return result;
  if (!node.IsMap()) {
    error(node, mismatch(what, node, "a mapping of strings"));
    return result;
  }
  for (const auto& item : node) {
    const std::string key = text(item.first, what);
    if (!result.emplace(key, text(item.second, what + "." + key)).second)
      error(item.first, fmt::format("{}: '{}' is there twice", what, key));
  }
  return result;
}

std::vector<Node> NodeReader::sequence(const Node& node, const std::string& what) const {
  if (is_absent(node)) return {};
  if (node.IsSequence()) return {node.begin(), node.end()};
  error(node, mismatch(what, node, "a list"));
  return {};
}

Node NodeReader::mapping(const Node& node, const std::string& what) const {
  if (node.IsDefined() && node.IsMap()) return node;
  if (!is_absent(node)) error(node, mismatch(what, node, "a mapping"));
  return Node(YAML::NodeType::Map);
}

uint16_t NodeReader::port(const Node& node, const std::string& what) const {
  const auto number = node.IsDefined() && node.IsScalar() ? parse_number(node.Scalar(), 65535) : std::nullopt;
  if (number && *number != 0) return static_cast<uint16_t>(*number);
  error(node, mismatch(what, node, "a port from 1 to 65535"));
  return 0;
}

bool NodeReader::only(const Node& node, const std::string& what,
                      std::initializer_list<std::string_view> known) const {
  if (!node.IsMap()) {
    error(node, mismatch(what, node, "a mapping"));
    return false;
  }
  bool good = true;
  std::set<std::string> seen;
  const auto complain = [&](const Node& at, const std::string& text) {
    error(at, fmt::format("{}: {}", what, text));
    good = false;
  };
  for (const auto& item : node) {
    const std::string key = item.first.IsScalar() ? item.first.Scalar() : shape(item.first);
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      std::string list;
      for (const std::string_view name : known) list += fmt::format("{}{}", list.empty() ? "" : ", ", name);
      complain(item.first,
               fmt::format("unknown field '{}', want one of: {}", key.substr(0, kMaxShown), list));
    } else if (!seen.insert(key).second) {
      complain(item.first, fmt::format("'{}' is there twice, want it once", key));
    } else if (item.second.IsNull()) {
      complain(item.first, fmt::format("'{}': got nothing, want a value or no such field", key));
    }
  }
  return good;
}

std::vector<Node> NodeReader::items(const Node& node, const std::string& what) const {
  std::vector<Node> list = sequence(node, what);
  if (list.empty() && node.IsDefined() && node.IsSequence())
    error(node, what + ": got an empty list, want at least one item");
  return list;
}

std::vector<std::string> NodeReader::strings(const Node& node, const std::string& what) const {
  std::vector<std::string> list;
  for (const Node& item : items(node, what)) {
    if (item.IsScalar()) {
      list.push_back(item.Scalar());
    } else {
      error(item, mismatch(what, item, "a string"));
    }
  }
  return list;
}

}  // namespace fairlead::source
