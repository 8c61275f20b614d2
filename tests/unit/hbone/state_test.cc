// A connection that goes on in another process, cut at any byte: nobody may notice.
#include "hbone/state.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>

#include "hbone/hpack.h"
#include "unit/hbone/sides_for_test.h"

namespace fairlead::hbone {
namespace {

using Role = Connection::Role;

// One end that can be moved: state → bytes → state → another Connection.
struct End : ConnectionHandler {
  explicit End(Role r, const Settings& s = {})
      : role(r), connection(std::make_unique<Connection>(r, s, *this)) {}
  StreamHandler* on_connect(StreamId id, const ConnectRequest& request) override {
    requests.push_back(request.authority + " " + request.forwarded);
    unanswered.insert(id);
    return &stream(id);
  }
  void on_goaway(ErrorCode code) override { goaways.push_back(static_cast<int>(code)); }
  void on_fault(Fault fault) override { faults.push_back(fault); }
  void on_output() override {}
  void on_stream_closed(StreamId id) override {
    closed.insert(id);
    unanswered.erase(id);
  }
  Recorder& stream(StreamId id) {
    Recorder& recorder = streams[id];
    recorder.connection = connection.get();
    recorder.id = id;
    recorder.auto_consume = id % 4 == 1;
    return recorder;
  }
  void move() {
    connection->settle();
    Buffer bytes;
    encode(connection->state(), bytes);
    auto state = decode(bytes.span());
    ASSERT_TRUE(state.has_value()) << state.error().text();
    std::vector<StreamId> ids;
    for (const StreamState& moved : state->streams) ids.push_back(moved.id);
    auto successor = std::make_unique<Connection>(role, Settings{}, *this);
    const Result<void> resumed = successor->resume(std::move(*state));
    ASSERT_TRUE(resumed.has_value()) << resumed.error().text();
    for (const StreamId id : ids) successor->attach(id, streams.at(id));
    connection = std::move(successor);
    for (auto& [id, recorder] : streams) recorder.connection = connection.get();
    ++moves;
  }
  // What an application would notice.
  std::string story() const {
    std::string text;
    for (const auto& request : requests) text += "request " + request + "\n";
    for (const auto& [id, recorder] : streams) {
      if (broken.contains(id)) continue;  // how much came before is a matter of time
      text += fmt::format("stream {}: status {} ended {} reset {} closed {} bytes {} hash {}\n", id,
                          recorder.status, recorder.ended, recorder.reset, closed.contains(id),
                          recorder.data.size(), std::hash<std::string>{}(recorder.data));
    }
    for (const int code : goaways) text += fmt::format("goaway {}\n", code);
    for (const Fault fault : faults) text += fmt::format("fault {}\n", static_cast<int>(fault));
    return text + fmt::format("pongs {} open {} bulk {} draining {} drained {}\n", connection->pongs(),
                              connection->open_streams(), connection->carries_bulk(), connection->draining(),
                              connection->drained());
  }
  Role role;
  std::unique_ptr<Connection> connection;
  std::map<StreamId, Recorder> streams;
  std::set<StreamId> closed, unanswered, broken;
  std::vector<std::string> requests;
  std::vector<int> goaways;
  std::vector<Fault> faults;
  int moves = 0;
};

void frame(Buffer& out, FrameType type, uint8_t flags, StreamId stream, std::string_view body) {
  append_header(out, static_cast<uint32_t>(body.size()), type, flags, stream);
  out.append(body);
}

// ---- at every byte of what a client may say

Buffer everything_a_client_says() {
  Buffer wire;
  wire.append(kPreface);
  frame(wire, FrameType::kSettings, 0, 0, std::string_view("\0\4\0\1\0\0\0\5\0\0\x50\0", 12));
  HeaderEncoder encoder;
  Buffer block;
  EXPECT_TRUE(encoder.request({"10.0.0.1:80", "for=\"1.2.3.4:5\"", "", ""}, block).has_value());
  const std::string whole(block.span().begin(), block.span().end());
  frame(wire, FrameType::kHeaders, 0, 1, whole.substr(0, 3));  // a block in three pieces
  frame(wire, FrameType::kContinuation, 0, 1, whole.substr(3, 2));
  frame(wire, FrameType::kContinuation, kFlagEndHeaders, 1, whole.substr(5));
  frame(wire, FrameType::kData, 0, 1, "early words");
  frame(wire, FrameType::kData, kFlagPadded, 1, std::string("\5padded\0\0\0\0\0", 12));
  frame(wire, static_cast<FrameType>(99), 0, 0, "nobody knows this type");
  frame(wire, FrameType::kPing, 0, 0, "12345678");
  block.clear();
  // By reference to what the first block has put into the table.
  EXPECT_TRUE(encoder.request({"10.0.0.1:80", "for=\"1.2.3.4:5\"", "", ""}, block).has_value());
  frame(wire, FrameType::kHeaders, kFlagEndHeaders, 3, {reinterpret_cast<char*>(block.data()), block.size()});
  frame(wire, FrameType::kWindowUpdate, 0, 3, std::string_view("\0\0\x10\0", 4));
  frame(wire, FrameType::kData, kFlagEndStream, 3, "all of it");
  frame(wire, FrameType::kRstStream, 0, 1, std::string_view("\0\0\0\x8", 4));
  frame(wire, FrameType::kGoaway, 0, 0, std::string_view("\0\0\0\0\0\0\0\0", 8));
  return wire;
}

TEST(MovedConnection, GoesOnBehindEveryByte) {
  Buffer wire = everything_a_client_says();
  End unmoved(Role::kServer);
  ASSERT_TRUE(unmoved.connection->receive(wire.span()).has_value());
  unmoved.connection->settle();
  ASSERT_EQ(unmoved.requests.size(), 2u);
  ASSERT_EQ(unmoved.requests[0], unmoved.requests[1]);
  ASSERT_EQ(unmoved.streams.at(1).data, "early wordspadded");
  const Buffer& expected = unmoved.connection->output();
  for (size_t cut = 0; cut <= wire.size(); ++cut) {
    SCOPED_TRACE(cut);
    End moved(Role::kServer);
    ASSERT_TRUE(moved.connection->receive(wire.span().first(cut)).has_value());
    moved.move();
    ASSERT_FALSE(HasFatalFailure());
    ASSERT_TRUE(moved.connection->receive(wire.span().subspan(cut)).has_value());
    moved.connection->settle();
    ASSERT_EQ(moved.story(), unmoved.story());
    const Buffer& output = moved.connection->output();
    ASSERT_TRUE(std::ranges::equal(output.span(), expected.span())) << "what it says is the same, too";
  }
}

TEST(MovedConnection, GoesOnAtEveryByteOfAnAnswer) {
  const auto run = [](size_t cut) {
    End server(Role::kServer);
    End client(Role::kClient);
    auto& recorder = client.stream(1);
    EXPECT_TRUE(client.connection->open({"10.0.0.1:80", "", "", ""}, recorder).has_value());
    EXPECT_TRUE(server.connection->receive(client.connection->output().span()).has_value());
    server.connection->respond(1, 200);
    const auto into = server.connection->prepare_data(1, 100);
    std::fill_n(into.begin(), 100, 'x');
    server.connection->commit_data(1, 100, true);
    const Buffer& wire = server.connection->output();
    const size_t at = std::min(cut, wire.size());
    EXPECT_TRUE(client.connection->receive(wire.span().first(at)).has_value());
    client.move();
    EXPECT_TRUE(client.connection->receive(wire.span().subspan(at)).has_value());
    client.connection->settle();
    return std::pair(client.story(), wire.size());
  };
  const auto [expected, length] = run(0);
  EXPECT_NE(expected.find("status 200 ended true"), std::string::npos) << expected;
  for (size_t cut = 1; cut <= length; ++cut) ASSERT_EQ(run(cut).first, expected) << cut;
}

// ---- conversations

// A client and a server that say what a seed makes them say, over wires that hold any number of bytes.
class Conversation {
 public:
  Conversation(unsigned seed, int moves_in_100) : script_(seed), cuts_(seed + 1), moves_(moves_in_100) {}

