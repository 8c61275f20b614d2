// Parcels: what comes out is what went in, and nothing comes out of anything else.
#include "proxy/moving_codec.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

UniqueFd some_fd() {
  return UniqueFd(::eventfd(0, EFD_CLOEXEC));
}

ino_t inode(const UniqueFd& fd) {
  struct stat about{};
  return ::fstat(fd.get(), &about) == 0 ? about.st_ino : 0;
}

Buffer text(std::string_view words) {
  Buffer buffer;
  buffer.append(words);
  return buffer;
}

std::string words(const Buffer& buffer) {
  return {buffer.span().begin(), buffer.span().end()};
}

struct Nobody final : hbone::ConnectionHandler {
  hbone::StreamHandler* on_connect(hbone::StreamId, const hbone::ConnectRequest&) override { return nullptr; }
  void on_goaway(hbone::ErrorCode) override {}
  void on_fault(hbone::Fault) override {}
  void on_output() override {}
  void on_stream_closed(hbone::StreamId) override {}
};

// A client's connection with two streams, 1 and 3; a server's with the same.
hbone::ConnectionState http2(hbone::Connection::Role role) {
  Nobody nobody;
  hbone::Connection connection(role, {}, nobody);
  hbone::ConnectionState state = connection.state();
  state.next_local = 5;
  state.highest_remote = 3;
  for (const hbone::StreamId id : {1u, 3u}) state.streams.push_back({id, 10, 20, 30});
  return state;
}

RecordFacts record() {
  RecordFacts facts;
  facts.tunnel = 1;
  facts.source = *SocketAddress::parse("10.0.0.1:1234");
  facts.destination = *SocketAddress::parse("10.9.0.1:80");
  facts.endpoint = *SocketAddress::parse("[fd00::2]:8080");
  facts.service = "ns/back.ns.svc.cluster.local";
  facts.peer = "spiffe://cluster.local/ns/ns/sa/back";
  facts.judged = true;
  facts.age = Milliseconds(77);
  return facts;
}

TunnelState tunnel(hbone::Connection::Role role) {
  TunnelState state;
  state.peer = *SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/back");
  state.records.fd = some_fd();
  state.records.transmits = 2;
  state.records.seal.secret.length = 32;
  state.records.seal.secret.bytes.fill(0xab);
  state.records.seal.sequence = 99;
  state.records.open.secret.suite = tls::CipherSuite::kAes256GcmSha384;
  state.records.open.secret.length = 48;
  state.records.opened.handshake = text("half a message");
  state.records.received = text("cipher");
  state.records.sealed = text("text");
  state.streams = http2(role);
  state.pipe = {some_fd(), some_fd(), 5000};
  state.before = 9;
  state.quiet_in = Milliseconds(1234);
  return state;
}

StreamRelayState relay(hbone::StreamId stream, bool relaying) {
  StreamRelayState state;
  state.stream = stream;
  state.on_stream = true;
  state.relaying = relaying;
  state.pending = text("for a slow reader");
  state.status = relaying ? 200 : 0;
  if (relaying) state.application = some_fd();
  return state;
}

Moved outbound_tunnel() {
  OutboundTunnelState state;
  state.address = *SocketAddress::parse("10.0.0.2:15008");
  state.identity = *SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/back");
  state.tunnel = tunnel(hbone::Connection::Role::kClient);
  OutboundState open;
  open.stage = Stage::kStream;
  open.record = record();
  open.relay = relay(1, true);
  open.relay.pipe = {some_fd(), some_fd(), 7};
  OutboundState asked;
  asked.stage = Stage::kAsked;
  asked.record = record();
  asked.application = some_fd();
  asked.said = text("early");
  asked.set_up.identity = "spiffe://cluster.local/ns/ns/sa/back";
  asked.set_up.avoid.push_back(*SocketAddress::parse("10.0.0.3:1"));
  asked.relay = relay(3, false);
  state.connections.push_back(std::move(open));
  state.connections.push_back(std::move(asked));
  return {7, std::move(state)};
}

