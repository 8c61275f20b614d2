#include "hbone/connection.h"

#include <gtest/gtest.h>

#include <random>

#include "unit/hbone/sides_for_test.h"

namespace fairlead::hbone {
namespace {

class Pair : public ::testing::Test {
 protected:
  explicit Pair(Settings settings = {})
      : client(Connection::Role::kClient, settings), server(Connection::Role::kServer, settings) {}

  // Moves everything both ways until nothing moves, in pieces of a random size.
  void exchange() {
    for (bool moved = true; moved;) {
      moved = carry(client, server);
      moved = carry(server, client) || moved;
    }
  }
  bool carry(Side& from, Side& to) {
    Buffer bytes;
    bytes.swap(from.connection.output());
    const bool any = !bytes.empty();
    while (!bytes.empty()) {
      const size_t piece = std::min<size_t>(bytes.size(), 1 + random() % (chop ? 700 : 100000));
      const auto result = to.connection.receive(bytes.span().first(piece));
      if (!result) last_error = result.error().text();
      if (random() % 3 == 0) to.connection.settle();
      bytes.consume(piece);
    }
    to.connection.settle();
    from.connection.output_drained();
    return any;
  }
  Recorder& open(const std::string& authority = "10.0.0.1:80") {
    recorders.push_back(std::make_unique<Recorder>());
    Recorder& stream = *recorders.back();
    const auto id = client.connection.open({authority, "for=\"1.2.3.4:5\"", "", ""}, stream);
    EXPECT_TRUE(id);
    stream.connection = &client.connection;
    stream.id = id ? *id : 0;
    return stream;
  }
  Recorder& accepted(Recorder& stream) {
    exchange();
    server.connection.respond(stream.id, 200);
    exchange();
    return server.streams.at(stream.id);
  }
  static size_t write(Connection& connection, StreamId id, std::string_view text) {
    size_t written = 0;
    while (written < text.size()) {
      const size_t room = std::min(connection.writable(id), text.size() - written);
      if (room == 0) break;
      auto into = connection.prepare_data(id, room);
      std::copy_n(text.begin() + static_cast<ptrdiff_t>(written), room, into.begin());
      connection.commit_data(id, room, false);
      written += room;
    }
    return written;
  }

  std::minstd_rand random{7};
  bool chop = true;
  std::string last_error;
  std::vector<std::unique_ptr<Recorder>> recorders;
  Side client;
  Side server;
};

TEST_F(Pair, ConnectCarriesItsHeadersAndIsAnswered) {
  Recorder& stream = open("[fd00::1]:8080");
  accepted(stream);
  ASSERT_EQ(server.requests.size(), 1u);
  EXPECT_EQ(server.requests[0].authority, "[fd00::1]:8080");
  EXPECT_EQ(server.requests[0].forwarded, "for=\"1.2.3.4:5\"");
  EXPECT_EQ(stream.status, 200);
}

TEST_F(Pair, DataGoesBothWaysAndHalfCloses) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  EXPECT_EQ(write(client.connection, stream.id, "hello"), 5u);
  client.connection.end(stream.id);
  exchange();
  EXPECT_EQ(other.data, "hello");
  EXPECT_TRUE(other.ended);
  EXPECT_FALSE(stream.ended);
  EXPECT_EQ(write(server.connection, stream.id, "late answer"), 11u);
  server.connection.end(stream.id);
  exchange();
  EXPECT_EQ(stream.data, "late answer");
  EXPECT_TRUE(stream.ended);
  EXPECT_EQ(client.connection.open_streams(), 0u);
  EXPECT_EQ(server.connection.open_streams(), 0u);
  EXPECT_EQ(server.closed, std::vector<StreamId>{stream.id});
}

TEST_F(Pair, NothingIsWritableBeforeTheAnswerOnTheServerAndAfterTheEnd) {
  Recorder& stream = open();
  exchange();
  EXPECT_EQ(server.connection.writable(stream.id), 0u);
  server.connection.respond(stream.id, 200);
  EXPECT_GT(server.connection.writable(stream.id), 0u);
  server.connection.end(stream.id);
  EXPECT_EQ(server.connection.writable(stream.id), 0u);
}

TEST_F(Pair, ARefusalEndsTheStream) {
  Recorder& stream = open();
  exchange();
  server.connection.respond(stream.id, 401);
  exchange();
  EXPECT_EQ(stream.status, 401);
  EXPECT_EQ(client.connection.open_streams(), 0u) << "the RST_STREAM behind the answer ends it";
  EXPECT_EQ(server.connection.open_streams(), 0u);
}

TEST_F(Pair, ASlowReaderStopsItsOwnStreamAtItsWindowAndNobodyElse) {
  server.auto_consume = false;
  Recorder& slow = open();
  Recorder& slow_end = accepted(slow);
  server.auto_consume = true;
  Recorder& fast = open();
  Recorder& fast_end = accepted(fast);
  const std::string megabyte(1 << 20, 'x');
  size_t sent = 0;
  for (int round = 0; round < 20; ++round) {
    sent += write(client.connection, slow.id, megabyte);
    exchange();
  }
  EXPECT_EQ(sent, Settings{}.initial_window);
  EXPECT_EQ(slow_end.data.size(), sent);
  size_t through = 0;
  for (int round = 0; round < 40 && through < megabyte.size(); ++round) {
    through += write(client.connection, fast.id, std::string_view(megabyte).substr(through));
    exchange();
  }
  EXPECT_EQ(fast_end.data.size(), megabyte.size());
  slow_end.connection->consume(slow.id, slow_end.data.size());
  exchange();
  EXPECT_GT(slow.writable, 0) << "credit wakes the writer";
  EXPECT_GT(client.connection.writable(slow.id), 0u);
}

TEST_F(Pair, AWindowGrowsWhileItsReaderKeepsUp) {
  chop = false;
  Recorder& stream = open();
  Recorder& end = accepted(stream);
  const std::string chunk(128 * 1024, 'y');
  for (int round = 0; round < 200; ++round) {
    write(client.connection, stream.id, chunk);
    exchange();
  }
  end.auto_consume = false;
  size_t burst = 0;
  for (int round = 0; round < 200; ++round) {
    burst += write(client.connection, stream.id, chunk);
    exchange();
  }
  EXPECT_GT(burst, 4u * Settings{}.initial_window);
  EXPECT_LE(burst, Settings{}.max_window);
}

TEST_F(Pair, OutputIsBoundedWhileTheSocketIsFull) {
  Recorder& stream = open();
  accepted(stream);
  const std::string big(8 << 20, 'z');
  write(client.connection, stream.id, big);
  EXPECT_LE(client.connection.output().size(), kMaxOutput + (1 << 20));
  EXPECT_EQ(client.connection.writable(stream.id), 0u);
  exchange();
  EXPECT_GT(stream.writable, 0);
}

TEST_F(Pair, AResetReachesTheOtherSide) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  client.connection.reset(stream.id, ErrorCode::kCancel);
  exchange();
  EXPECT_EQ(other.reset, static_cast<int>(ErrorCode::kCancel));
  EXPECT_EQ(server.connection.open_streams(), 0u);
}

