#include "cli/filter.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/command.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;
using Kind = Key::Kind;

constexpr Key kKeys[] = {{"pod"},
                         {"peer"},
                         {"ready", Kind::kTruth},
                         {"count", Kind::kNumber},
                         {"bytes", Kind::kBytes},
                         {"ageMs", Kind::kMilliseconds},
                         {"runNs", Kind::kNanoseconds},
                         {"notAfter", Kind::kMoment},
                         {"services"},
                         {"ports.number", Kind::kNumber},
                         {"dry.reason"},
                         {"dry.rule", Kind::kNumber}};
// 2026-01-31T12:00:00Z
const auto kNow = std::chrono::system_clock::from_time_t(1769860800);

json row() {
  return json::parse(R"({"pod":"shop/cart","peer":"spiffe://cluster.local/ns/bank/sa/api","ready":true,
      "count":18446744073709551615,"bytes":1572864,"ageMs":192000,"runNs":1500.5,
      "notAfter":"2026-02-01T06:00:00.500Z","services":["shop/a","shop/b, c"],
      "ports":[{"number":80},{"number":443}],"dry":null})");
}

std::string error_of(std::string_view text) {
  Filter filter;
  const auto added = filter.add(text, kKeys, kNow);
  return added ? "none" : added.error().text();
}

bool matches(std::string_view text, const json& candidate = row()) {
  Filter filter;
  const auto added = filter.add(text, kKeys, kNow);
  EXPECT_TRUE(added) << text << ": " << (added ? "" : added.error().text());
  return added && filter.matches(candidate);
}

TEST(Filter, TableOfTruths) {
  const std::pair<const char*, bool> cases[] = {
      {"pod=shop/cart", true},
      {"pod==shop/cart", true},
      {"pod=shop/car", false},
      {"pod=Shop/cart", false},
      {"pod!=shop/cart", false},
      {"pod!=other", true},
      {"pod~shop/*", true},
      {"pod~sh?p/c*t", true},
      {"pod~shop", false},
      {"pod!~shop/*", false},
      {"pod!~bank/*", true},
      {"peer~spiffe://*/ns/bank/*", true},
      {"pod = shop/cart , ready = true", true},
      {"pod=shop/cart,peer~*/sa/web", false},
      {"ready=true", true},
      {"ready!=true", false},
      {"ready=false", false},
      {"count=18446744073709551615", true},
      {"count=18446744073709551614", false},
      {"count>18446744073709551614", true},
      {"count>18446744073709551615", false},
      {"count>=18446744073709551615", true},
      {"count<=18446744073709551615", true},
      {"count<18446744073709551615", false},
      {"count>-1", true},
      {"bytes=1.5MiB", true},
      {"bytes=1.5Mi", true},
      {"bytes>1500k", true},
      {"bytes>1572864", false},
      {"bytes<1.6MB", true},
      {"bytes!=1.5MiB", false},
      {"ageMs=3m12s", true},
      {"ageMs>191s", true},
      {"ageMs>192000", false},
      {"ageMs<0.1h", true},
      {"ageMs<1h30m", true},
      {"runNs>1us", true},
      {"runNs<1501", true},
      // The moment is 18 hours after now.
      {"notAfter<24h", true},
      {"notAfter<18h", false},
      {"notAfter>18h", true},
      {"notAfter>-5m", true},
      {"notAfter>2026-02-01", true},
      {"notAfter<2026-02-01T06:00:00Z", false},
      {"notAfter=2026-02-01T06:00:00.5Z", true},
      // Any item of a list; the opposites hold when none does.
      {"services=shop/a", true},
      {"services!=shop/a", false},
      {"services!=shop/z", true},
      {"services!~shop/*", false},
      {R"(services="shop/b, c")", true},
      {R"(services="shop/b, c" ,pod~*)", true},
      {R"(services="shop/\"")", false},
      {"ports.number=443", true},
      {"ports.number>443", false},
      {"ports.number!=80", false},
      // Nothing is the empty text, and neither more nor less than a number.
      {"dry.reason=", true},
      {"dry.reason!=", false},
      {"dry.rule=", true},
      {"dry.rule!=3", true},
      {"dry.rule=0", false},
      {"dry.rule<1", false},
      {"dry.rule>=0", false},
      {"peer=", false},
      {"peer!=", true},
      {"peer~*", true},
      {"dry.reason~*", true},
      {"count=", false},
      {"count!=", true},
  };
  for (const auto& [text, truth] : cases) EXPECT_EQ(matches(text), truth) << text;
}

