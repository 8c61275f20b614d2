// A relay between a real socket and one end of an HTTP/2 connection in memory; the test is the other end.
#include "proxy/stream_relay.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <map>
#include <string>

#include "net/socket.h"
#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

using hbone::Connection;
using hbone::ErrorCode;

struct Said final : hbone::StreamHandler {
  void on_response(int) override {}
  void on_data(hbone::Pieces pieces) override {
    for (const auto& piece : pieces) data.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  void on_end() override { ended = true; }
  void on_reset(ErrorCode) override { reset = true; }
  void on_writable() override {}
  std::string data;
  bool ended = false;
  bool reset = false;
};

// One end of a tunnel.
struct End final : hbone::ConnectionHandler {
  explicit End(Connection::Role role, const hbone::Settings& settings = {})
      : streams(role, settings, *this) {}
  hbone::StreamHandler* on_connect(hbone::StreamId id, const hbone::ConnectRequest&) override {
    return refuses ? nullptr : &said[last = id];
  }
  void on_goaway(ErrorCode) override {}
  void on_fault(hbone::Fault) override {}
  void on_output() override {}
  void on_stream_closed(hbone::StreamId) override {}
  std::map<hbone::StreamId, Said> said;
  hbone::StreamId last = 0;
  bool refuses = false;
  Connection streams;
};

struct Tunnel {
  explicit Tunnel(const hbone::Settings& of_server = {}) : server(Connection::Role::kServer, of_server) {}
  void carry(End& from, End& to) {
    Buffer bytes;
    bytes.append(from.streams.output().span());
    from.streams.output().consume(from.streams.output().size());
    from.streams.output_drained();
    if (!bytes.empty()) ASSERT_TRUE(to.streams.receive(bytes.span()).has_value());
    to.streams.settle();
  }
  void exchange() {
    for (int i = 0; i < 8; ++i) {
      carry(client, server);
      carry(server, client);
    }
  }
  Said& heard() { return server.said[server.last]; }
  End client{Connection::Role::kClient};
  End server;
};

struct StreamRelayTest : testing::Test, RelayOwner {
  void SetUp() override {
    reactor = std::move(*Reactor::create());
    auto listener = net::tcp_listener(*SocketAddress::parse("127.0.0.1:0"), 1);
    ASSERT_TRUE(listener.has_value());
    application = std::move(*net::tcp_socket(AF_INET));
    ASSERT_TRUE(net::connect(application, *net::local_address(*listener), AF_INET).has_value());
    captured = std::move((*net::accept(*listener))->fd);
    net::set_reset_on_close(captured);
    relay = std::make_unique<StreamRelay>(*reactor, counters, *this);
  }
  void on_relay_closing() noexcept override {}
  void on_relay_end(bool orderly) noexcept override { ended = orderly ? "orderly" : "reset"; }

