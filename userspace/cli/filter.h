// `--filter EXPR` of every list: the one grammar, over the rows that the agent gave. Pure. Thread: any.
//
//   expression = condition *("," condition)     all of them must hold
//   condition  = key operator value             keys are those of the JSON rows, nested ones by dot
//   operator   = "=" "==" "!=" "~" "!~" (globs: * and ?) "<" "<=" ">" ">="
//   value      = text up to the next comma, or "…" in which \ takes the next character as it is
//
// Numbers take units where the key has one (1.5MiB, 3m12s), moments are RFC 3339 or relative to now (-5m,
// 24h). A list matches when one of its items does; != and !~ are the opposites of = and ~. What a row does
// not have is the empty text: `peer=` finds plaintext.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fairlead::cli {

constexpr size_t kMaxFilter = 4096;
constexpr size_t kMaxConditions = 32;

struct Key {
  enum class Kind { kText, kNumber, kBytes, kMilliseconds, kNanoseconds, kMoment, kTruth };
  std::string_view name;
  Kind kind = Kind::kText;
};

class Filter {
 public:
  // Adds the conditions of `expression`. An error says what is wrong and where, and which keys there are.
  Result<void> add(std::string_view expression, std::span<const Key> keys,
                   std::chrono::system_clock::time_point now);
  [[nodiscard]] bool matches(const nlohmann::json& row) const;
  [[nodiscard]] bool empty() const noexcept { return conditions_.empty(); }

 private:
  friend class ConditionReader;
  enum class Operator { kEqual, kUnequal, kLike, kUnlike, kLess, kLessEqual, kGreater, kGreaterEqual };
  struct Condition {
    Key::Kind kind = Key::Kind::kText;
    std::vector<std::string> path;
    Operator op = Operator::kEqual;
    std::string text;
    long double number = 0;  // holds every uint64_t exactly
  };
  static bool holds(const Condition& condition, const nlohmann::json& row);
  static bool fits(const Condition& condition, const nlohmann::json& value);
  std::vector<Condition> conditions_;
};

// Whole-text match; * is any run of characters, ? any one.
bool glob(std::string_view pattern, std::string_view text) noexcept;

// The keys of a list's rows; empty: that command is no list.
std::span<const Key> keys_of(std::string_view noun, std::string_view verb) noexcept;

}  // namespace fairlead::cli
