#include "cli/filter.h"

#include <time.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

namespace fairlead::cli {
namespace {

using nlohmann::json;
using Kind = Key::Kind;

struct Unit {
  std::string_view name;
  long double factor;
};

// What `-o table` prints, and what people write.
constexpr Unit kBytesUnits[] = {{"", 1},
                                {"B", 1},
                                {"k", 1e3L},
                                {"kB", 1e3L},
                                {"M", 1e6L},
                                {"MB", 1e6L},
                                {"G", 1e9L},
                                {"GB", 1e9L},
                                {"T", 1e12L},
                                {"TB", 1e12L},
                                {"Ki", 1024},
                                {"KiB", 1024},
                                {"Mi", 1048576},
                                {"MiB", 1048576},
                                {"Gi", 1073741824},
                                {"GiB", 1073741824},
                                {"Ti", 1099511627776},
                                {"TiB", 1099511627776}};
constexpr Unit kNanosecondUnits[] = {{"ns", 1},    {"us", 1e3L},   {"ms", 1e6L},   {"s", 1e9L},
                                     {"m", 60e9L}, {"h", 3600e9L}, {"d", 86400e9L}};
constexpr Unit kPlain[] = {{"", 1}};

// One number at the front of `text`, which loses it.
std::optional<long double> take_number(std::string_view& text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  long double number = 0;
  const auto [end, wrong] =
      std::from_chars(text.data(), text.data() + digits, number, std::chars_format::fixed);
  if (digits == 0 || wrong != std::errc() || end != text.data() + digits) return std::nullopt;
  text.remove_prefix(digits);
  return number;
}

std::optional<long double> take_unit(std::string_view& text, std::span<const Unit> units) {
  const size_t length = std::min(text.find_first_of("0123456789."), text.size());
  for (const Unit& unit : units) {
    if (unit.name != text.substr(0, length)) continue;
    text.remove_prefix(length);
    return unit.factor;
  }
  return std::nullopt;
}

std::optional<long double> amount(std::string_view text, std::span<const Unit> units) {
  const bool negative = text.starts_with('-');
  text.remove_prefix(negative ? 1 : 0);
  const auto number = take_number(text);
  const auto factor = number ? take_unit(text, units) : std::nullopt;
  if (!factor || !text.empty()) return std::nullopt;
  return *number * *factor * (negative ? -1 : 1);
}

// "3m12s": nanoseconds. A number alone is in the key's own unit.
std::optional<long double> span_of_time(std::string_view text, long double own) {
  const bool signed_text = text.starts_with('-') || text.starts_with('+');
  const long double sign = text.starts_with('-') ? -1 : 1;
  text.remove_prefix(signed_text ? 1 : 0);
  if (!text.empty() && text.find_first_not_of("0123456789.") == std::string_view::npos) {
    const auto number = take_number(text);
    return number ? std::optional(*number * own * sign) : std::nullopt;
  }
  long double sum = 0;
  do {
    const auto number = take_number(text);
    const auto factor = number ? take_unit(text, kNanosecondUnits) : std::nullopt;
    if (!factor) return std::nullopt;
    sum += *number * *factor;
  } while (!text.empty());
  return sum * sign;
}

// RFC 3339 in UTC, with or without a fraction, or a day alone: milliseconds since 1970.
std::optional<long double> moment(const std::string& text) {
  tm utc{};
  const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (rest == nullptr) {
    utc = {};
    rest = ::strptime(text.c_str(), "%Y-%m-%d", &utc);
    if (rest == nullptr || *rest != '\0') return std::nullopt;
    return static_cast<long double>(::timegm(&utc)) * 1000;
  }
  std::string_view tail(rest);
  long double fraction = 0;
  if (tail.starts_with('.')) {
    const auto number = take_number(tail);
    if (!number) return std::nullopt;
    fraction = *number;
  }
  if (tail != "Z") return std::nullopt;
  return (static_cast<long double>(::timegm(&utc)) + fraction) * 1000;
}

std::string_view wants(Kind kind) {
  switch (kind) {
    case Kind::kText: return "text";
    case Kind::kNumber: return "a number";
    case Kind::kBytes: return "bytes, such as 1000000, 10k or 1.5MiB";
    case Kind::kMilliseconds: return "a duration, such as 1500 (milliseconds), 90s or 1h30m";
    case Kind::kNanoseconds: return "a duration, such as 1500 (nanoseconds), 20us or 3ms";
    case Kind::kMoment: return "a moment: 2026-01-31, 2026-01-31T12:00:00Z, or from now on: -5m, 24h";
    case Kind::kTruth: return "true or false";
  }
  return "text";
}

bool has_order(Kind kind) {
  return kind != Kind::kText && kind != Kind::kTruth;
}

std::string_view trimmed(std::string_view text) {
  const size_t from = text.find_first_not_of(' ');
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(' ') + 1 - from);
}

void flatten(const json& value, std::span<const std::string> path, std::vector<const json*>& found) {
  if (value.is_array()) {
    for (const json& item : value) flatten(item, path, found);
  } else if (path.empty()) {
    if (!value.is_null()) found.push_back(&value);
  } else if (value.is_object()) {
    const auto member = value.find(path.front());
    if (member != value.end()) flatten(*member, path.subspan(1), found);
  }
}

template <class T>
bool ordered(const T& left, const T& right, bool less, bool equal) {
  return (left == right && equal) || (left != right && (left < right) == less);
}

}  // namespace