Moved inbound_tunnel() {
  InboundTunnelState state;
  state.local = *SocketAddress::parse("10.0.0.2:8080");
  state.peer = *SocketAddress::parse("10.0.0.1:40000");
  state.in_place = true;
  state.tunnel = tunnel(hbone::Connection::Role::kServer);
  InboundStreamState open;
  open.stage = Stage::kStream;
  open.record = record();
  open.name = {true, *SocketAddress::parse("10.0.0.2:50000")};
  open.relay = relay(1, true);
  InboundStreamState waiting;
  waiting.record = record();
  waiting.request = {"10.0.0.2:8080", "for=\"10.0.0.1:5\"", "a=b", "00-1-2-3"};
  waiting.relay = relay(3, false);
  state.streams.push_back(std::move(open));
  state.streams.push_back(std::move(waiting));
  return {8, std::move(state)};
}

Moved outbound() {
  OutboundState state;
  state.stage = Stage::kSockets;
  state.record = record();
  for (auto& side : state.sockets.sides) side = {some_fd(), text("backlog"), 1000, true, false};
  return {9, std::move(state)};
}

Moved inbound() {
  InboundState state;
  state.record = record();
  state.peer = *SocketAddress::parse("10.0.0.1:40000");
  state.fd = some_fd();
  state.received = text("\x16\x03\x01");
  return {10, std::move(state)};
}

Moved lone_stream() {
  InboundStreamState state;
  state.stage = Stage::kStream;
  state.record = record();
  state.relay = relay(1, true);
  state.relay.on_stream = false;
  state.relay.peer_ended = state.relay.read_side_closed = true;
  return {11, std::move(state)};
}

const std::vector<std::function<Moved()>> kEveryKind = {outbound_tunnel, inbound_tunnel, outbound, inbound,
                                                        lone_stream};

TEST(Parcels, WhatGoesInComesOut) {
  Moved moved = outbound_tunnel();
  const auto& in = std::get<OutboundTunnelState>(moved.what);
  const std::vector<ino_t> fds = {inode(in.tunnel.records.fd), inode(in.connections[0].relay.application),
                                  inode(in.connections[1].application)};
  auto result = unpack_parcel(pack_parcel(std::move(moved)));
  ASSERT_TRUE(result.has_value()) << result.error().text();
  EXPECT_EQ(result->pod, 7u);
  const auto& out = std::get<OutboundTunnelState>(result->what);
  EXPECT_EQ(out.address.to_string(), "10.0.0.2:15008");
  EXPECT_EQ(out.tunnel.records.seal.sequence, 99u);
  EXPECT_EQ(out.tunnel.records.seal.secret.bytes[31], 0xab);
  EXPECT_EQ(out.tunnel.records.open.secret.length, 48u);
  EXPECT_EQ(words(out.tunnel.records.opened.handshake), "half a message");
  EXPECT_EQ(words(out.tunnel.records.received), "cipher");
  EXPECT_EQ(words(out.tunnel.records.sealed), "text");
  EXPECT_EQ(out.tunnel.records.transmits, 2);
  EXPECT_EQ(out.tunnel.pipe.holds, 5000u);
  EXPECT_EQ(out.tunnel.before, 9u);
  EXPECT_EQ(out.tunnel.quiet_in, Milliseconds(1234));
  EXPECT_EQ(out.tunnel.streams.streams.size(), 2u);
  ASSERT_EQ(out.connections.size(), 2u);
  EXPECT_EQ(out.connections[0].record.endpoint.to_string(), "[fd00::2]:8080");
  EXPECT_EQ(out.connections[0].record.age, Milliseconds(77));
  EXPECT_EQ(words(out.connections[0].relay.pending), "for a slow reader");
  EXPECT_EQ(out.connections[0].relay.pipe.holds, 7u);
  EXPECT_EQ(words(out.connections[1].said), "early");
  EXPECT_EQ(out.connections[1].set_up.avoid[0].to_string(), "10.0.0.3:1");
  EXPECT_EQ(inode(out.tunnel.records.fd), fds[0]);
  EXPECT_EQ(inode(out.connections[0].relay.application), fds[1]);
  EXPECT_EQ(inode(out.connections[1].application), fds[2]);
}

