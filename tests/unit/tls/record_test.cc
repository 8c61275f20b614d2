// The record layer: sizes, splits, tampering, order, key changes, alerts and limits; RFC 8448 for the keys.
#include "tls/record.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <random>
#include <string>
#include <vector>

#include "tls/key_schedule.h"

namespace fairlead::tls {
namespace {

using Bytes = std::vector<uint8_t>;
using Event = RecordOpener::Event;

TrafficSecret secret_of(uint8_t seed, CipherSuite suite = CipherSuite::kAes128GcmSha256) {
  TrafficSecret secret;
  secret.suite = suite;
  secret.length = secret_length_of(suite);
  for (size_t i = 0; i < secret.length; ++i) secret.bytes[i] = static_cast<uint8_t>(seed + i);
  return secret;
}

Bytes from_hex(std::string_view hex) {
  Bytes bytes;
  for (size_t i = 0; i < hex.size();) {
    if (hex[i] == ' ') {
      ++i;
      continue;
    }
    bytes.push_back(static_cast<uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
    i += 2;
  }
  return bytes;
}

Bytes pattern(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 251);
  return bytes;
}

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class RecordTest : public ::testing::Test {
 protected:
  // A record of any inner plaintext, padding and type included: what RecordSealer would not send.
  Bytes raw_record(const Bytes& inner) {
    RecordState state = raw_state_;
    for (size_t i = 0; i < 8; ++i) state.iv[11 - i] ^= static_cast<uint8_t>(state.sequence >> (8 * i));
    ++raw_state_.sequence;
    const size_t length = inner.size() + 16;
    Bytes record = {23, 3, 3, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length)};
    record.resize(kRecordHeader + length);
    EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
    int done = 0;
    EVP_EncryptInit_ex(context, EVP_aes_128_gcm(), nullptr, state.key.data(), state.iv.data());
    EVP_EncryptUpdate(context, nullptr, &done, record.data(), kRecordHeader);
    EVP_EncryptUpdate(context, record.data() + kRecordHeader, &done, inner.data(),
                      static_cast<int>(inner.size()));
    EVP_EncryptFinal_ex(context, record.data() + kRecordHeader + inner.size(), &done);
    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, record.data() + kRecordHeader + inner.size());
    EVP_CIPHER_CTX_free(context);
    return record;
  }
  Bytes raw_record(Bytes content, ContentType type, size_t padding = 0) {
    content.push_back(static_cast<uint8_t>(type));
    content.insert(content.end(), padding, 0);
    return raw_record(content);
  }
  void raw_update() { raw_state_ = *derive_state(*next_secret(raw_state_.secret)); }

  Result<RecordOpener::Opened> feed(Bytes record) {
    record_ = std::move(record);  // the payload stays readable
    return opener_.open(record_);
  }
  void expect_refused(Bytes record, Alert alert) {
    auto opened = feed(std::move(record));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().kind(), ErrorKind::kProtocol) << opened.error().text();
    EXPECT_EQ(opener_.alert(), alert) << opened.error().text();
    Buffer good;
    ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("x"), good));
    EXPECT_FALSE(opener_.open(good.span())) << "dead after an error";
  }

  RecordSealer sealer_ = std::move(*RecordSealer::create(secret_of(1)));
  RecordOpener opener_ = std::move(*RecordOpener::create(secret_of(1)));
  RecordState raw_state_ = *derive_state(secret_of(1));
  Bytes record_;
};

// ---- keys
// -----------------------------------------------------------------------------------------------------------

