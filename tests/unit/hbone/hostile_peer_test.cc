// Frames made by hand against one side: broken, hostile, and odd but honest.
#include <array>
#include <tuple>

#include "hbone/hpack.h"
#include "unit/hbone/sides_for_test.h"

namespace fairlead::hbone {
namespace {

std::string frame(FrameType type, uint8_t flags, StreamId stream, std::string_view payload) {
  Buffer out;
  append_header(out, static_cast<uint32_t>(payload.size()), type, flags, stream);
  out.append(payload);
  return {reinterpret_cast<const char*>(out.data()), out.size()};
}
std::string u32(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}
std::string hello() {
  return std::string(kPreface) + frame(FrameType::kSettings, 0, 0, "");
}
// HPACK without Huffman: literal fields without indexing, new names.
std::string literal(std::string_view name, std::string_view value) {
  std::string out(1, '\0');
  out += static_cast<char>(name.size());
  out += name;
  out += static_cast<char>(value.size());
  out += value;
  return out;
}
std::string connect_block() {
  return literal(":method", "CONNECT") + literal(":authority", "10.0.0.1:80");
}

struct Hostile {
  const char* sentence;
  std::string bytes;
  ErrorCode code;
};

TEST(HostilePeer, IsEndedWithTheRightCode) {
  const uint8_t both = kFlagEndHeaders;
  std::string many_pings;
  for (int i = 0; i < kMaxIdleFrames + 10; ++i)
    many_pings += frame(FrameType::kPing, kFlagAck, 0, "12345678");
  std::string many_resets;
  for (int i = 0; i < kMaxResetDebt + 10; ++i) {
    const auto id = static_cast<StreamId>(2 * i + 1);
    many_resets +=
        frame(FrameType::kHeaders, both, id, connect_block()) + frame(FrameType::kRstStream, 0, id, u32(8));
  }
  std::string many_continuations = frame(FrameType::kHeaders, 0, 1, connect_block());
  for (int i = 0; i <= kMaxContinuations; ++i)
    many_continuations += frame(FrameType::kContinuation, 0, 1, "");
  std::string unread_pings;
  for (int i = 0; i < 70000; ++i) unread_pings += frame(FrameType::kPing, 0, 0, "12345678");
  const std::vector<Hostile> cases = {
      {"not HTTP/2 at all", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", ErrorCode::kProtocolError},
      {"first frame is not SETTINGS", std::string(kPreface) + frame(FrameType::kPing, 0, 0, "12345678"),
       ErrorCode::kProtocolError},
      {"DATA on stream 0", hello() + frame(FrameType::kData, 0, 0, "x"), ErrorCode::kProtocolError},
      {"DATA on an idle stream", hello() + frame(FrameType::kData, 0, 1, "x"), ErrorCode::kProtocolError},
      {"HEADERS on an even stream", hello() + frame(FrameType::kHeaders, both, 2, connect_block()),
       ErrorCode::kProtocolError},
      {"stream ids go backwards",
       hello() + frame(FrameType::kHeaders, both, 5, connect_block()) + frame(FrameType::kData, 0, 7, "x"),
       ErrorCode::kProtocolError},
      {"frame longer than allowed", hello() + std::string("\xff\xff\xff\x00\x00\x00\x00\x00\x01", 9),
       ErrorCode::kFrameSizeError},
      {"SETTINGS of wrong length", hello() + frame(FrameType::kSettings, 0, 0, "12345"),
       ErrorCode::kFrameSizeError},
      {"SETTINGS ack with payload", hello() + frame(FrameType::kSettings, kFlagAck, 0, "123456"),
       ErrorCode::kFrameSizeError},
      {"SETTINGS on a stream", hello() + frame(FrameType::kSettings, 0, 1, ""), ErrorCode::kProtocolError},
      {"window size out of range",
       hello() + frame(FrameType::kSettings, 0, 0, std::string("\0\4", 2) + u32(0x80000000)),
       ErrorCode::kFlowControlError},
      {"frame size out of range",
       hello() + frame(FrameType::kSettings, 0, 0, std::string("\0\5", 2) + u32(100)),
       ErrorCode::kProtocolError},
      {"WINDOW_UPDATE of 0 on the connection", hello() + frame(FrameType::kWindowUpdate, 0, 0, u32(0)),
       ErrorCode::kProtocolError},
      {"connection window overflow", hello() + frame(FrameType::kWindowUpdate, 0, 0, u32(0x7fffffff)),
       ErrorCode::kFlowControlError},
      {"PING of wrong length", hello() + frame(FrameType::kPing, 0, 0, "1234567"),
       ErrorCode::kFrameSizeError},
      {"RST_STREAM on an idle stream", hello() + frame(FrameType::kRstStream, 0, 1, u32(0)),
       ErrorCode::kProtocolError},
      {"PUSH_PROMISE", hello() + frame(FrameType::kPushPromise, 0, 1, u32(2)), ErrorCode::kProtocolError},
      {"CONTINUATION out of nothing", hello() + frame(FrameType::kContinuation, 0, 1, "x"),
       ErrorCode::kProtocolError},
      {"another frame inside a header block",
       hello() + frame(FrameType::kHeaders, 0, 1, connect_block()) +
           frame(FrameType::kPing, 0, 0, "12345678"),
       ErrorCode::kProtocolError},
      {"endless CONTINUATION", hello() + many_continuations, ErrorCode::kEnhanceYourCalm},
      {"broken HPACK", hello() + frame(FrameType::kHeaders, both, 1, "\xff\xff\xff\xff\xff\xff"),
       ErrorCode::kCompressionError},
      {"padding longer than the frame",
       hello() + frame(FrameType::kHeaders, both | kFlagPadded, 1, std::string("\xff", 1) + connect_block()),
       ErrorCode::kProtocolError},
      {"DATA behind END_STREAM",
       hello() + frame(FrameType::kHeaders, both | kFlagEndStream, 1, connect_block()) +
           frame(FrameType::kData, 0, 1, "x"),
       ErrorCode::kStreamClosed},
      {"a flood of frames that bring nothing", hello() + many_pings, ErrorCode::kEnhanceYourCalm},
      {"rapid reset", hello() + many_resets, ErrorCode::kEnhanceYourCalm},
      {"pings without reading the answers", hello() + unread_pings, ErrorCode::kEnhanceYourCalm},
  };
  for (const Hostile& c : cases) {
    Side server(Connection::Role::kServer, Settings{});
    const auto result =
        server.connection.receive({reinterpret_cast<const uint8_t*>(c.bytes.data()), c.bytes.size()});
    ASSERT_FALSE(result) << c.sentence;
    EXPECT_EQ(result.error().code(), static_cast<int>(c.code)) << c.sentence << ": " << result.error().text();
    EXPECT_LT(server.connection.output().size(), 2u * kMaxOutputHard) << c.sentence;
    EXPECT_EQ(server.connection.open_streams(), 0u) << c.sentence;
  }
}

TEST(HostilePeer, StreamErrorsLeaveTheConnectionAlone) {
  const uint8_t both = kFlagEndHeaders;
  const std::vector<std::pair<const char*, std::string>> blocks = {
      {"GET", literal(":method", "GET") + literal(":scheme", "http") + literal(":path", "/") +
                  literal(":authority", "a:1")},
      {"GET without a path", literal(":method", "GET") + literal(":authority", "a:1")},
      {"no authority", literal(":method", "CONNECT")},
      {"a path on CONNECT", connect_block() + literal(":path", "/")},
      {"pseudo-header behind regular", literal("x", "y") + connect_block()},
      {"upper case", connect_block() + literal("X-Upper", "y")},
      {"connection-specific", connect_block() + literal("connection", "close")},
  };
  Side server(Connection::Role::kServer, Settings{});
  std::string bytes = hello();
  StreamId id = 1;
  for (const auto& [sentence, block] : blocks) {
    bytes += frame(FrameType::kHeaders, both, id, block);
    id += 2;
  }
  bytes += frame(FrameType::kHeaders, both, id, connect_block());
  ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  EXPECT_EQ(server.requests.size(), 1u) << "only the last one is a tunnel";
  EXPECT_EQ(server.connection.open_streams(), 1u);
}

// What a stream of a server was answered with: the status, 0 for a reset alone.
struct Answer {
  int status = 0;
  int reset = -1;
};

// Runs one block against a server and reads its frames.
Answer answer_to(std::string_view block, uint8_t flags = kFlagEndHeaders) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string bytes = hello() + frame(FrameType::kHeaders, flags, 1, block);
  EXPECT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  Answer answer;
  HeaderDecoder decoder;
  Buffer& out = server.connection.output();
  while (!out.empty()) {
    const FrameHeader header = parse_header(out.data());
    const auto body = out.span().subspan(kFrameHeader, header.length);
    if (header.type == FrameType::kHeaders) answer.status = decoder.decode(body)->status;
    if (header.type == FrameType::kRstStream) answer.reset = static_cast<int>(ByteReader(body).u32());
    out.consume(kFrameHeader + header.length);
  }
  return answer;
}

TEST(HostilePeer, RequestsThatAreNoTunnelAreToldSo) {
  const std::string get = literal(":method", "GET") + literal(":scheme", "http") + literal(":path", "/") +
                          literal(":authority", "10.0.0.1:80");
  EXPECT_EQ(answer_to(get).status, 400);
  EXPECT_EQ(answer_to(get).reset, 0);
  EXPECT_EQ(answer_to(get, kFlagEndHeaders | kFlagEndStream).reset, -1) << "nothing is left to be reset";
  EXPECT_EQ(answer_to(literal(":method", "CONNECT")).status, 400);
  const std::vector<std::pair<const char*, std::string>> malformed = {
      {"extended CONNECT", connect_block() + literal(":protocol", "websocket")},
      {"two methods", connect_block() + literal(":method", "CONNECT")},
      {"two authorities", connect_block() + literal(":authority", "10.0.0.2:80")},
      {"status", connect_block() + literal(":status", "200")},
      {"a name without a character", connect_block() + literal("", "x")},
      {"a space in a name", connect_block() + literal("a b", "x")},
      {"a line feed in a value", connect_block() + literal("baggage", "a\nb")},
      {"a space behind a value", connect_block() + literal("baggage", "a ")},
      {"te", connect_block() + literal("te", "gzip")},
      {"no method", literal(":authority", "10.0.0.1:80")},
  };
  for (const auto& [sentence, block] : malformed) {
    const Answer answer = answer_to(block);
    EXPECT_EQ(answer.status, 0) << sentence;
    EXPECT_EQ(answer.reset, static_cast<int>(ErrorCode::kProtocolError)) << sentence;
  }
}

TEST(HostilePeer, FaultsAreNamed) {
  const uint8_t both = kFlagEndHeaders;
  const auto repeat = [](std::string_view text) {
    std::string out = hello();
    for (int i = 0; i < kMaxIdleFrames + 10; ++i) out += text;
    return out;
  };
  const std::string open = frame(FrameType::kHeaders, both, 1, connect_block());
  std::string made = hello();
  for (int i = 0; i < kMaxResetDebt + 10; ++i) {
    const auto id = static_cast<StreamId>(2 * i + 1);
    made += frame(FrameType::kHeaders, both, id, connect_block()) +
            frame(FrameType::kWindowUpdate, 0, id, u32(0));
  }
  std::string crowd = hello();
  for (int i = 0; i < 2000; ++i)
    crowd += frame(FrameType::kHeaders, both, static_cast<StreamId>(2 * i + 1), connect_block());
  const std::string padding(200, '\0');
  const std::vector<std::tuple<const char*, std::string, Fault>> cases = {
      {"SETTINGS", repeat(frame(FrameType::kSettings, kFlagAck, 0, "")), Fault::kSettings},
      {"PRIORITY", repeat(frame(FrameType::kPriority, 0, 3, "12345")), Fault::kPriority},
      {"empty DATA", hello() + open + repeat(frame(FrameType::kData, 0, 1, "")).substr(hello().size()),
       Fault::kEmptyData},
      {"DATA of padding",
       hello() + open +
           repeat(frame(FrameType::kData, kFlagPadded, 1, std::string("\xc8", 1) + padding))
               .substr(hello().size()),
       Fault::kEmptyData},
      {"WINDOW_UPDATE",
       hello() + open + repeat(frame(FrameType::kWindowUpdate, 0, 1, u32(1))).substr(hello().size()),
       Fault::kWindowUpdate},
      {"unknown frames", repeat(frame(static_cast<FrameType>(77), 0, 0, "x")), Fault::kOtherFrames},
      {"resets that we are made to send", made, Fault::kMadeReset},
      {"streams beyond the limit", crowd, Fault::kTooManyStreams},
  };
  for (const auto& [sentence, bytes, fault] : cases) {
    Side server(Connection::Role::kServer, Settings{});
    const auto result =
        server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    ASSERT_FALSE(result) << sentence;
    EXPECT_EQ(result.error().code(), static_cast<int>(ErrorCode::kEnhanceYourCalm)) << sentence;
    ASSERT_FALSE(server.faults.empty()) << sentence;
    EXPECT_EQ(server.faults.back(), fault) << sentence;
  }
}

// An honest peer with small windows: its WINDOW_UPDATEs are what our data is sent for.
TEST(Peer, SmallWindowsAreNoFlood) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string tiny = frame(FrameType::kSettings, 0, 0, std::string("\0\4", 2) + u32(1));
  const auto give = [&](const std::string& bytes) {
    return static_cast<bool>(
        server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  };
  ASSERT_TRUE(give(hello() + tiny + frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block())));
  server.connection.respond(1, 200);
  for (int i = 0; i < 2 * kMaxIdleFrames; ++i) {
    ASSERT_EQ(server.connection.writable(1), 1u) << i;
    server.connection.prepare_data(1, 1)[0] = 'x';
    server.connection.commit_data(1, 1, false);
    server.connection.output().clear();
    ASSERT_TRUE(give(frame(FrameType::kWindowUpdate, 0, 1, u32(1)))) << i;
  }
}

TEST(Peer, KeepAlivePingsOfDaysAreNoFlood) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string ping = frame(FrameType::kPing, 0, 0, "12345678");
  const std::string start = hello();
  ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(start.data()), start.size()}));
  for (int i = 0; i < 2 * kMaxIdleFrames; ++i) {
    server.connection.calm();
    ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(ping.data()), ping.size()}));
    server.connection.output().clear();
  }
}

