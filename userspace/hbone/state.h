// The state of an HTTP/2 connection as a value: what another process needs to go on in the middle of a frame,
// a header block or a stream, so that the peer sees one conversation (docs/adr/0012-state-that-moves.md).
//
// What a decoder of the peer's has learnt cannot be taken back, so the decoder's table travels. Ours towards
// the peer need not: the encoder begins with an empty table and says so in its next block (RFC 7541 §4.2).
// Pure values; decode() takes hostile bytes and gives only what a Connection can be made from.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "hbone/connection.h"
#include "hbone/frame.h"
#include "hbone/limits.h"

namespace fairlead::hbone {

// What the peer's encoder has put into our table, the oldest first.
struct TableState {
  struct Field {
    std::string name;
    std::string value;
  };
  uint32_t limit = 0;  // as the peer's last size update has it
  std::vector<Field> fields;
};

struct StreamState {
  StreamId id = 0;
  int64_t send_window = 0;
  int64_t receive_window = 0;
  uint32_t window = 0;
  uint32_t unacknowledged = 0;
  uint64_t moved = 0;
  bool local_closed = false;
  bool remote_closed = false;
  bool opened = false;
  bool answered = false;
  bool blocked = false;
};

enum class Reading : uint8_t { kPreface, kHeader, kData, kPayload, kSkipped };
enum class Leaving : uint8_t { kNo, kAnnounced, kSaid };  // GOAWAY: the first step, the last
enum class End : uint8_t { kNotKnown, kInOrder, kByUs, kByPeer };
struct Ended {
  StreamId id = 0;
  End end = End::kNotKnown;
};

struct ConnectionState {
  Connection::Role role = Connection::Role::kClient;
  Settings settings;  // as they were announced
  Buffer output;      // frames that are not sealed yet
  TableState table;
  uint32_t encoder_limit = 0;

  Reading reading = Reading::kHeader;
  std::array<uint8_t, kFrameHeader> header_bytes{};
  uint8_t header_fill = 0;
  uint8_t preface_fill = 0;
  FrameHeader current;
  Buffer payload;
  uint32_t data_left = 0;
  uint8_t padding = 0;
  bool padding_known = false;
  bool data_dropped = false;
  bool first_frame_seen = false;

  Buffer header_block;
  StreamId header_stream = 0;
  bool header_end_stream = false;
  uint8_t continuations = 0;

  std::vector<StreamState> streams;  // those that are held back first, in that order
  StreamId next_local = 1;
  StreamId highest_remote = 0;
  int64_t send_window = 0;
  uint32_t received_since_update = 0;
  uint32_t peer_initial_window = 0;
  uint32_t peer_max_frame = 0;
  uint64_t peer_max_streams = 0;
  uint64_t pongs = 0;
  uint32_t idle_frames = 0;
  uint32_t reset_debt = 0;
  std::array<Ended, kClosedRemembered> ended{};  // the next to be overwritten first
  Leaving leaving = Leaving::kNo;
  bool settings_seen = false;
  bool goaway_received = false;
};

void encode(const ConnectionState& state, Buffer& out);
Result<ConnectionState> decode(std::span<const uint8_t> bytes);

}  // namespace fairlead::hbone