TEST(KeySchedule, MatchesRfc8448) {
  // §3, "Simple 1-RTT Handshake": the client's application traffic and its first record.
  TrafficSecret secret;
  const Bytes bytes = from_hex(
      "9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52 87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5");
  std::copy(bytes.begin(), bytes.end(), secret.bytes.begin());
  secret.length = bytes.size();
  const auto state = derive_state(secret);
  ASSERT_TRUE(state);
  EXPECT_EQ(Bytes(state->key.begin(), state->key.begin() + 16),
            from_hex("17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51"));
  EXPECT_EQ(Bytes(state->iv.begin(), state->iv.end()), from_hex("5b 78 92 3d ee 08 57 90 33 e5 23 d9"));

  auto sealer = RecordSealer::create(secret);
  Bytes plaintext(50);
  for (size_t i = 0; i < plaintext.size(); ++i) plaintext[i] = static_cast<uint8_t>(i);
  Buffer out;
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, plaintext, out));
  EXPECT_EQ(
      Bytes(out.data(), out.data() + out.size()),
      from_hex(
          "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b"
          "98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee"
          "bb 21 69 49 15 e4"));
  out.clear();
  ASSERT_TRUE(sealer->close_notify(out));
  EXPECT_EQ(Bytes(out.data(), out.data() + out.size()),
            from_hex("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3"));
}

TEST(KeySchedule, RefusesALabelThatDoesNotFit) {
  Bytes out(16);
  EXPECT_FALSE(hkdf_expand_label(CipherSuite::kAes128GcmSha256, Bytes(32, 1), std::string(60, 'x'), out));
}

// ---- round trips
// ------------------------------------------------------------------------------------------------------

TEST(RecordRoundTrip, EverySizeThatMattersInBothSuites) {
  std::vector<size_t> sizes;
  for (size_t size = 0; size <= 100; ++size) sizes.push_back(size);
  for (size_t size : {1023, 1024, 16383, 16384, 16385, 32767, 32768, 32769, 40000}) sizes.push_back(size);
  for (auto suite : {CipherSuite::kAes128GcmSha256, CipherSuite::kAes256GcmSha384}) {
    auto sealer = RecordSealer::create(secret_of(3, suite));
    auto opener = RecordOpener::create(secret_of(3, suite));
    for (size_t size : sizes) {
      const Bytes plaintext = pattern(size);
      Buffer wire;
      ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, plaintext, wire));
      const size_t records = std::max<size_t>(1, (size + kMaxPlaintext - 1) / kMaxPlaintext);
      EXPECT_EQ(wire.size(), size + records * kRecordOverhead) << "no more records than needed";
      Bytes got;
      while (!wire.empty()) {
        auto opened = opener->open(wire.span());
        ASSERT_TRUE(opened) << opened.error().text();
        ASSERT_EQ(opened->event, Event::kData);
        got.insert(got.end(), opened->payload.begin(), opened->payload.end());
        wire.consume(opened->consumed);
      }
      ASSERT_EQ(got, plaintext) << size;
    }
    EXPECT_EQ(sealer->records(), opener->records());
  }
}

TEST(RecordRoundTrip, OpensInPlaceAtRandomSplits) {
  std::mt19937 random(11);
  auto sealer = RecordSealer::create(secret_of(5));
  auto opener = RecordOpener::create(secret_of(5));
  Buffer wire, inbox;
  Bytes sent, got;
  for (int i = 0; i < 60; ++i) {
    const Bytes part = pattern(random() % 20000);
    sent.insert(sent.end(), part.begin(), part.end());
    ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, part, wire));
  }
  while (!wire.empty()) {
    const size_t count = std::min<size_t>(1 + random() % 9000, wire.size());
    inbox.append(wire.span().first(count));
    wire.consume(count);
    for (;;) {
      auto opened = opener->open(inbox.span());
      ASSERT_TRUE(opened);
      if (opened->event == Event::kNeedMore) break;
      if (!opened->payload.empty()) {
        EXPECT_GE(opened->payload.data(), inbox.data());
        EXPECT_LE(opened->payload.data() + opened->payload.size(), inbox.data() + opened->consumed);
      }
      got.insert(got.end(), opened->payload.begin(), opened->payload.end());
      inbox.consume(opened->consumed);
    }
  }
  EXPECT_TRUE(inbox.empty());
  EXPECT_EQ(got, sent);
}