  std::string run() {
    for (int step = 0; step < 400; ++step) act();
    for (const StreamId id : ids_) answers_.emplace(id, 200);
    for (int i = 0; i < 80; ++i) {
      for (const StreamId id : ids_) consume_all(id);
      pump(client, to_server_, server, SIZE_MAX);
      pump(server, to_client_, client, SIZE_MAX);
    }
    check();
    return "client\n" + client.story() + "server\n" + server.story();
  }
  End client{Role::kClient};
  End server{Role::kServer};

 private:
  using Key = std::pair<StreamId, bool>;  // a direction: true: from the client

  // Every byte is where it was to go, whatever an unmoved run did.
  void check() {
    for (const StreamId id : ids_) {
      if (client.broken.contains(id)) continue;
      for (const bool from_client : {true, false}) {
        const End& to = from_client ? server : client;
        const Key key{id, from_client};
        EXPECT_TRUE(to.streams.at(id).data == unsent_[key]) << id;
        EXPECT_EQ(to.streams.at(id).ended, finished_.contains(key)) << id;
      }
    }
  }
  unsigned draw(unsigned below) { return static_cast<unsigned>(script_() % below); }

  void act() {
    switch (draw(12)) {
      case 0:
      case 1: open(); break;
      case 2: answer(draw(5) == 0 ? 503 : 200); break;
      case 3:
      case 4:
      case 5: say(); break;
      case 6: finish(); break;
      case 7:
        if (draw(4) == 0) give_up();
        break;
      case 8:
        if (draw(4) == 0) (draw(2) == 0 ? client : server).connection->ping(draw(1000));
        break;
      case 9: {
        const StreamId id = any();
        if (id != 0) consume_all(id);
        break;
      }
      case 10: pump(client, to_server_, server, draw(3000)); break;
      case 11: pump(server, to_client_, client, draw(3000)); break;
      default: break;
    }
  }
  StreamId any() { return ids_.empty() ? 0 : ids_[draw(static_cast<unsigned>(ids_.size()))]; }
  void open() {
    const StreamId id = static_cast<StreamId>(2 * ids_.size() + 1);
    const std::string authority = fmt::format("10.0.{}.{}:80", draw(3), draw(200));
    const std::string forwarded = fmt::format("for=\"10.1.1.{}:{}\"", draw(5), draw(60000));
    if (ids_.size() >= 60) return;
    ASSERT_EQ(*client.connection->open({authority, forwarded, "", ""}, client.stream(id)), id);
    ids_.push_back(id);
  }
  // In both worlds the same ones: the script does not know what has arrived.
  void answer(int status) {
    const StreamId id = any();
    if (id == 0) return;
    const bool first = answers_.emplace(id, status).second;
    if (first && status != 200) break_off(id);
    give_answers();
  }
  void break_off(StreamId id) {
    client.broken.insert(id);
    server.broken.insert(id);
  }
  void give_answers() {
    for (const auto& [id, status] : answers_) {
      if (server.unanswered.erase(id) != 0) server.connection->respond(id, status);
    }
  }
  void say() {
    const StreamId id = any();
    if (id == 0) return;
    const Key key{id, draw(2) == 0};
    if (finished_.contains(key)) return;
    const size_t bytes = draw(10) == 0 ? draw(400000) : draw(2000);
    for (size_t i = 0; i < bytes; i += 4) unsent_[key] += fmt::format("{:04x}", draw(65536));
    write(key);
  }
  void finish() {
    const StreamId id = any();
    if (id != 0) finished_.insert({id, draw(2) == 0});
  }
  void give_up() {
    const StreamId id = any();
    const bool by_client = draw(2) == 0;
    if (id % 8 != 3) return;
    break_off(id);
    (by_client ? client : server).connection->reset(id, ErrorCode::kCancel);
  }
  void consume_all(StreamId id) {
    for (End* end : {&client, &server}) {
      const auto found = end->streams.find(id);
      if (found == end->streams.end() || found->second.auto_consume) continue;
      size_t& told = consumed_[{id, end == &client}];
      end->connection->consume(id, found->second.data.size() - told);
      told = found->second.data.size();
    }
  }
  void write(const Key& key) {
    Connection& connection = *(key.second ? client : server).connection;
    const std::string& text = unsent_[key];
    size_t& written = written_[key];
    while (written < text.size()) {
      const size_t room = std::min(connection.writable(key.first), text.size() - written);
      if (room == 0) return;
      const auto into = connection.prepare_data(key.first, room);
      std::copy_n(text.begin() + static_cast<ptrdiff_t>(written), room, into.begin());
      connection.commit_data(key.first, room, false);
      written += room;
    }
    const bool ready = key.second || server.streams.contains(key.first);
    if (ready && finished_.contains(key) && !ended_.contains(key) && connection.writable(key.first) > 0) {
      ended_.insert(key);
      connection.end(key.first);
    }
  }
  // Seals what `from` has to say, carries at most `bytes` of the wire, and cuts where chance wants it.
  void pump(End& from, Buffer& wire, End& to, size_t bytes) {
    for (const StreamId id : ids_) write({id, &from == &client});
    wire.append(from.connection->output().span());
    from.connection->output().clear();
    from.connection->output_drained();
    bytes = std::min(bytes, wire.size());
    while (bytes > 0) {
      const size_t piece = std::min<size_t>(bytes, 1 + cuts_() % 5000);
      const auto received = to.connection->receive(wire.span().first(piece));
      ASSERT_TRUE(received.has_value()) << received.error().text();
      to.connection->settle();
      wire.consume(piece);
      bytes -= piece;
      if (static_cast<int>(cuts_() % 100) < moves_) to.move();
      if (static_cast<int>(cuts_() % 100) < moves_) from.move();
    }
    give_answers();
  }

