// classify(): marked ClientHellos however they are cut, and everything that is none at the first byte that
// shows it.
#include <random>

#include "unit/tls/pair.h"

namespace fairlead::tls {
namespace {

using Bytes = std::vector<uint8_t>;

// The ClientHello message of a client of ours, without record headers.
Bytes hello_message(bool in_place) {
  static const Authority root = Authority::root("root");
  static const auto own = credentials(root, kClientUri);
  auto handshake = Handshake::client(own, {id_of(kServerUri)}, in_place);
  Buffer out;
  EXPECT_TRUE((*handshake)->start(out));
  return {out.data() + kRecordHeader, out.data() + out.size()};
}

Bytes in_records(const Bytes& message, size_t record) {
  Bytes wire;
  for (size_t at = 0; at < message.size(); at += record) {
    const size_t length = std::min(record, message.size() - at);
    const Bytes header = {22, 3, 1, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
    wire.insert(wire.end(), header.begin(), header.end());
    wire.insert(wire.end(), message.begin() + static_cast<ptrdiff_t>(at),
                message.begin() + static_cast<ptrdiff_t>(at + length));
  }
  return wire;
}

// A ClientHello of these extensions.
Bytes hello_with(const Bytes& extensions, uint16_t legacy_version = 0x0303, size_t session_id = 0) {
  Bytes body = {static_cast<uint8_t>(legacy_version >> 8), static_cast<uint8_t>(legacy_version)};
  body.insert(body.end(), 32, 0xaa);
  body.push_back(static_cast<uint8_t>(session_id));
  body.insert(body.end(), session_id, 0xbb);
  for (uint8_t byte : {0, 2, 0x13, 1, 1, 0}) body.push_back(byte);
  body.push_back(static_cast<uint8_t>(extensions.size() >> 8));
  body.push_back(static_cast<uint8_t>(extensions.size()));
  body.insert(body.end(), extensions.begin(), extensions.end());
  Bytes message = {1, static_cast<uint8_t>(body.size() >> 16), static_cast<uint8_t>(body.size() >> 8),
                   static_cast<uint8_t>(body.size())};
  message.insert(message.end(), body.begin(), body.end());
  return message;
}

Bytes alpn(const std::vector<std::string>& names) {
  Bytes list;
  for (const std::string& name : names) {
    list.push_back(static_cast<uint8_t>(name.size()));
    list.insert(list.end(), name.begin(), name.end());
  }
  Bytes extension = {0, 16, 0, static_cast<uint8_t>(list.size() + 2), 0, static_cast<uint8_t>(list.size())};
  extension.insert(extension.end(), list.begin(), list.end());
  return extension;
}

TEST(Classify, KnowsOurOwnClients) {
  EXPECT_EQ(classify(in_records(hello_message(true), 16384)), FirstBytes::kTunnel);
  EXPECT_EQ(classify(in_records(hello_message(false), 16384)), FirstBytes::kOther);
}

TEST(Classify, WaitsForEveryPrefixOfAMarkedHello) {
  for (size_t record : {size_t{1}, size_t{2}, size_t{7}, size_t{100}, size_t{16384}}) {
    const Bytes wire = in_records(hello_message(true), record);
    for (size_t length = 0; length < wire.size(); ++length) {
      ASSERT_EQ(classify(std::span(wire).first(length)), FirstBytes::kNeedMore)
          << length << " of " << wire.size();
    }
    EXPECT_EQ(classify(wire), FirstBytes::kTunnel);
  }
}

TEST(Classify, IgnoresWhatComesBehindTheHello) {
  Bytes wire = in_records(hello_message(true), 16384);
  wire.insert(wire.end(), {20, 3, 3, 0, 1, 1, 'x'});
  EXPECT_EQ(classify(wire), FirstBytes::kTunnel);
}

TEST(Classify, RefusesAtTheFirstByteThatShowsIt) {
  const struct {
    const char* name;
    Bytes prefix;  // kNeedMore without its last byte, kOther with it
  } cases[] = {
      {"plaintext", {'G'}},
      {"an alert record", {21}},
      {"SSL 2", {22, 2}},
      {"record version 3.5", {22, 3, 5}},
      {"record of more than 2^14", {22, 3, 1, 0x41}},
      {"record of 2^14 + 1", {22, 3, 1, 0x40, 1}},
      {"empty record", {22, 3, 1, 0, 0}},
      {"ServerHello", {22, 3, 1, 0, 80, 2}},
      {"message of more than 16 KiB", {22, 3, 1, 0x10, 0, 1, 1, 0, 0}},
      {"legacy version 3.1", {22, 3, 1, 0, 80, 1, 0, 0, 76, 3, 1}},
      {"second record of another type", {22, 3, 1, 0, 1, 1, 23}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(classify(std::span(c.prefix).first(c.prefix.size() - 1)), FirstBytes::kNeedMore);
    EXPECT_EQ(classify(c.prefix), FirstBytes::kOther);
  }
}

TEST(Classify, JudgesTheShapeOfTheMessage) {
  const Bytes marked = alpn({"fairlead/1", "h2"});
  const auto verdict = [](const Bytes& message) { return classify(in_records(message, 16384)); };
  EXPECT_EQ(verdict(hello_with(marked)), FirstBytes::kTunnel);
  EXPECT_EQ(verdict(hello_with(marked, 0x0303, 32)), FirstBytes::kTunnel);
  EXPECT_EQ(verdict(hello_with(alpn({"h2", "fairlead/1"}))), FirstBytes::kTunnel);
  EXPECT_EQ(verdict(hello_with(marked, 0x0303, 33)), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with({})), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with(alpn({"h2", "http/1.1"}))), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with(alpn({"fairlead/10"}))), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with(alpn({"fairlead/"}))), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with(alpn({"Fairlead/1"}))), FirstBytes::kOther);
  EXPECT_EQ(verdict(hello_with(alpn({"fairlead/1", ""}))), FirstBytes::kOther) << "an empty name";
  EXPECT_EQ(verdict(hello_with(alpn({}))), FirstBytes::kOther);
  Bytes twice = marked;
  twice.insert(twice.end(), marked.begin(), marked.end());
  EXPECT_EQ(verdict(hello_with(twice)), FirstBytes::kOther) << "one extension twice";
  Bytes behind = {0x0a, 0x0a, 0, 1, 7};
  behind.insert(behind.end(), marked.begin(), marked.end());
  EXPECT_EQ(verdict(hello_with(behind)), FirstBytes::kTunnel) << "behind an unknown extension";
  Bytes cut = marked;
  cut.pop_back();
  EXPECT_EQ(verdict(hello_with(cut)), FirstBytes::kOther) << "extension longer than the message";
  Bytes longer = marked;
  longer.push_back(0);
  EXPECT_EQ(verdict(hello_with(longer)), FirstBytes::kOther) << "half an extension";
  // The mark in a place that is not the ALPN extension.
  Bytes elsewhere = marked;
  elsewhere[1] = 17;
  EXPECT_EQ(verdict(hello_with(elsewhere)), FirstBytes::kOther);
}