TEST_F(RecordTest, ExportsTheStateOfAnyMoment) {
  // A successor that only has the exported secret and sequence reads on: what kernel and hand-over rely on.
  Buffer wire;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("abc"), wire));
  const RecordState state = sealer_.state();
  EXPECT_EQ(state.sequence, 3u);
  EXPECT_EQ(state.key_length, 16u);
  EXPECT_EQ(opener_.state().key, state.key);
  EXPECT_EQ(opener_.state().iv, state.iv);
  ASSERT_TRUE(sealer_.update_key(wire));
  EXPECT_EQ(sealer_.state().sequence, 0u);
  EXPECT_NE(sealer_.state().key, state.key);
  EXPECT_EQ(sealer_.records(), 4u);
}

TEST_F(RecordTest, ResumesFromAState) {
  Buffer wire;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("abc"), wire));
  auto opened = opener_.open(wire.span());
  ASSERT_TRUE(opened);
  wire.consume(opened->consumed);
  auto successor = RecordOpener::resume(opener_.state());
  ASSERT_TRUE(successor);
  opened = successor->open(wire.span());
  ASSERT_TRUE(opened) << opened.error().text();
  wire.clear();
  auto next_sealer = RecordSealer::resume(sealer_.state());
  ASSERT_TRUE(next_sealer);
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("abc"), wire));
  Buffer same;
  ASSERT_TRUE(next_sealer->seal(ContentType::kApplicationData, bytes_of("abc"), same));
  EXPECT_EQ(Bytes(wire.data(), wire.data() + wire.size()), Bytes(same.data(), same.data() + same.size()));
}

TEST_F(RecordTest, GoesOnAfterARest) {
  Buffer wire;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("abc"), wire));
    auto opened = opener_.open(wire.span());
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(std::string(opened->payload.begin(), opened->payload.end()), "abc");
    wire.consume(opened->consumed);
    sealer_.rest();
    opener_.rest();
    ASSERT_TRUE(sealer_.update_key(wire));
    opened = opener_.open(wire.span());
    ASSERT_TRUE(opened) << opened.error().text();
    wire.consume(opened->consumed);
    sealer_.rest();
    opener_.rest();
  }
}

TEST_F(RecordTest, MovesOnlyBetweenMessages) {
  EXPECT_TRUE(opener_.movable());
  ASSERT_TRUE(feed(raw_record({4, 0, 0, 2, 'a'}, ContentType::kHandshake)));
  EXPECT_FALSE(opener_.movable());
  ASSERT_TRUE(feed(raw_record({'b'}, ContentType::kHandshake)));
  EXPECT_TRUE(opener_.movable());
  ASSERT_TRUE(feed(raw_record({1, 0}, ContentType::kAlert)));
  EXPECT_FALSE(opener_.movable()) << "closed";
}

// ---- hostile bytes
// ------------------------------------------------------------------------------------------------------

TEST(RecordTamper, AFlippedBitAnywhereIsAnError) {
  for (size_t size : {size_t{0}, size_t{40}}) {
    const size_t record = size + kRecordOverhead;
    for (size_t bit = 0; bit < record * 8; ++bit) {
      auto sealer = RecordSealer::create(secret_of(9));
      auto opener = RecordOpener::create(secret_of(9));
      Buffer wire;
      ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, pattern(size), wire));
      wire.append(Bytes(20000, 0));  // a flipped length must not just wait
      wire.data()[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      ASSERT_FALSE(opener->open(wire.span())) << bit;
    }
  }
}

TEST_F(RecordTest, RefusesAReplay) {
  Buffer wire;
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("once"), wire));
  const Bytes copy(wire.data(), wire.data() + wire.size());
  ASSERT_TRUE(feed(copy));
  const auto again = feed(copy);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind(), ErrorKind::kTls);
  EXPECT_EQ(opener_.alert(), Alert::kBadRecordMac);
}

TEST_F(RecordTest, RefusesAnotherOrder) {
  Buffer first, second;
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("one"), first));
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("two"), second));
  EXPECT_FALSE(opener_.open(second.span()));
  EXPECT_FALSE(opener_.open(first.span())) << "dead";
}

