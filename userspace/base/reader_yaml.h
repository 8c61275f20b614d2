// Typed reading of a small YAML configuration with errors that name file, line, and what was expected.
// Collects all errors. Used by the *_yaml.cc files of agent and controller. Thread: one.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <string>

#include "base/log.h"
#include "base/result.h"

namespace YAML {
class Node;
}

namespace fairlead {

class YamlReader {
 public:
  // What to do with the value of a key.
  using Field = std::function<void(YamlReader&, const YAML::Node&, const std::string& key)>;
  using Fields = std::map<std::string, Field>;

  // Reads the file and applies `fields` to its top level; kInvalidArgument with every error, one a line.
  static Result<void> read(const std::string& path, const Fields& fields);

  static Field text(std::string& into);
  static Field number(unsigned& into, unsigned minimum, unsigned maximum);
  static Field seconds(std::chrono::seconds& into);            // "24h", "90s"
  static Field milliseconds(std::chrono::milliseconds& into);  // also "500ms"
  static Field level(log::Level& into);
  template <class T>
  static Field choice(T& into, std::map<std::string, T> values) {
    return [&into, values = std::move(values)](YamlReader& reader, const YAML::Node& value,
                                               const std::string& key) {
      const auto found = values.find(text_of(value));
      if (found != values.end()) {
        into = found->second;
        return;
      }
      std::string names;
      for (const auto& [name, meaning] : values) names += (names.empty() ? "" : " or ") + name;
      reader.error(value, key + ": want " + names);
    };
  }
  static Field section(Fields fields);

  void error(const YAML::Node& at, const std::string& text);

 private:
  explicit YamlReader(std::string path) : path_(std::move(path)) {}
  static std::string text_of(const YAML::Node& value);  // empty for what is no scalar
  void apply(const YAML::Node& map, const Fields& fields, const std::string& where);

  std::string path_;
  std::string errors_;
};

// "1h30m" is not a duration here: one number with one unit of ms, s, m, h, d.
Result<std::chrono::milliseconds> parse_duration(const std::string& text);

}  // namespace fairlead