TEST_F(Pair, GoawayLetsOpenStreamsGoOnAndTakesNoNewOnes) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  server.connection.goaway(ErrorCode::kNoError);
  exchange();
  EXPECT_EQ(client.goaway, 0);
  Recorder late;
  EXPECT_FALSE(client.connection.open({"10.0.0.1:80", "", "", ""}, late));
  write(client.connection, stream.id, "still here");
  exchange();
  EXPECT_EQ(other.data, "still here");
}

TEST_F(Pair, StreamsAboveGoawaysLastIdAreRefusedAndSafeToRetry) {
  Recorder& first = open();
  accepted(first);
  server.connection.goaway(ErrorCode::kInternalError);
  Recorder& second = open();  // crosses the GOAWAY on the wire
  exchange();
  EXPECT_EQ(second.reset, static_cast<int>(ErrorCode::kRefusedStream));
  EXPECT_EQ(first.reset, -1);
}

TEST_F(Pair, TheServersLimitOfStreamsIsKept) {
  for (size_t i = 0; i < kStreamsBeforeSettings; ++i) open();
  exchange();
  EXPECT_EQ(client.connection.stream_limit(), Settings{}.max_concurrent_streams);
  while (client.connection.open_streams() < client.connection.stream_limit()) open();
  Recorder one_more;
  EXPECT_FALSE(client.connection.open({"10.0.0.1:80", "", "", ""}, one_more));
}

TEST_F(Pair, AbortTellsEveryStreamAndWritesNothing) {
  Recorder& stream = open();
  accepted(stream);
  client.connection.output().clear();
  client.connection.abort();
  EXPECT_NE(stream.reset, -1);
  EXPECT_TRUE(client.connection.output().empty());
  EXPECT_EQ(client.connection.open_streams(), 0u);
}

TEST_F(Pair, AStreamThatIsHeldBackIsWokenOnceHoweverOftenItAsked) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  other.auto_consume = false;
  const std::string much(1 << 20, 'x');
  const auto use_up = [&] {
    while (write(client.connection, stream.id, much) > 0) exchange();
  };
  use_up();
  ASSERT_EQ(client.connection.writable(stream.id), 0u) << "its window is used up";
  for (int i = 0; i < 100; ++i) {  // credit comes, is used up, and it asks again
    other.connection->consume(stream.id, 200 * 1024);
    exchange();
    use_up();
  }
  stream.asks_again = true;
  stream.writable = 0;
  client.connection.output_drained();
  EXPECT_LE(stream.writable, 1);
}