TEST_F(RecordTest, WaitsForAWholeRecord) {
  Buffer wire;
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, pattern(100), wire));
  for (size_t length = 0; length < wire.size(); ++length) {
    auto opened = opener_.open(wire.span().first(length));
    ASSERT_TRUE(opened);
    ASSERT_EQ(opened->event, Event::kNeedMore);
    ASSERT_EQ(opened->consumed, 0u);
  }
}

TEST_F(RecordTest, RefusesOuterTypesOtherThanData) {
  expect_refused({20, 3, 3, 0, 1, 1}, Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesPlaintextAlerts) {
  expect_refused({21, 3, 3, 0, 2, 1, 0}, Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesPlaintextHandshakes) {
  expect_refused({22}, Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesALengthBeyondTheLimit) {
  expect_refused({23, 3, 3, 0x41, 0x01}, Alert::kRecordOverflow);
}
TEST_F(RecordTest, RefusesALengthBelowTagAndType) {
  expect_refused({23, 3, 3, 0, 16}, Alert::kDecodeError);
}
TEST_F(RecordTest, RefusesAnUnknownInnerType) {
  expect_refused(raw_record(Bytes{'x', 20}), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesPaddingAlone) {
  expect_refused(raw_record(Bytes(10, 0)), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesAPlaintextTooLong) {
  expect_refused(raw_record(Bytes(kMaxPlaintext + 1, 'x'), ContentType::kApplicationData),
                 Alert::kRecordOverflow);
}
TEST_F(RecordTest, RefusesPaddingTooLong) {
  expect_refused(raw_record(Bytes(kMaxPlaintext, 'x'), ContentType::kApplicationData, 1),
                 Alert::kRecordOverflow);
}

TEST_F(RecordTest, StripsPadding) {
  for (size_t padding : {1, 15, 255, 16000}) {
    auto opened = feed(raw_record(Bytes{'a', 0, 'b', 0}, ContentType::kApplicationData, padding));
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(Bytes(opened->payload.begin(), opened->payload.end()), (Bytes{'a', 0, 'b', 0}));
  }
  auto full = feed(raw_record(Bytes(kMaxPlaintext, 'x'), ContentType::kApplicationData));
  ASSERT_TRUE(full);
  EXPECT_EQ(full->payload.size(), kMaxPlaintext);
}

TEST_F(RecordTest, BoundsEmptyRecords) {
  int taken = 0;
  while (taken < 1000) {
    auto opened = feed(raw_record({}, ContentType::kApplicationData, 3));
    if (!opened) break;
    EXPECT_EQ(opened->event, Event::kData);
    EXPECT_TRUE(opened->payload.empty());
    if (++taken == 20) {
      ASSERT_TRUE(feed(raw_record({'x'}, ContentType::kApplicationData)));  // data starts the count again
    }
  }
  EXPECT_EQ(taken, 20 + 64);
}

// ---- alerts
// -------------------------------------------------------------------------------------------------------------

TEST_F(RecordTest, CloseNotifyEndsTheStream) {
  Buffer wire;
  ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("last"), wire));
  ASSERT_TRUE(sealer_.close_notify(wire));
  wire.append("not even a record");
  auto opened = opener_.open(wire.span());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->event, Event::kData);
  wire.consume(opened->consumed);
  opened = opener_.open(wire.span());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->event, Event::kClosed);
  wire.consume(opened->consumed);
  opened = opener_.open(wire.span());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->event, Event::kClosed);
  EXPECT_EQ(opened->consumed, wire.size());
}

TEST_F(RecordTest, AFatalAlertIsAnErrorWithItsCode) {
  Buffer wire;
  ASSERT_TRUE(sealer_.fatal(Alert::kInternalError, wire));
  const auto opened = opener_.open(wire.span());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().kind(), ErrorKind::kTls);
  EXPECT_EQ(opened.error().code(), 80);
  EXPECT_EQ(opener_.alert(), Alert::kCloseNotify) << "nothing is owed to who gave up";
}