TEST(Peer, ALongFrameOfAnUnknownTypeIsSkipped) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string bytes = hello() + frame(static_cast<FrameType>(77), 0xff, 5, std::string(500000, 'x')) +
                            frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block());
  ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  EXPECT_EQ(server.requests.size(), 1u);
}

TEST(HostilePeer, FramesOnAStreamThatIsOver) {
  const std::string start = hello() + frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block());
  const std::string reset = frame(FrameType::kRstStream, 0, 1, u32(8));
  const std::string data = frame(FrameType::kData, 0, 1, "x");
  const std::string headers = frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block());
  for (const std::string& late : {data, headers}) {
    Side server(Connection::Role::kServer, Settings{});
    const std::string bytes = start + reset + late;
    const auto result =
        server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    ASSERT_FALSE(result) << "the peer had reset the stream itself";
    EXPECT_EQ(result.error().code(), static_cast<int>(ErrorCode::kStreamClosed));
  }
  for (const std::string& late : {data, headers}) {
    Side server(Connection::Role::kServer, Settings{});
    ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(start.data()), start.size()}));
    server.connection.reset(1, ErrorCode::kCancel);
    EXPECT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(late.data()), late.size()}))
        << "it crossed our reset";
  }
  const std::string backwards = hello() + frame(FrameType::kHeaders, kFlagEndHeaders, 5, connect_block()) +
                                frame(FrameType::kHeaders, kFlagEndHeaders, 3, connect_block());
  Side server(Connection::Role::kServer, Settings{});
  const auto result =
      server.connection.receive({reinterpret_cast<const uint8_t*>(backwards.data()), backwards.size()});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), static_cast<int>(ErrorCode::kProtocolError));
}