  std::minstd_rand script_, cuts_;
  int moves_;
  std::vector<StreamId> ids_;
  std::map<StreamId, int> answers_;
  std::map<Key, std::string> unsent_;
  std::map<Key, size_t> written_, consumed_;
  std::set<Key> finished_, ended_;
  Buffer to_server_, to_client_;
};

TEST(MovedConnection, SaysAndHearsWhatAnUnmovedOneDoes) {
  int moves = 0;
  size_t bytes = 0;
  for (unsigned seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    const std::string expected = Conversation(seed, 0).run();
    Conversation moved(seed, 20);
    ASSERT_TRUE(moved.run() == expected);
    moves += moved.client.moves + moved.server.moves;
    for (const auto& [id, recorder] : moved.server.streams) bytes += recorder.data.size();
  }
  EXPECT_GT(moves, 1000);
  EXPECT_GT(bytes, 1000000u);
}

// ---- small things that a conversation seldom shows

TEST(MovedConnection, TheirDecoderIsInStepWithTheNewEncoder) {
  for (const uint32_t limit : {0u, 100u, 4096u, 70000u}) {
    SCOPED_TRACE(limit);
    HeaderEncoder before;
    HeaderDecoder decoder;
    before.limit_table(limit);
    const ConnectRequest request{"10.0.0.1:80", "for=\"1.2.3.4:5\"", "k=v", ""};
    HeaderEncoder after;
    after.begin_anew(before.table_limit());
    size_t first = 0, last = 0;
    for (HeaderEncoder* encoder : {&before, &before, &after, &after}) {
      Buffer block;
      ASSERT_TRUE(encoder->request(request, block).has_value());
      if (first == 0) first = block.size();
      last = block.size();
      const auto list = decoder.decode(block.span());
      ASSERT_TRUE(list.has_value()) << list.error().text();
      EXPECT_EQ(list->authority, request.authority);
      EXPECT_EQ(list->request.baggage, request.baggage);
    }
    if (limit >= 4096) EXPECT_LT(last, first / 2) << "the table is used again";
  }
}

TEST(MovedConnection, AFullTableMovesWithItsLimit) {
  HeaderEncoder encoder;
  HeaderDecoder decoder;
  const auto say = [&](int i) {
    Buffer block;
    EXPECT_TRUE(encoder.request({fmt::format("10.0.0.1:{}", i), std::string(200, 'f'), "", ""}, block));
    return block;
  };
  for (int i = 0; i < 300; ++i) {
    if (i == 200) encoder.limit_table(700);
    ASSERT_TRUE(decoder.decode(say(i).span()).has_value());
    if (i % 7 != 0) continue;
    const TableState table = decoder.table();
    HeaderDecoder next;
    ASSERT_TRUE(next.resume(table).has_value());
    EXPECT_EQ(next.table().limit, i < 200 ? 4096u : 700u);
    ASSERT_EQ(next.table().fields.size(), table.fields.size());
    const auto list = next.decode(say(i).span());  // by reference
    ASSERT_TRUE(list.has_value());
    EXPECT_EQ(list->authority, fmt::format("10.0.0.1:{}", i));
    (void)decoder.decode(say(i).span());  // ignoring: only to stay in step
  }
}

TEST(MovedConnection, HeldBackStreamsKeepTheirOrder) {
  Settings tight;
  tight.initial_window = 1000;
  End client(Role::kClient);
  End server(Role::kServer, tight);
  for (const StreamId id : {1u, 3u, 5u}) {
    ASSERT_TRUE(client.connection->open({"10.0.0.1:80", "", "", ""}, client.stream(id)).has_value());
  }
  ASSERT_TRUE(client.connection->receive(server.connection->output().span()).has_value());
  (void)client.connection->prepare_data(1, kMaxOutput);
  client.connection->output().commit(kMaxOutput);
  for (const StreamId id : {5u, 1u, 3u}) EXPECT_EQ(client.connection->writable(id), 0u);
  client.move();
  std::vector<StreamId> order;
  for (const StreamState& stream : client.connection->state().streams) order.push_back(stream.id);
  EXPECT_EQ(order, (std::vector<StreamId>{5, 1, 3}));
}

// ---- hostile bytes

Buffer a_state() {
  Buffer wire = everything_a_client_says();
  End server(Role::kServer);
  EXPECT_TRUE(server.connection->receive(wire.span().first(wire.size() - 60)).has_value());
  server.connection->settle();
  Buffer bytes;
  encode(server.connection->state(), bytes);
  return bytes;
}

TEST(ConnectionStateBytes, CutShortOrTooLongAreRefused) {
  Buffer bytes = a_state();
  ASSERT_TRUE(decode(bytes.span()).has_value());
  for (size_t length = 0; length < bytes.size(); ++length)
    ASSERT_FALSE(decode(bytes.span().first(length)).has_value()) << length;
  bytes.append("x");
  EXPECT_FALSE(decode(bytes.span()).has_value());
}

TEST(ConnectionStateBytes, WhateverIsTakenCanGoOn) {
  const Buffer good = a_state();
  std::minstd_rand random{3};
  int taken = 0;
  for (int i = 0; i < 20000; ++i) {
    Buffer bytes;
    bytes.append(good.span());
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips)
      bytes.span()[random() % bytes.size()] = static_cast<uint8_t>(random());
    auto state = decode(bytes.span());
    if (!state) continue;
    End end(state->role);
    std::vector<StreamId> ids;
    for (const StreamState& stream : state->streams) ids.push_back(stream.id);
    if (!end.connection->resume(std::move(*state))) continue;
    ++taken;
    for (const StreamId id : ids) end.connection->attach(id, end.stream(id));
    Buffer noise;
    for (int j = 0; j < 200; ++j) noise.append(std::string(1, static_cast<char>(random() % 12)));
    (void)end.connection->receive(noise.span());  // ignoring: what it says of noise is its business
    end.connection->settle();
    for (const StreamId id : ids) end.connection->reset(id, ErrorCode::kCancel);
  }
  EXPECT_GT(taken, 100);
}

TEST(ConnectionStateBytes, AnotherRoleIsRefused) {
  const Buffer bytes = a_state();
  auto state = decode(bytes.span());
  ASSERT_TRUE(state.has_value());
  End client(Role::kClient);
  EXPECT_FALSE(client.connection->resume(std::move(*state)).has_value());
}

}  // namespace
}  // namespace fairlead::hbone