TEST_F(RecordTest, AlertsOfAnyLevelButCloseNotifyAreErrors) {
  const auto opened = feed(raw_record({1, 90}, ContentType::kAlert));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), 90);
}
TEST_F(RecordTest, RefusesAnAlertTooShort) {
  expect_refused(raw_record({2}, ContentType::kAlert), Alert::kDecodeError);
}
TEST_F(RecordTest, RefusesTwoAlertsInARecord) {
  expect_refused(raw_record({1, 0, 1, 0}, ContentType::kAlert), Alert::kDecodeError);
}
TEST_F(RecordTest, RefusesAnEmptyAlert) {
  expect_refused(raw_record({}, ContentType::kAlert), Alert::kDecodeError);
}

// ---- handshake messages behind the handshake
// -----------------------------------------------------------------------------

Bytes message(uint8_t type, size_t length) {
  Bytes bytes = {type, static_cast<uint8_t>(length >> 16), static_cast<uint8_t>(length >> 8),
                 static_cast<uint8_t>(length)};
  bytes.resize(4 + length, 'm');
  return bytes;
}
const Bytes kUpdate = {24, 0, 0, 1, 0};
const Bytes kUpdateAndAnswer = {24, 0, 0, 1, 1};

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

TEST_F(RecordTest, KeyUpdateChangesTheKeyOfOneDirection) {
  for (int i = 0; i < 5; ++i) {
    Buffer wire;
    ASSERT_TRUE(sealer_.update_key(wire));
    ASSERT_TRUE(sealer_.seal(ContentType::kApplicationData, bytes_of("new key"), wire));
    auto opened = opener_.open(wire.span());
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(opened->event, Event::kKeyUpdate);
    EXPECT_FALSE(opened->respond);
    wire.consume(opened->consumed);
    opened = opener_.open(wire.span());
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(std::string(opened->payload.begin(), opened->payload.end()), "new key");
  }
}

TEST_F(RecordTest, KeyUpdateTellsWhetherAnAnswerIsAsked) {
  auto opened = feed(raw_record(kUpdateAndAnswer, ContentType::kHandshake));
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->event, Event::kKeyUpdate);
  EXPECT_TRUE(opened->respond);
  raw_update();
  EXPECT_TRUE(feed(raw_record({'x'}, ContentType::kApplicationData)));
}

TEST_F(RecordTest, TheOldKeyEndsWithTheKeyUpdate) {
  ASSERT_TRUE(feed(raw_record(kUpdate, ContentType::kHandshake)));
  EXPECT_FALSE(feed(raw_record({'x'}, ContentType::kApplicationData)));
}

TEST_F(RecordTest, TakesTicketsBeforeAKeyUpdateInOneRecord) {
  auto opened =
      feed(raw_record(message(4, 200) + message(4, 10) + kUpdateAndAnswer, ContentType::kHandshake));
  ASSERT_TRUE(opened) << opened.error().text();
  EXPECT_EQ(opened->event, Event::kKeyUpdate);
  EXPECT_TRUE(opened->respond);
}

TEST_F(RecordTest, TakesAMessageThatIsSplitOverRecords) {
  const Bytes ticket = message(4, 300);
  for (size_t at = 0; at < ticket.size(); at += 50) {
    const Bytes part(ticket.begin() + static_cast<ptrdiff_t>(at),
                     ticket.begin() + static_cast<ptrdiff_t>(std::min(at + 50, ticket.size())));
    auto opened = feed(raw_record(part, ContentType::kHandshake));
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(opened->event, Event::kIgnored);
  }
  ASSERT_TRUE(feed(raw_record({24, 0}, ContentType::kHandshake)));
  auto opened = feed(raw_record({0, 1, 0}, ContentType::kHandshake));
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->event, Event::kKeyUpdate);
}

