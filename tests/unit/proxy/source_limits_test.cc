#include "proxy/source_limits.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace fairlead::proxy {
namespace {

IpAddress address(std::string_view text) {
  return *IpAddress::parse(text);
}

TEST(SourceLimits, ASourceUsesUpItsOwnShareAndNobodyElses) {
  SourceLimits limits(2, 100);
  auto first = limits.take(address("10.0.0.1"));
  auto second = limits.take(address("10.0.0.1"));
  EXPECT_TRUE(first && second);
  EXPECT_FALSE(limits.take(address("10.0.0.1")));
  EXPECT_TRUE(limits.take(address("10.0.0.2")));
}

TEST(SourceLimits, ATicketIsGivenBackOnceWhereverItWent) {
  SourceLimits limits(1, 100);
  {
    std::optional<SourceLimits::Ticket> ticket(limits.take(address("fd00::1")));
    SourceLimits::Ticket moved(std::move(*ticket));
    ticket.reset();
    EXPECT_FALSE(limits.take(address("fd00::1"))) << "it lives on where it was moved to";
    SourceLimits::Ticket assigned;
    assigned = std::move(moved);
    EXPECT_EQ(limits.out(), 1u);
  }
  EXPECT_EQ(limits.out(), 0u);
  EXPECT_TRUE(limits.take(address("fd00::1")));
}

TEST(SourceLimits, AllSourcesTogetherAreBounded) {
  SourceLimits limits(10, 3);
  std::vector<SourceLimits::Ticket> held;
  for (int i = 0; i < 5; ++i) held.push_back(limits.take(address(fmt::format("10.0.0.{}", i))));
  EXPECT_EQ(limits.out(), 3u);
  EXPECT_FALSE(held[3]);
  held.clear();
  EXPECT_TRUE(limits.take(address("10.0.0.9")));
}

}  // namespace
}  // namespace fairlead::proxy