bool glob(std::string_view pattern, std::string_view text) noexcept {
  size_t at = 0;
  size_t in = 0;
  size_t star = std::string_view::npos;  // the last *, and what it has swallowed so far
  size_t swallowed = 0;
  while (at < text.size()) {
    if (in < pattern.size() && pattern[in] == '*') {
      star = in++;
      swallowed = at;
    } else if (in < pattern.size() && (pattern[in] == '?' || pattern[in] == text[at])) {
      ++in;
      ++at;
    } else if (star != std::string_view::npos) {
      in = star + 1;
      at = ++swallowed;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', in) == std::string_view::npos;
}

// ---- reading

class ConditionReader {
 public:
  ConditionReader(std::string_view text, std::span<const Key> keys, std::chrono::system_clock::time_point now)
      : text_(text), keys_(keys), now_(now) {}

  Result<Filter::Condition> next() {
    Filter::Condition condition;
    FL_TRY(read_key(condition));
    FL_TRY(read_operator(condition));
    const size_t begin = at_;
    FL_TRY(read_value(condition));
    FL_TRY(understand(condition, begin));
    return condition;
  }
  // Behind a condition: the comma before the next one.
  [[nodiscard]] bool more() noexcept { return at_ < text_.size() && ++at_ != 0; }

 private:
  [[nodiscard]] Error wrong(size_t position, std::string_view what) const {
    return {ErrorKind::kInvalidArgument, fmt::format("at character {}: {}", position + 1, what)};
  }

  Result<void> read_key(Filter::Condition& condition) {
    const size_t begin = std::min(text_.find_first_not_of(' ', at_), text_.size());
    at_ = std::min(text_.find_first_of("=!~<>,", begin), text_.size());
    const std::string_view name = trimmed(text_.substr(begin, at_ - begin));
    if (name.empty()) return wrong(begin, "want a key");
    const auto key = std::find_if(keys_.begin(), keys_.end(), [&](const Key& k) { return k.name == name; });
    if (key == keys_.end()) {
      std::string names;
      for (const Key& known : keys_) names += fmt::format("{}{}", names.empty() ? "" : " ", known.name);
      return wrong(begin, fmt::format("no key '{}'\n  Keys: {}", name, names));
    }
    condition.kind = key->kind;
    for (std::string_view rest = key->name; !rest.empty();) {
      const size_t dot = std::min(rest.find('.'), rest.size());
      condition.path.emplace_back(rest.substr(0, dot));
      rest.remove_prefix(std::min(dot + 1, rest.size()));
    }
    return {};
  }

  Result<void> read_operator(Filter::Condition& condition) {
    using Operator = Filter::Operator;
    // Longer ones first.
    constexpr std::pair<std::string_view, Operator> kOperators[] = {
        {"==", Operator::kEqual},     {"!=", Operator::kUnequal},      {"!~", Operator::kUnlike},
        {"<=", Operator::kLessEqual}, {">=", Operator::kGreaterEqual}, {"=", Operator::kEqual},
        {"~", Operator::kLike},       {"<", Operator::kLess},          {">", Operator::kGreater}};
    const size_t begin = at_;
    for (const auto& [name, op] : kOperators) {
      if (!text_.substr(at_).starts_with(name)) continue;
      at_ += name.size();
      condition.op = op;
      const bool order = op >= Operator::kLess;
      const bool like = op == Operator::kLike || op == Operator::kUnlike;
      if ((order && !has_order(condition.kind)) || (like && condition.kind != Kind::kText))
        return wrong(begin,
                     fmt::format("{} does not go with this key, which is {}", name, wants(condition.kind)));
      return {};
    }
    return wrong(begin, "want an operator: = != ~ !~ < <= > >=");
  }

  Result<void> read_value(Filter::Condition& condition) {
    const size_t begin = std::min(text_.find_first_not_of(' ', at_), text_.size());
    if (begin == text_.size() || text_[begin] != '"') {
      const size_t end = std::min(text_.find(',', at_), text_.size());
      condition.text = trimmed(text_.substr(at_, end - at_));
      at_ = end;
      return {};
    }
    for (at_ = begin + 1; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      condition.text += text_[at_];
    }
    if (at_ == text_.size()) return wrong(begin, "the quote is not closed");
    at_ = std::min(text_.find_first_not_of(' ', at_ + 1), text_.size());
    if (at_ < text_.size() && text_[at_] != ',') return wrong(at_, "want a comma behind the quote");
    return {};
  }

  Result<void> understand(Filter::Condition& condition, size_t begin) const {
    const std::string& text = condition.text;
    if (condition.kind == Kind::kText || (text.empty() && condition.op < Filter::Operator::kLike)) return {};
    std::optional<long double> number;
    switch (condition.kind) {
      case Kind::kText: break;
      case Kind::kNumber: number = amount(text, kPlain); break;
      case Kind::kBytes: number = amount(text, kBytesUnits); break;
      case Kind::kMilliseconds:
        number = span_of_time(text, 1e6L);
        if (number) *number /= 1e6L;
        break;
      case Kind::kNanoseconds: number = span_of_time(text, 1); break;
      case Kind::kMoment: number = moment_of(text); break;
      case Kind::kTruth:
        if (text == "true" || text == "false") number = text == "true" ? 1 : 0;
        break;
    }
    if (!number) return wrong(begin, fmt::format("'{}': want {}", text, wants(condition.kind)));
    condition.number = *number;
    return {};
  }

  [[nodiscard]] std::optional<long double> moment_of(const std::string& text) const {
    if (const auto absolute = moment(text)) return absolute;
    if (text.find_first_of("smhd") == std::string::npos) return std::nullopt;  // 2026 is no span
    const auto from_now = span_of_time(text, 1e9L);
    if (!from_now) return std::nullopt;
    const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(now_.time_since_epoch()).count();
    return static_cast<long double>(now) + *from_now / 1e6L;
  }

  std::string_view text_;
  std::span<const Key> keys_;
  std::chrono::system_clock::time_point now_;
  size_t at_ = 0;
};

Result<void> Filter::add(std::string_view expression, std::span<const Key> keys,
                         std::chrono::system_clock::time_point now) {
  if (expression.size() > kMaxFilter)
    return Error(ErrorKind::kInvalidArgument, fmt::format("longer than {} bytes", kMaxFilter));
  ConditionReader reader(expression, keys, now);
  do {
    FL_TRY_ASSIGN(Condition condition, reader.next());
    if (conditions_.size() == kMaxConditions)
      return Error(ErrorKind::kInvalidArgument, fmt::format("more than {} conditions", kMaxConditions));
    conditions_.push_back(std::move(condition));
  } while (reader.more());
  return {};
}

// ---- matching

bool Filter::matches(const json& row) const {
  return std::all_of(conditions_.begin(), conditions_.end(),
                     [&](const Condition& condition) { return holds(condition, row); });
}

bool Filter::holds(const Condition& condition, const json& row) {
  std::vector<const json*> values;
  flatten(row, condition.path, values);
  const bool negated = condition.op == Operator::kUnequal || condition.op == Operator::kUnlike;
  static const json kNothing = "";
  if (values.empty()) values.push_back(&kNothing);
  const bool any =
      std::any_of(values.begin(), values.end(), [&](const json* value) { return fits(condition, *value); });
  return any != negated;
}

// As if the operator were not negated.
bool Filter::fits(const Condition& condition, const json& value) {
  const bool nothing = value.is_string() && value.get_ref<const std::string&>().empty();
  const bool by_text = condition.kind == Kind::kText || condition.text.empty() || nothing;
  if (by_text) {
    const std::string text = value.is_string() ? value.get<std::string>()
                                               : value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (condition.op == Operator::kEqual || condition.op == Operator::kUnequal) return text == condition.text;
    if (condition.op == Operator::kLike || condition.op == Operator::kUnlike)
      return glob(condition.text, text);
    return false;  // nothing is neither more nor less than a number
  }
  std::optional<long double> number;
  if (value.is_boolean()) number = value.get<bool>() ? 1 : 0;
  if (value.is_number_unsigned())
    number = static_cast<long double>(value.get<uint64_t>());
  else if (value.is_number_integer())
    number = static_cast<long double>(value.get<int64_t>());
  else if (value.is_number())
    number = static_cast<long double>(value.get<double>());
  if (value.is_string() && condition.kind == Kind::kMoment) number = moment(value.get<std::string>());
  if (!number) return false;
  switch (condition.op) {
    case Operator::kLess: return ordered(*number, condition.number, true, false);
    case Operator::kLessEqual: return ordered(*number, condition.number, true, true);
    case Operator::kGreater: return ordered(*number, condition.number, false, false);
    case Operator::kGreaterEqual: return ordered(*number, condition.number, false, true);
    default: return *number == condition.number;
  }
}

}  // namespace fairlead::cli