  void say(const std::string& text) {
    ASSERT_EQ(::send(application.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  std::string heard() {
    std::string text(1 << 20, 0);
    const ssize_t got = ::recv(application.get(), text.data(), text.size(), 0);
    return text.substr(0, got < 0 ? 0 : static_cast<size_t>(got));
  }
  void turn(Tunnel& tunnel) {
    for (int i = 0; i < 3; ++i) {
      reactor->run_turn(0);
      tunnel.exchange();
    }
  }
  void open(Tunnel& tunnel) {
    tunnel.exchange();
    ASSERT_TRUE(relay->open(tunnel.client.streams, {"10.0.0.1:80", "", "", ""}).has_value());
    ASSERT_TRUE(relay->speak_early(std::move(captured), std::move(said)).has_value());
  }
  void take_back() {
    captured = relay->take_back(said);
    relay = std::make_unique<StreamRelay>(*reactor, counters, *this);
  }
  void answer(Tunnel& tunnel, int status) {
    tunnel.server.streams.respond(tunnel.server.last, status);
    tunnel.exchange();
  }

  std::unique_ptr<Reactor> reactor;
  Counters counters;
  UniqueFd application, captured;
  Buffer said;
  std::string ended;
  Tunnel first, second;
  std::unique_ptr<StreamRelay> relay;
};

TEST_F(StreamRelayTest, FirstWordsTravelWithTheRequest) {
  say("GET /");
  open(first);
  Buffer flight;  // what leaves at once
  flight.append(first.client.streams.output().span());
  EXPECT_NE(std::string(flight.span().begin(), flight.span().end()).find("GET /"), std::string::npos);
  turn(first);
  EXPECT_EQ(first.heard().data, "GET /");
  answer(first, 200);
  ASSERT_EQ(relay->status(), 200);
  ASSERT_TRUE(relay->start().has_value());
  say(" and more");
  turn(first);
  EXPECT_EQ(first.heard().data, "GET / and more");
  EXPECT_EQ(relay->sent(), 14U);
}

TEST_F(StreamRelayTest, WordsThatComeBeforeTheAnswerGoAtOnce) {
  open(first);
  turn(first);
  EXPECT_FALSE(relay->spoke());
  say("later");
  turn(first);
  EXPECT_TRUE(relay->spoke());
  EXPECT_EQ(first.heard().data, "later");
}

TEST_F(StreamRelayTest, NoMoreThanTheEarlyBytesGoBeforeTheAnswer) {
  const std::string text(3 * kMaxEarlyBytes, 'x');
  say(text);
  open(first);
  turn(first);
  EXPECT_EQ(first.heard().data.size(), kMaxEarlyBytes);
  answer(first, 200);
  ASSERT_TRUE(relay->start().has_value());
  turn(first);
  EXPECT_EQ(first.heard().data, text);
}

TEST_F(StreamRelayTest, ARefusedStreamIsSaidAgainElsewhereOnce) {
  say("one ");
  open(first);
  turn(first);
  say("two ");
  turn(first);
  answer(first, 503);
  EXPECT_EQ(relay->status(), 503);
  take_back();
  say("three ");
  open(second);
  turn(second);
  EXPECT_EQ(second.heard().data, "one two three ");
  answer(second, 200);
  ASSERT_TRUE(relay->start().has_value());
  say("four");
  turn(second);
  EXPECT_EQ(second.heard().data, "one two three four");
  EXPECT_EQ(relay->sent(), 18U);
  EXPECT_EQ(counters.bytes_from_applications, 18U);
}

TEST_F(StreamRelayTest, AStreamThatIsRefusedUnseenIsSaidAgain) {
  first.server.refuses = true;
  say("hello");
  open(first);
  turn(first);
  EXPECT_TRUE(relay->refused());
  first.server.refuses = false;
  take_back();
  open(first);
  turn(first);
  EXPECT_EQ(first.heard().data, "hello");
}

TEST_F(StreamRelayTest, WhatIsSaidAgainKeepsToTheWindow) {
  const std::string text(kMaxEarlyBytes, 'w');
  say(text);
  open(first);
  turn(first);
  answer(first, 503);
  take_back();
  Tunnel narrow(hbone::Settings{.initial_window = 1000, .max_window = 1000});
  open(narrow);
  turn(narrow);
  EXPECT_EQ(narrow.heard().data.size(), 1000U);
  say("!");
  answer(narrow, 200);
  ASSERT_TRUE(relay->start().has_value());
  for (size_t given = 0; given < text.size() + 1;) {
    const size_t had = narrow.heard().data.size();
    narrow.server.streams.consume(narrow.server.last, had - given);
    given = had;
    turn(narrow);
    if (narrow.heard().data.size() == had) break;
  }
  EXPECT_EQ(narrow.heard().data, text + "!");
  relay.reset();
}

TEST_F(StreamRelayTest, AnEarlyFinIsToldBehindTheAnswer) {
  say("question");
  ::shutdown(application.get(), SHUT_WR);
  open(first);
  turn(first);
  EXPECT_EQ(first.heard().data, "question");
  EXPECT_FALSE(first.heard().ended);
  answer(first, 200);
  ASSERT_TRUE(relay->start().has_value());
  turn(first);
  EXPECT_TRUE(first.heard().ended);
}

TEST_F(StreamRelayTest, AnEarlyFinIsToldElsewhere) {
  say("question");
  ::shutdown(application.get(), SHUT_WR);
  open(first);
  turn(first);
  answer(first, 503);
  take_back();
  open(second);
  turn(second);
  answer(second, 200);
  ASSERT_TRUE(relay->start().has_value());
  turn(second);
  EXPECT_EQ(second.heard().data, "question");
  EXPECT_TRUE(second.heard().ended);
}

TEST_F(StreamRelayTest, AServerThatSpeaksWithItsAnswer) {
  open(first);
  turn(first);
  first.server.streams.respond(first.server.last, 200);
  auto room = first.server.streams.prepare_data(first.server.last, 7);
  std::copy_n("welcome", 7, room.begin());
  first.server.streams.commit_data(first.server.last, 7, true);
  turn(first);
  ASSERT_EQ(relay->status(), 200);
  ASSERT_TRUE(relay->start().has_value());
  EXPECT_EQ(heard(), "welcome");
  turn(first);
  EXPECT_EQ(heard(), "") << "and its FIN";
}

TEST_F(StreamRelayTest, AnApplicationThatIsResetBeforeTheAnswerResetsTheStream) {
  say("hello");
  open(first);
  turn(first);
  net::set_reset_on_close(application);
  application.reset();
  turn(first);
  EXPECT_TRUE(first.heard().reset);
  EXPECT_EQ(ended, "reset");
  EXPECT_FALSE(relay->start().has_value());
}

TEST_F(StreamRelayTest, WhatWasSaidEarlyIsSaidAgainBehindAnAnswerThatIsWaitedFor) {
  say("hello");
  open(first);
  turn(first);
  answer(first, 503);
  take_back();
  second.exchange();
  ASSERT_TRUE(relay->open(second.client.streams, {"10.0.0.1:80", "", "", ""}).has_value());
  turn(second);
  answer(second, 200);
  ASSERT_TRUE(relay->start(std::move(captured), std::move(said)).has_value());
  turn(second);
  EXPECT_EQ(second.heard().data, "hello");
  EXPECT_EQ(relay->sent(), 5U);
}

TEST_F(StreamRelayTest, ATunnelThatBreaksBehindEarlyBytesMayHavePassedThemOn) {
  say("hello");
  open(first);
  turn(first);
  first.client.streams.abort();
  EXPECT_EQ(relay->status(), -1);
  EXPECT_TRUE(relay->spoke());
  EXPECT_FALSE(relay->refused());
}

TEST_F(StreamRelayTest, ARefusalKeepsItsStatusWhenTheStreamIsResetBehindIt) {
  say("hello");
  open(first);
  turn(first);
  first.server.streams.respond(first.server.last, 503);
  first.server.streams.reset(first.server.last, ErrorCode::kNoError);
  turn(first);
  EXPECT_EQ(relay->status(), 503);
}

// The stream is over when both ends have said so; a slow reader still has what waits for it, whatever becomes
// of the tunnel.
TEST_F(StreamRelayTest, ASlowReaderOutlivesTheTunnel) {
  auto tunnel = std::make_unique<Tunnel>();
  tunnel->exchange();
  ASSERT_TRUE(relay->open(tunnel->client.streams, {"10.0.0.1:80", "", "", ""}).has_value());
  turn(*tunnel);
  answer(*tunnel, 200);
  ASSERT_TRUE(relay->start(std::move(captured), {}).has_value());
  ASSERT_EQ(::shutdown(application.get(), SHUT_WR), 0);
  turn(*tunnel);
  ASSERT_TRUE(tunnel->heard().ended);
  Connection& server = tunnel->server.streams;
  const hbone::StreamId stream = tunnel->server.last;
  size_t sent = 0;
  for (size_t more = 1; more > 0; sent += more) {  // until the window is full
    more = server.writable(stream);
    if (more == 0) break;
    std::ranges::fill(server.prepare_data(stream, more), 'x');
    server.commit_data(stream, more, false);
    turn(*tunnel);
  }
  server.end(stream);
  turn(*tunnel);
  EXPECT_EQ(tunnel->client.streams.open_streams(), 0U);
  EXPECT_EQ(ended, "") << "the application has not read";
  EXPECT_FALSE(relay->on_stream());
  tunnel.reset();
  size_t read = 0;
  for (int i = 0; i < 1000 && read < sent; ++i) {
    read += heard().size();
    reactor->run_turn(0);
  }
  EXPECT_EQ(read, sent);
  EXPECT_GT(sent, 200000U);
  EXPECT_EQ(ended, "orderly");
}

// What came by splice and waits in a pipe goes to the successor with it; the application's socket is full.
TEST_F(StreamRelayTest, APipeMovesWithWhatItHolds) {
  const int little = 4096;
  ASSERT_EQ(::setsockopt(captured.get(), SOL_SOCKET, SO_SNDBUF, &little, sizeof little), 0);
  ASSERT_EQ(::setsockopt(application.get(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little), 0);
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()), 0);
  const UniqueFd transport(ends[0]), peer(ends[1]);
  open(first);
  turn(first);
  answer(first, 200);
  ASSERT_TRUE(relay->start().has_value());
  std::string sent;
  for (int i = 0; i < 50; ++i) {
    const std::string piece(4000, static_cast<char>('a' + i % 26));
    ASSERT_EQ(::send(peer.get(), piece.data(), piece.size(), 0), 4000);
    const auto taken = relay->take_from(transport, 4000);
    ASSERT_TRUE(taken.has_value());
    if (taken->bytes == 0) break;  // something waits: the rest is to be copied
    ASSERT_EQ(taken->bytes, 4000U);
    sent += piece;
  }
  auto state = relay->state();
  ASSERT_TRUE(state.has_value());
  ASSERT_GT(state->pipe.holds, 0U);
  relay->let_go();
  relay = std::make_unique<StreamRelay>(*reactor, counters, *this);
  relay->resume(std::move(*state), &first.client.streams);
  relay->activate();
  std::string got;
  for (int i = 0; i < 2000 && got.size() < sent.size(); ++i) {
    reactor->run_turn(1);
    got += heard();
  }
  EXPECT_TRUE(got == sent) << got.size() << " of " << sent.size();
  EXPECT_EQ(relay->received(), sent.size());
}

}  // namespace
}  // namespace fairlead::proxy
