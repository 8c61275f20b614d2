#include "base/reader_yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/documents_yaml.h"
#include "base/file.h"
#include "base/net_types.h"

namespace fairlead {

Result<std::chrono::milliseconds> parse_duration(const std::string& text) {
  const size_t digits = text.find_first_not_of("0123456789");
  const std::map<std::string, uint64_t> units = {
      {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
  const auto number =
      digits == std::string::npos ? std::nullopt : parse_number(text.substr(0, digits), 1000000);
  const auto unit = digits == std::string::npos ? units.end() : units.find(text.substr(digits));
  if (!number || unit == units.end()) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("'{}' is not a duration like 500ms, 25s, 10m, 24h", text));
  }
  return std::chrono::milliseconds(*number * unit->second);
}

void YamlReader::error(const YAML::Node& at, const std::string& text) {
  if (!errors_.empty()) errors_ += '\n';
  // A document that holds nothing has no mark (-1).
  errors_ += fmt::format("{}:{}: {}", path_, std::max(at.Mark().line, 0) + 1, text);
}

Result<void> YamlReader::read(const std::string& path, const Fields& fields) {
  FL_TRY_ASSIGN(const std::string content, read_file(path));
  YamlReader reader(path);
  try {
    const std::vector<YAML::Node> documents = load_documents(content);
    reader.apply(documents.empty() ? YAML::Node() : documents[0], fields, "");
    if (documents.size() > 1) reader.error(documents[1], "want one document, there is another");
  } catch (const YAML::Exception& broken) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("{}:{}: {}", path, broken.mark.line + 1, broken.msg));
  }
  if (!reader.errors_.empty()) return Error(ErrorKind::kInvalidArgument, reader.errors_);
  return {};
}

void YamlReader::apply(const YAML::Node& map, const Fields& fields, const std::string& where) {
  if (!map.IsMap()) return error(map, fmt::format("{}: want a mapping", where.empty() ? "file" : where));
  std::set<std::string> seen;
  for (const auto& item : map) {
    if (!item.first.IsScalar()) {
      error(item.first, "got a list or a mapping as a key, want a name");
      continue;
    }
    const std::string& key = item.first.Scalar();
    const std::string full = where.empty() ? key : where + "." + key;
    // YAML forbids it, the library takes one of the two.
    if (!seen.insert(key).second) error(item.first, fmt::format("'{}' is there twice, want it once", full));
    const auto field = fields.find(key);
    if (field == fields.end()) {
      std::string known;
      for (const auto& [name, unused] : fields) known += (known.empty() ? "" : ", ") + name;
      error(item.first, fmt::format("unknown key '{}', want one of: {}", full, known));
    } else {
      field->second(*this, item.second, full);
    }
  }
}

YamlReader::Field YamlReader::text(std::string& into) {
  return [&into](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    if (!value.IsScalar()) return reader.error(value, fmt::format("{}: want a string", key));
    into = value.Scalar();
  };
}

YamlReader::Field YamlReader::number(unsigned& into, unsigned minimum, unsigned maximum) {
  return [&into, minimum, maximum](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    const auto parsed = value.IsScalar() ? parse_number(value.Scalar(), maximum) : std::nullopt;
    if (!parsed || *parsed < minimum)
      return reader.error(value, fmt::format("{}: want a number from {} to {}", key, minimum, maximum));
    into = static_cast<unsigned>(*parsed);
  };
}

YamlReader::Field YamlReader::milliseconds(std::chrono::milliseconds& into) {
  return [&into](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    const auto parsed = parse_duration(value.IsScalar() ? value.Scalar() : std::string());
    if (!parsed) return reader.error(value, fmt::format("{}: {}", key, parsed.error().text()));
    into = *parsed;
  };
}

YamlReader::Field YamlReader::seconds(std::chrono::seconds& into) {
  return [&into](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    std::chrono::milliseconds exact{};
    milliseconds(exact)(reader, value, key);
    into = std::chrono::duration_cast<std::chrono::seconds>(exact);
  };
}

YamlReader::Field YamlReader::level(log::Level& into) {
  return [&into](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    if (value.IsScalar() && log::parse_level(value.Scalar(), into)) return;
    reader.error(value, fmt::format("{}: want error, warn, info or debug", key));
  };
}

std::string YamlReader::text_of(const YAML::Node& value) {
  return value.IsScalar() ? value.Scalar() : std::string();
}

YamlReader::Field YamlReader::section(Fields fields) {
  return [fields = std::move(fields)](YamlReader& reader, const YAML::Node& value, const std::string& key) {
    reader.apply(value, fields, key);
  };
}

}  // namespace fairlead