TEST(Filter, RowsOfAnotherShapeDoNotMatch) {
  for (const char* strange : {"{}", "[]", "3", "null", R"({"count":"x","ports":3,"dry":[1]})",
                              R"({"count":{},"ports":{"number":[]},"notAfter":7,"ready":"true"})"}) {
    const json candidate = json::parse(strange);
    EXPECT_FALSE(matches("count=3", candidate)) << strange;
    EXPECT_FALSE(matches("ports.number>0", candidate)) << strange;
    EXPECT_FALSE(matches("notAfter>-1h", candidate)) << strange;
    EXPECT_FALSE(matches("ready=true", candidate)) << strange;
    EXPECT_TRUE(matches("count!=3", candidate)) << strange;
  }
}

TEST(Filter, WhatIsWrongIsSaidWithItsPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "at character 1: want a key"},
      {"  ", "at character 3: want a key"},
      {"=x", "at character 1: want a key"},
      {"pod=x,", "at character 7: want a key"},
      {"pod=x,,ready=true", "at character 7: want a key"},
      {"pod", "at character 4: want an operator"},
      {"pod,ready=true", "at character 4: want an operator"},
      {"pod!x", "at character 4: want an operator"},
      {"pod x", "at character 1: no key 'pod x'"},
      {"pos=x", "at character 1: no key 'pos'\n  Keys: pod peer ready count bytes ageMs"},
      {"pod=x, Ready=true", "at character 8: no key 'Ready'"},
      {"pod>x", "at character 4: > does not go with this key, which is text"},
      {"ready<true", "at character 6: < does not go with this key"},
      {"count~1*", "at character 6: ~ does not go with this key, which is a number"},
      {"count>", "at character 7: '': want a number"},
      {"count=1k", "at character 7: '1k': want a number"},
      {"count=1.2.3", "at character 7: '1.2.3': want a number"},
      {"count=nan", "at character 7: 'nan': want a number"},
      {"count=0x10", "at character 7: '0x10'"},
      {"bytes>1m", "at character 7: '1m': want bytes"},
      {"bytes>MiB", "at character 7: 'MiB': want bytes"},
      {"ageMs>5 minutes", "at character 7: '5 minutes': want a duration"},
      {"ageMs>5m3", "at character 7: '5m3': want a duration"},
      {"ready=yes", "at character 7: 'yes': want true or false"},
      {"notAfter<2026", "at character 10: '2026': want a moment"},
      {"notAfter<2026-02-01T06:00:00", "at character 10: '2026-02-01T06:00:00': want a moment"},
      {"notAfter<2026-13-01", "at character 10: '2026-13-01': want a moment"},
      {"pod=\"x", "at character 5: the quote is not closed"},
      {"pod=\"x\\\"", "at character 5: the quote is not closed"},
      {"pod=\"x\"y", "at character 8: want a comma behind the quote"},
  };
  for (const auto& [text, error] : cases)
    EXPECT_EQ(error_of(text).substr(0, std::strlen(error)), error) << text;
}

TEST(Filter, IsBounded) {
  EXPECT_EQ(error_of("pod=" + std::string(kMaxFilter - 4, 'x')), "none");
  EXPECT_NE(error_of("pod=" + std::string(kMaxFilter - 3, 'x')), "none");
  std::string many = "count>0";
  for (size_t i = 1; i < kMaxConditions; ++i) many += ",count>0";
  EXPECT_EQ(error_of(many), "none");
  EXPECT_NE(error_of(many + ",count>0"), "none");
  // The worst pattern there is, against the text that it almost matches.
  std::string pattern;
  for (int i = 0; i < 2000; ++i) pattern += "*a";
  EXPECT_FALSE(glob(pattern + "b", std::string(20000, 'a')));
}

TEST(Filter, SeveralOfThemMustAllHold) {
  Filter filter;
  EXPECT_TRUE(filter.empty());
  EXPECT_TRUE(filter.matches(json()));
  ASSERT_TRUE(filter.add("ready=true", kKeys, kNow));
  ASSERT_TRUE(filter.add("bytes>1GiB", kKeys, kNow));
  EXPECT_FALSE(filter.empty());
  EXPECT_FALSE(filter.matches(row()));
}

TEST(Keys, EveryListHasSomeAndNothingElseHas) {
  for (const Command& command : commands()) {
    const bool list = command.verb == "list" || command.noun == "why" || command.noun == "check" ||
                      (command.noun == "bpf" && command.verb != "trace");
    EXPECT_EQ(!keys_of(command.noun, command.verb).empty(), list) << command.noun << " " << command.verb;
  }
}

}  // namespace
}  // namespace fairlead::cli