TEST(Parcels, EveryKindIsTakenWholeAndInNoOtherLength) {
  for (const auto& make : kEveryKind) {
    Moved kind = make();
    SCOPED_TRACE(kind.pod);
    Parcel whole = pack_parcel(std::move(kind));
    EXPECT_LE(whole.bytes.size(), whole.bytes.capacity());
    for (size_t length = 0; length < whole.bytes.size(); ++length) {
      Parcel cut = pack_parcel(make());
      cut.bytes.truncate(length);
      ASSERT_FALSE(unpack_parcel(std::move(cut)).has_value()) << length;
    }
    Parcel longer = pack_parcel(make());
    longer.bytes.append("x");
    EXPECT_FALSE(unpack_parcel(std::move(longer)).has_value());
    const auto result = unpack_parcel(std::move(whole));
    EXPECT_TRUE(result.has_value()) << result.error().text();
  }
}

TEST(Parcels, AnotherNumberOfFileDescriptorsIsRefused) {
  for (const auto& make : kEveryKind) {
    Parcel less = pack_parcel(make());
    less.fds.pop_back();
    EXPECT_FALSE(unpack_parcel(std::move(less)).has_value());
    Parcel more = pack_parcel(make());
    more.fds.push_back(some_fd());
    EXPECT_FALSE(unpack_parcel(std::move(more)).has_value());
  }
}

TEST(Parcels, AnotherVersionIsRefused) {
  for (const uint8_t version : {0, 2, 255}) {
    Parcel parcel = pack_parcel(inbound());
    parcel.bytes.span()[3] = version;
    const auto result = unpack_parcel(std::move(parcel));
    ASSERT_FALSE(result.has_value());
    EXPECT_NE(result.error().text().find("version"), std::string::npos);
  }
}

TEST(Parcels, APlaceOfRecordsThatIsNotKnownIsRefused) {
  Moved moved = outbound_tunnel();
  std::get<OutboundTunnelState>(moved.what).tunnel.records.receives = 4;
  EXPECT_FALSE(unpack_parcel(pack_parcel(std::move(moved))).has_value());
}

TEST(Parcels, WhatDoesNotBelongTogetherIsRefused) {
  const std::vector<std::function<void(OutboundTunnelState&)>> wrongs = {
      [](auto& state) { state.connections.pop_back(); },           // a stream that is nobody's
      [](auto& state) { state.connections[1].relay.stream = 1; },  // one for two
      [](auto& state) { state.connections[1].relay.stream = 5; },  // one that is not there
      [](auto& state) { state.connections[0].relay.on_stream = false; },
      [](auto& state) { state.connections[0].relay.application.reset(); },
      [](auto& state) { state.connections[1].application.reset(); },
      [](auto& state) { state.connections[1].set_up.identity.clear(); },
      [](auto& state) { state.connections[0].stage = Stage::kSettingUp; },
      [](auto& state) { state.tunnel.streams.role = hbone::Connection::Role::kServer; },
      [](auto& state) { state.tunnel.before = 1 << 20; },
      [](auto& state) { state.tunnel.pipe.holds = 0; },
      [](auto& state) { state.tunnel.records.fd.reset(); },
      [](auto& state) { state.tunnel.records.seal.secret.length = 48; },
  };
  for (size_t i = 0; i < wrongs.size(); ++i) {
    Moved moved = outbound_tunnel();
    wrongs[i](std::get<OutboundTunnelState>(moved.what));
    EXPECT_FALSE(unpack_parcel(pack_parcel(std::move(moved))).has_value()) << i;
  }
}

TEST(Parcels, HostileBytesAreTakenOrRefusedAndNoFdIsLost) {
  std::minstd_rand random{5};
  const int before = some_fd().get();
  int taken = 0;
  for (int i = 0; i < 4000; ++i) {
    Parcel parcel = pack_parcel(kEveryKind[random() % kEveryKind.size()]());
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips)
      parcel.bytes.span()[random() % parcel.bytes.size()] = static_cast<uint8_t>(random());
    taken += unpack_parcel(std::move(parcel)).has_value() ? 1 : 0;
  }
  EXPECT_GT(taken, 100);
  EXPECT_EQ(some_fd().get(), before);
}

}  // namespace
}  // namespace fairlead::proxy