TEST(Classify, TakesALargeHelloUpToTheLimit) {
  const auto padded = [](size_t padding) {
    Bytes extensions = {0, 21, static_cast<uint8_t>(padding >> 8), static_cast<uint8_t>(padding)};
    extensions.insert(extensions.end(), padding, 0);
    const Bytes marked = alpn({"fairlead/1", "h2"});
    extensions.insert(extensions.end(), marked.begin(), marked.end());
    return hello_with(extensions);
  };
  const size_t bare = padded(0).size();
  EXPECT_EQ(classify(in_records(padded(kMaxClientHello - bare), 4096)), FirstBytes::kTunnel);
  EXPECT_EQ(classify(in_records(padded(kMaxClientHello - bare + 1), 4096)), FirstBytes::kOther);
}

TEST(Classify, NeverTakesRandomBytesForATunnel) {
  std::mt19937 random(7);
  const Bytes good = in_records(hello_message(true), 16384);
  for (int round = 0; round < 20000; ++round) {
    Bytes wire = good;
    for (int flips = 0; flips < 3; ++flips) wire[random() % wire.size()] = static_cast<uint8_t>(random());
    wire.resize(random() % (wire.size() + 1));
    (void)classify(wire);  // must not read outside: the sanitizer build watches
    const bool whole_and_marked = wire.size() == good.size();
    if (classify(wire) == FirstBytes::kTunnel) {
      EXPECT_TRUE(whole_and_marked);
    }
  }
}

TEST(FirstRecord, IsThereWhenItIsWhole) {
  const auto holds = [](std::string_view bytes) {
    return holds_record({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  };
  EXPECT_FALSE(holds(""));
  EXPECT_FALSE(holds({"\x16\x03\x01\x00", 4}));
  EXPECT_FALSE(holds({"\x16\x03\x01\x00\x02\x01", 6}));
  EXPECT_TRUE(holds({"\x16\x03\x01\x00\x02\x01\x00", 7}));
  EXPECT_TRUE(holds({"\x16\x03\x01\x00\x00", 5})) << "an empty one";
  EXPECT_TRUE(holds({"\x16\x03\x01\xff\xff", 5})) << "too long: never whole, to be refused now";
  EXPECT_TRUE(holds("GET /")) << "no record: to be refused now";
}

}  // namespace
}  // namespace fairlead::tls