TEST(Peer, GoawayHasItsSecondStepOnlyBehindTheAnswerToThePing) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string start = hello();
  ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(start.data()), start.size()}));
  server.connection.output().clear();
  server.connection.goaway(ErrorCode::kNoError);
  const auto last_of = [&](size_t at) {
    return ByteReader(server.connection.output().span().subspan(at + kFrameHeader)).u32();
  };
  EXPECT_EQ(last_of(0), kMaxWindow);
  const size_t ping = kFrameHeader + 8;
  EXPECT_EQ(parse_header(server.connection.output().data() + ping).type, FrameType::kPing);
  std::string opaque(reinterpret_cast<const char*>(server.connection.output().data()) + ping + kFrameHeader,
                     8);
  EXPECT_FALSE(server.connection.drained());
  server.connection.output().clear();
  const std::string bytes = frame(FrameType::kHeaders, kFlagEndHeaders, 7, connect_block()) +
                            frame(FrameType::kRstStream, 0, 7, u32(8)) +
                            frame(FrameType::kPing, kFlagAck, 0, opaque);
  ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  EXPECT_EQ(last_of(0), 7u);
  EXPECT_TRUE(server.connection.drained());
}

TEST(Peer, WithoutAHeaderTableGetsNoneUsed) {
  Side client(Connection::Role::kClient, Settings{});
  const std::string none = frame(FrameType::kSettings, 0, 0, std::string("\0\1", 2) + u32(0));
  ASSERT_TRUE(client.connection.receive({reinterpret_cast<const uint8_t*>(none.data()), none.size()}));
  std::array<Recorder, 3> streams;
  for (Recorder& stream : streams) {
    client.connection.output().clear();
    ASSERT_TRUE(client.connection.open({"10.0.0.1:80", "for=\"1.2.3.4:5\"", "", ""}, stream));
    const auto block = client.connection.output().span().subspan(kFrameHeader);
    if (&stream == streams.data()) {
      EXPECT_EQ(block[0], 0x20) << "RFC 7541 §4.2: the new size first";
    }
    HeaderDecoder fresh;  // knows nothing of the blocks before
    const auto list = fresh.decode(block);
    ASSERT_TRUE(list);
    EXPECT_EQ(list->authority, "10.0.0.1:80");
  }
  client.connection.abort();
}

TEST(HostilePeer, MoreDataThanTheWindowEndsTheConnection) {
  Settings small;
  small.initial_window = 100;
  Side server(Connection::Role::kServer, small);
  server.auto_consume = false;
  const std::string bytes = hello() + frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block()) +
                            frame(FrameType::kData, 0, 1, std::string(101, 'x'));
  const auto result =
      server.connection.receive({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), static_cast<int>(ErrorCode::kFlowControlError));
}

TEST(HostilePeer, PaddedDataIsCountedAndStripped) {
  Side server(Connection::Role::kServer, Settings{});
  const std::string padded = std::string("\x03", 1) + "hello" + std::string(3, '\0');
  const std::string bytes = hello() + frame(FrameType::kHeaders, kFlagEndHeaders, 1, connect_block()) +
                            frame(FrameType::kData, kFlagPadded, 1, padded);
  for (size_t i = 0; i < bytes.size(); ++i)
    ASSERT_TRUE(server.connection.receive({reinterpret_cast<const uint8_t*>(&bytes[i]), 1}));
  server.connection.settle();
  EXPECT_EQ(server.streams.at(1).data, "hello");
}

}  // namespace
}  // namespace fairlead::hbone
