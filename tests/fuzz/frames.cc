#include <algorithm>
#include <map>
#include <utility>

#include "fuzz/targets.h"
#include "hbone/connection.h"
#include "hbone/hpack.h"
#include "hbone/limits.h"

namespace fairlead::fuzz {
namespace {

using hbone::Connection;
using hbone::ErrorCode;
using hbone::StreamId;

// Answers, reads, writes and resets as the next byte of the input says.
struct Peer final : hbone::ConnectionHandler {
  struct Stream final : hbone::StreamHandler {
    Stream(Peer& owner, StreamId name) : peer(owner), id(name) {}
    void on_response(int) override {}
    void on_data(hbone::Pieces pieces) override {
      promise(!over, "data behind the end of a stream");
      size_t total = 0;
      for (const auto& piece : pieces) total += piece.size();
      if (peer.choice() % 4 != 0) peer.connection->consume(id, total);
      if (peer.choice() % 32 == 0) peer.connection->reset(id, ErrorCode::kCancel);
    }
    void on_end() override {
      promise(!ended && !over, "two ends of one stream");
      ended = true;
    }
    void on_reset(ErrorCode) override {
      promise(!over, "two resets of one stream");
      over = true;
    }
    void on_writable() override { peer.write(id); }
    Peer& peer;
    StreamId id;
    bool ended = false;
    bool over = false;
  };

  explicit Peer(Bytes decisions) : decisions_(decisions) {}
  hbone::StreamHandler* on_connect(StreamId id, const hbone::ConnectRequest&) override {
    if (choice() % 8 == 0) return nullptr;
    const auto [stream, added] = streams.try_emplace(id, *this, id);
    promise(added, "one stream id used twice");
    waiting = id;
    return &stream->second;
  }
  void on_goaway(ErrorCode) override {}
  void on_fault(hbone::Fault) override {}
  void on_output() override {}
  void on_stream_closed(StreamId) override {}

  void write(StreamId id) {
    const size_t room = std::min<size_t>(connection->writable(id), 100);
    if (room == 0) return;
    (void)connection->prepare_data(id, room);
    connection->commit_data(id, room, choice() % 16 == 0);
  }
  uint8_t choice() {
    if (decisions_.empty()) return 1;
    const uint8_t next = decisions_.front();
    decisions_ = decisions_.subspan(1);
    return next;
  }

  Connection* connection = nullptr;
  std::map<StreamId, Stream> streams;
  StreamId waiting = 0;

 private:
  Bytes decisions_;
};

constexpr std::string_view kHello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr uint8_t kSettings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};

}  // namespace

// First byte: role and how the input is cut; then as many decisions as the second byte says; then the wire.
void frames(Bytes input) {
  if (input.size() < 2) return;
  const bool client = (input[0] & 1) != 0;
  const size_t piece = 1 + (input[0] >> 1);
  const size_t decisions = std::min<size_t>(input[1], input.size() - 2);
  Peer peer(input.subspan(2, decisions));
  Connection connection(client ? Connection::Role::kClient : Connection::Role::kServer, {}, peer);
  peer.connection = &connection;
  if (client) {
    const auto [stream, added] = peer.streams.try_emplace(1, peer, 1);
    promise(connection.open({"10.0.0.1:80", "", "", ""}, stream->second).has_value(),
            "the first stream opens");
  } else {
    promise(connection.receive({reinterpret_cast<const uint8_t*>(kHello.data()), kHello.size()}).has_value(),
            "the preface is accepted");
  }
  bool alive = connection.receive(kSettings).has_value();
  for (Bytes wire = input.subspan(2 + decisions); alive && !wire.empty();) {
    const Bytes part = wire.first(std::min(piece, wire.size()));
    wire = wire.subspan(part.size());
    alive = connection.receive(part).has_value();
    if (peer.waiting != 0)
      connection.respond(std::exchange(peer.waiting, 0), peer.choice() % 4 == 0 ? 503 : 200);
    if (peer.choice() % 2 == 0) connection.settle();
    if (peer.choice() % 8 == 0) connection.output().clear(), connection.output_drained();
    promise(connection.output().size() <= 2 * hbone::kMaxOutputHard, "the output is bounded");
  }
  connection.settle();
  if (!alive) promise(connection.open_streams() == 0, "a connection that is over has no stream");
  connection.abort();
}

void hpack(Bytes input) {
  hbone::HeaderDecoder decoder;
  while (!input.empty()) {  // several blocks: the table lives on
    const size_t size = std::min<size_t>(input[0], input.size() - 1);
    const auto list = decoder.decode(input.subspan(1, size));
    input = input.subspan(1 + size);
    if (!list) return;
    promise(list->authority.size() <= hbone::kMaxHeaderList, "decoded headers are bounded");
  }
}

}  // namespace fairlead::fuzz
