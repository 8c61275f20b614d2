#include <gtest/gtest.h>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/net_types.h"
#include "base/rfc3339.h"
#include "base/spiffe_id.h"

namespace fairlead {
namespace {

TEST(IpAddress, MappedAndPlainIpv4AreOneAddress) {
  const auto plain = IpAddress::parse("10.0.0.1");
  const auto mapped = IpAddress::parse("::ffff:10.0.0.1");
  ASSERT_TRUE(plain && mapped);
  EXPECT_EQ(*plain, *mapped);
  EXPECT_TRUE(mapped->is_v4());
  EXPECT_EQ(mapped->to_string(), "10.0.0.1");
  EXPECT_EQ(mapped->to_octets().size(), 4u);
}

TEST(IpAddress, RefusesWhatIsNone) {
  for (const char* text : {"", "10.0.0", "10.0.0.256", "fe80::1%eth0", "localhost", "1.2.3.4 "})
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  for (const size_t octets : {0u, 3u, 5u, 15u, 17u})
    EXPECT_FALSE(IpAddress::from_octets(std::string(octets, 'x'))) << octets;
}

TEST(SocketAddress, ParsesWhatItPrints) {
  for (const char* text : {"10.0.0.1:80", "[fd00::1]:443", "0.0.0.0:0"}) {
    const auto address = SocketAddress::parse(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(address->to_string(), text);
  }
  for (const char* text : {"10.0.0.1", "10.0.0.1:", "10.0.0.1:65536", "10.0.0.1:+1", "fd00::1:80",
                           "[10.0.0.1]:80", ":80", "host:80"}) {
    EXPECT_FALSE(SocketAddress::parse(text)) << text;
  }
}

TEST(Cidr, ContainsByPrefixInEitherFamily) {
  const auto range = Cidr::parse("10.1.0.0/16");
  ASSERT_TRUE(range);
  EXPECT_TRUE(range->contains(*IpAddress::parse("10.1.255.3")));
  EXPECT_FALSE(range->contains(*IpAddress::parse("10.2.0.0")));
  EXPECT_FALSE(range->contains(*IpAddress::parse("fd00::1")));
  EXPECT_TRUE(Cidr::parse("0.0.0.0/0")->contains(*IpAddress::parse("1.2.3.4")));
  EXPECT_FALSE(Cidr::parse("0.0.0.0/0")->contains(*IpAddress::parse("fd00::1")));
  EXPECT_TRUE(Cidr::parse("fd00::/9")->contains(*IpAddress::parse("fd7f::1")));
  EXPECT_EQ(range->to_string(), "10.1.0.0/16");
  EXPECT_FALSE(Cidr::parse("10.0.0.0/33"));
  EXPECT_FALSE(Cidr::parse("10.0.0.0/"));
}

TEST(SpiffeId, HasOneSpelling) {
  const auto id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b");
  ASSERT_TRUE(id);
  EXPECT_EQ(id->principal(), "cluster.local/ns/a/sa/b");
  EXPECT_EQ(id->uri(), "spiffe://cluster.local/ns/a/sa/b");
}

TEST(SpiffeId, RefusesEveryOtherSpelling) {
  for (const char* uri : {"", "spiffe://", "SPIFFE://cluster.local/ns/a/sa/b",
                          "spiffe://Cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b/",
                          "spiffe://cluster.local/ns/a/sa", "spiffe://cluster.local/ns//sa/b",
                          "spiffe://cluster.local/ns/../sa/b", "spiffe://cluster.local/ns/a/sa/b?x",
                          "spiffe://cluster.local/ns/a%20/sa/b", "spiffe://u@cluster.local/ns/a/sa/b",
                          "spiffe://cluster.local:1/ns/a/sa/b", "spiffe://cluster.local/sa/a/ns/b",
                          "spiffe://cluster.local/ns/a/sa/b/c", "https://cluster.local/ns/a/sa/b"}) {
    EXPECT_FALSE(SpiffeId::parse(uri)) << uri;
  }
  EXPECT_FALSE(SpiffeId::parse("spiffe://" + std::string(256, 'a') + "/ns/a/sa/b"));
}

TEST(ByteReader, StaysFailedPastTheEnd) {
  const uint8_t bytes[] = {0, 5, 'a'};
  ByteReader reader(bytes);
  EXPECT_EQ(reader.string16(), "");
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.u8(), 0);
  EXPECT_FALSE(reader.ok());
}

TEST(Buffer, KeepsBytesInOrderThroughGrowthAndConsumption) {
  Buffer buffer;
  std::string expected;
  std::string seen;
  for (int round = 0; round < 2000; ++round) {
    const std::string piece(static_cast<size_t>(round * 37 % 4000), static_cast<char>('a' + round % 26));
    buffer.append(piece);
    expected += piece;
    const size_t take = std::min<size_t>(buffer.size(), static_cast<size_t>(round * 53 % 5000));
    seen.append(reinterpret_cast<const char*>(buffer.data()), take);
    buffer.consume(take);
  }
  seen.append(reinterpret_cast<const char*>(buffer.data()), buffer.size());
  EXPECT_EQ(seen, expected);
}

TEST(Buffer, ReleasedOwnsNothing) {
  Buffer buffer;
  buffer.append("x");
  buffer.release();
  EXPECT_EQ(buffer.capacity(), 0u);
  EXPECT_TRUE(buffer.empty());
}

TEST(Rfc3339, IsUtcAndCutOff) {
  using namespace std::chrono;
  const system_clock::time_point time(seconds(1764073229) + microseconds(999'999));
  EXPECT_EQ(rfc3339(time, Precision::kSeconds), "2025-11-25T12:20:29Z");
  EXPECT_EQ(rfc3339(time, Precision::kMilliseconds), "2025-11-25T12:20:29.999Z");
  EXPECT_EQ(rfc3339(time, Precision::kMicroseconds), "2025-11-25T12:20:29.999999Z");
  const system_clock::time_point before(milliseconds(-1));
  EXPECT_EQ(rfc3339(before, Precision::kMilliseconds), "1969-12-31T23:59:59.999Z");
}

}  // namespace
}  // namespace fairlead