TEST_F(Pair, AStreamThatMovedMuchIsBulkUntilItIsOver) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  const std::string half(600 * 1024, 'x');
  const auto move = [&](Connection& from, StreamId id) {
    for (size_t done = 0; done < half.size(); exchange())
      done += write(from, id, std::string_view(half).substr(done));
  };
  move(client.connection, stream.id);
  EXPECT_FALSE(client.connection.carries_bulk());
  move(server.connection, stream.id);  // both directions count
  EXPECT_TRUE(client.connection.carries_bulk());
  EXPECT_TRUE(server.connection.carries_bulk());
  EXPECT_EQ(other.data.size() + stream.data.size(), 2 * half.size());
  client.connection.end(stream.id);
  server.connection.end(stream.id);
  exchange();
  EXPECT_FALSE(client.connection.carries_bulk());
  EXPECT_FALSE(server.connection.carries_bulk());
}

TEST_F(Pair, PayloadThatCameInARowIsHandedOnTogether) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  Recorder& second = open();
  Recorder& second_there = accepted(second);
  const int before = other.batches;
  for (const char* text : {"one ", "two ", "three"}) write(client.connection, stream.id, text);
  write(client.connection, second.id, "between");
  client.connection.end(stream.id);
  Buffer bytes;
  bytes.swap(client.connection.output());
  ASSERT_TRUE(server.connection.receive(bytes.span()));
  EXPECT_EQ(other.batches, before + 1) << "another stream's payload ends the row";
  EXPECT_TRUE(other.ended) << "END_STREAM does not wait";
  EXPECT_EQ(second_there.data, "");
  server.connection.settle();
  EXPECT_EQ(other.data, "one two three");
  EXPECT_EQ(second_there.data, "between");
}

TEST_F(Pair, PayloadOfAStreamThatIsResetIsDropped) {
  Recorder& stream = open();
  Recorder& other = accepted(stream);
  write(client.connection, stream.id, "lost");
  client.connection.reset(stream.id, ErrorCode::kCancel);
  exchange();
  EXPECT_EQ(other.data, "");
  EXPECT_EQ(other.reset, static_cast<int>(ErrorCode::kCancel));
}

TEST_F(Pair, RandomTrafficArrivesWholeOnEveryStream) {
  struct Flow {
    Recorder* here;
    Recorder* there;
    std::string sent, sent_back;
    bool ended = false, ended_back = false;
  };
  std::vector<Flow> flows;
  for (int i = 0; i < 12; ++i) {
    Recorder& stream = open();
    flows.push_back({&stream, &accepted(stream), {}, {}});
  }
  for (int step = 0; step < 3000; ++step) {
    Flow& flow = flows[random() % flows.size()];
    const std::string text(random() % 30000, static_cast<char>('a' + random() % 26));
    if (random() % 2 == 0 && !flow.ended) {
      flow.sent.append(text, 0, write(client.connection, flow.here->id, text));
    } else if (!flow.ended_back) {
      flow.sent_back.append(text, 0, write(server.connection, flow.here->id, text));
    }
    if (step > 2500 && random() % 20 == 0 && !flow.ended) {
      client.connection.end(flow.here->id);
      flow.ended = true;
    }
    if (step > 2500 && random() % 20 == 0 && !flow.ended_back) {
      server.connection.end(flow.here->id);
      flow.ended_back = true;
    }
    if (random() % 4 == 0) exchange();
  }
  exchange();
  EXPECT_EQ(last_error, "");
  for (const Flow& flow : flows) {
    EXPECT_EQ(flow.there->data, flow.sent);
    EXPECT_EQ(flow.here->data, flow.sent_back);
    EXPECT_EQ(flow.there->ended, flow.ended);
    EXPECT_EQ(flow.here->ended, flow.ended_back);
  }
}

TEST_F(Pair, AServerLeavesInTwoStepsAndLosesNoStreamThatWasOnItsWay) {
  Recorder& first = open();
  accepted(first);
  server.connection.goaway(ErrorCode::kNoError);
  Recorder& second = open();  // crosses the announcement on the wire
  exchange();
  EXPECT_EQ(second.reset, -1);
  ASSERT_EQ(server.requests.size(), 2u) << "it is served";
  client.connection.end(first.id);
  server.connection.end(first.id);
  exchange();
  EXPECT_FALSE(server.connection.drained()) << "one is open";
  server.connection.respond(second.id, 200);
  client.connection.end(second.id);
  server.connection.end(second.id);
  exchange();
  EXPECT_TRUE(server.connection.drained());
  EXPECT_TRUE(client.connection.drained());
}

}  // namespace
}  // namespace fairlead::hbone