TEST_F(RecordTest, RefusesDataBehindAKeyUpdate) {
  expect_refused(raw_record(kUpdate + Bytes{4}, ContentType::kHandshake), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesTwoKeyUpdatesInARecord) {
  expect_refused(raw_record(kUpdate + kUpdate, ContentType::kHandshake), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesDataInsideAMessage) {
  ASSERT_TRUE(feed(raw_record({4, 0, 0, 9}, ContentType::kHandshake)));
  expect_refused(raw_record({'x'}, ContentType::kApplicationData), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesAnAlertInsideAMessage) {
  ASSERT_TRUE(feed(raw_record({4, 0, 0, 9}, ContentType::kHandshake)));
  expect_refused(raw_record({1, 0}, ContentType::kAlert), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesAnEmptyHandshakeRecord) {
  expect_refused(raw_record({}, ContentType::kHandshake), Alert::kUnexpectedMessage);
}
TEST_F(RecordTest, RefusesAMessageTooLong) {
  expect_refused(raw_record({4, 0, 0x40, 0x01}, ContentType::kHandshake), Alert::kIllegalParameter);
}
TEST_F(RecordTest, RefusesAKeyUpdateOfTheWrongLength) {
  expect_refused(raw_record(message(24, 2), ContentType::kHandshake), Alert::kDecodeError);
}
TEST_F(RecordTest, RefusesAKeyUpdateWithoutBody) {
  expect_refused(raw_record(message(24, 0), ContentType::kHandshake), Alert::kDecodeError);
}
TEST_F(RecordTest, RefusesAnUnknownUpdateRequest) {
  expect_refused(raw_record({24, 0, 0, 1, 2}, ContentType::kHandshake), Alert::kIllegalParameter);
}
TEST_F(RecordTest, RefusesOtherMessages) {
  // ClientHello, ServerHello, CertificateRequest (never offered), Finished.
  for (uint8_t type : {1, 2, 13, 20}) {
    opener_ = std::move(*RecordOpener::create(secret_of(1)));
    sealer_ = std::move(*RecordSealer::create(secret_of(1)));
    raw_state_ = *derive_state(secret_of(1));
    expect_refused(raw_record(message(type, 8), ContentType::kHandshake), Alert::kUnexpectedMessage);
  }
}

TEST_F(RecordTest, BoundsTickets) {
  int taken = 0;
  // Data between them, so that it is the tickets that are counted.
  while (taken < 1000 && feed(raw_record(message(4, 32), ContentType::kHandshake))) {
    ++taken;
    ASSERT_TRUE(feed(raw_record({'x'}, ContentType::kApplicationData)));
  }
  EXPECT_EQ(taken, 64);
}

TEST_F(RecordTest, BoundsTicketsInOneRecord) {
  Bytes many;
  for (int i = 0; i < 500; ++i) many = many + message(4, 20);
  EXPECT_FALSE(feed(raw_record(many, ContentType::kHandshake)));
}

TEST_F(RecordTest, BoundsKeyUpdatesInARow) {
  int taken = 0;
  while (taken < 1000) {
    auto opened = feed(raw_record(kUpdateAndAnswer, ContentType::kHandshake));
    if (!opened) break;
    ++taken;
    raw_update();
  }
  EXPECT_EQ(taken, 64);
}

// ---- limits
// ---------------------------------------------------------------------------------------------------------------

TEST_F(RecordTest, AsksForANewKeyWellBeforeTheLimit) {
  RecordState state = sealer_.state();
  state.sequence = (uint64_t{1} << 23) - 1;
  auto sealer = RecordSealer::resume(state);
  ASSERT_TRUE(sealer);
  EXPECT_FALSE(sealer->wants_key_update());
  Buffer out;
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, bytes_of("x"), out));
  EXPECT_TRUE(sealer->wants_key_update());
  ASSERT_TRUE(sealer->update_key(out));
  EXPECT_FALSE(sealer->wants_key_update());
}

TEST_F(RecordTest, StopsAtTheLimit) {
  RecordState state = sealer_.state();
  state.sequence = (uint64_t{1} << 24) - 2;
  auto sealer = RecordSealer::resume(state);
  ASSERT_TRUE(sealer);
  Buffer out;
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, bytes_of("x"), out));
  const size_t before = out.size();
  const auto refused = sealer->seal(ContentType::kApplicationData, pattern(kMaxPlaintext + 1), out);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kExhausted);
  EXPECT_EQ(out.size(), before);
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, bytes_of("y"), out));
  EXPECT_FALSE(sealer->seal(ContentType::kApplicationData, bytes_of("z"), out));
}

}  // namespace
}  // namespace fairlead::tls
