// What a predecessor sends to its successor: parcels, and the state of an HTTP/2 connection within.
#include <sys/eventfd.h>

#include <algorithm>
#include <map>

#include "fuzz/targets.h"
#include "hbone/state.h"
#include "proxy/moving_codec.h"

namespace fairlead::fuzz {
namespace {

struct Anybody final : hbone::StreamHandler {
  void on_response(int) override {}
  void on_data(hbone::Pieces) override {}
  void on_end() override {}
  void on_reset(hbone::ErrorCode) override {}
  void on_writable() override {}
};

struct Peer final : hbone::ConnectionHandler {
  hbone::StreamHandler* on_connect(hbone::StreamId, const hbone::ConnectRequest&) override {
    return &anybody;
  }
  void on_goaway(hbone::ErrorCode) override {}
  void on_fault(hbone::Fault) override {}
  void on_output() override {}
  void on_stream_closed(hbone::StreamId) override {}
  Anybody anybody;
};

}  // namespace

// First byte: how many file descriptors come with it.
void parcel(Bytes input) {
  if (input.empty()) return;
  proxy::Parcel made;
  for (int i = input[0] % 16; i > 0; --i) made.fds.emplace_back(::eventfd(0, EFD_CLOEXEC));
  made.bytes.append(input.subspan(1));
  const size_t fds = made.fds.size();
  auto moved = proxy::unpack_parcel(std::move(made));
  if (!moved) return;
  const proxy::Parcel again = proxy::pack_parcel(std::move(*moved));
  promise(again.fds.size() == fds, "no file descriptor is lost");
  promise(std::ranges::equal(again.bytes.span(), input.subspan(1)), "what is taken is told the same way");
}

// A state behind its length in two bytes, and what the peer says next.
void http2_state(Bytes input) {
  if (input.size() < 2) return;
  const size_t length = std::min<size_t>(static_cast<size_t>(input[0]) << 8 | input[1], input.size() - 2);
  auto state = hbone::decode(input.subspan(2, length));
  if (!state) return;
  Peer peer;
  hbone::Connection connection(state->role, {}, peer);
  std::vector<hbone::StreamId> streams;
  for (const hbone::StreamState& stream : state->streams) streams.push_back(stream.id);
  if (!connection.resume(std::move(*state))) return;
  for (const hbone::StreamId id : streams) connection.attach(id, peer.anybody);
  promise(connection.open_streams() == streams.size(), "every stream goes on");
  const bool alive = connection.receive(input.subspan(2 + length)).has_value();
  connection.settle();
  if (!alive) promise(connection.open_streams() == 0, "a connection that is over has no stream");
  connection.abort();
}

}  // namespace fairlead::fuzz
