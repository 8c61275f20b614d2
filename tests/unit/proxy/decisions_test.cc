#include "proxy/decisions.h"

#include <gtest/gtest.h>

namespace fairlead::proxy {
namespace {

DecisionRecord of(const std::string& pod) {
  DecisionRecord record;
  record.pod = pod;
  return record;
}

std::vector<uint64_t> numbers(const std::vector<DecisionRecord>& records) {
  std::vector<uint64_t> list;
  for (const DecisionRecord& record : records) list.push_back(record.number);
  return list;
}

TEST(Decisions, AreNumberedAndFoundFromANumberOn) {
  Decisions decisions;
  EXPECT_TRUE(decisions.from(0).empty());
  for (int i = 0; i < 3; ++i) decisions.record(of(std::to_string(i)));
  EXPECT_EQ(decisions.end(), 3u);
  EXPECT_EQ(numbers(decisions.from(0)), (std::vector<uint64_t>{0, 1, 2}));
  EXPECT_EQ(numbers(decisions.from(2)), (std::vector<uint64_t>{2}));
  EXPECT_EQ(decisions.from(2)[0].pod, "2");
  EXPECT_TRUE(decisions.from(3).empty());
  EXPECT_TRUE(decisions.from(UINT64_MAX).empty());
}

TEST(Decisions, TheOldestGoFirstAndOneSeesThatTheyWent) {
  Decisions decisions;
  for (size_t i = 0; i < 2 * kMaxDecisions + 5; ++i) decisions.record(of(std::to_string(i)));
  EXPECT_EQ(decisions.oldest(), kMaxDecisions + 5);
  const auto records = decisions.from(0);
  ASSERT_EQ(records.size(), kMaxDecisions);
  for (size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(records[i].number, kMaxDecisions + 5 + i);
    EXPECT_EQ(records[i].pod, std::to_string(kMaxDecisions + 5 + i));
  }
}

TEST(Decisions, AFloodOfRefusalsDoesNotPushTheOthersOut) {
  Decisions decisions;
  const TimePoint start{std::chrono::hours(1)};
  decisions.record(of("judged"));
  size_t recorded = 0;
  for (int i = 0; i < 10000; ++i) recorded += decisions.record_refusal(of("refused"), start) ? 1 : 0;
  EXPECT_EQ(recorded, kMaxRefusalsPerSecond);
  decisions.record(of("judged"));
  EXPECT_EQ(decisions.end(), kMaxRefusalsPerSecond + 2) << "decisions are not counted among them";
  EXPECT_FALSE(decisions.record_refusal(of("refused"), start + std::chrono::milliseconds(999)));
  EXPECT_TRUE(decisions.record_refusal(of("refused"), start + std::chrono::seconds(1)));
}

}  // namespace
}  // namespace fairlead::proxy
