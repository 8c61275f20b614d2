#include "control/serve/rate_limit.h"

#include <gtest/gtest.h>

namespace fairlead::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RateLimit, BurstThenRate) {
  RateLimit limit(3, 2, 10);
  const RateLimit::Clock::time_point start{};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.allow("a", start));
  EXPECT_FALSE(limit.allow("a", start));
  EXPECT_FALSE(limit.allow("a", start + milliseconds(499)));
  EXPECT_TRUE(limit.allow("a", start + milliseconds(510)));
  EXPECT_FALSE(limit.allow("a", start + milliseconds(520)));
}

TEST(RateLimit, NeverMoreThanTheBurst) {
  RateLimit limit(3, 2, 10);
  const RateLimit::Clock::time_point start{};
  EXPECT_TRUE(limit.allow("a", start));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limit.allow("a", start + seconds(1000)));
  EXPECT_FALSE(limit.allow("a", start + seconds(1000)));
}

TEST(RateLimit, CallersDoNotDisturbEachOther) {
  RateLimit limit(1, 1, 10);
  const RateLimit::Clock::time_point start{};
  EXPECT_TRUE(limit.allow("a", start));
  EXPECT_FALSE(limit.allow("a", start));
  EXPECT_TRUE(limit.allow("b", start));
}

TEST(RateLimit, RemembersABoundedNumberOfCallers) {
  RateLimit limit(1, 1, 2);
  const RateLimit::Clock::time_point start{};
  EXPECT_TRUE(limit.allow("a", start));
  EXPECT_TRUE(limit.allow("b", start));
  EXPECT_FALSE(limit.allow("c", start)) << "both are busy";
  EXPECT_TRUE(limit.allow("c", start + seconds(2))) << "idle callers are forgotten";
}

TEST(RateLimit, AClockThatGoesBackGivesNothing) {
  RateLimit limit(1, 1, 2);
  const RateLimit::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limit.allow("a", start));
  EXPECT_FALSE(limit.allow("a", start - seconds(50)));
}

}  // namespace
}  // namespace fairlead::serve
