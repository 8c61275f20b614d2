// What of each object of a worker moves to a successor, as values: an object gives its own by state() and is
// made from one by resume(). Sockets are duplicates. Times are relative: those of the successor begin anew.
// moving_codec.h makes parcels of them. Pure; no object refers to another.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/net_types.h"
#include "base/spiffe_id.h"
#include "base/unique_fd.h"
#include "contract/keeper_proxy.h"
#include "event/timer_wheel.h"
#include "hbone/state.h"
#include "tls/record.h"

namespace fairlead::proxy {

// net::Pipe: bytes on their way past user space. An empty one does not move.
struct PipeState {
  UniqueFd read_end;
  UniqueFd write_end;
  uint64_t holds = 0;
};

// RecordSocket. Where a direction's records are made (RecordSocket::Place): one that the successor does not
// know is refused. What the kernel knows of a direction stays with the socket.
struct RecordSocketState {
  UniqueFd fd;
  uint8_t transmits = 0;
  uint8_t receives = 0;
  tls::RecordState seal;  // of it, suite, secret and sequence number move
  tls::RecordState open;
  uint64_t sealed_records = 0;
  tls::RecordOpener::Progress opened;
  Buffer received;
  Buffer sealed;
  uint64_t sent_at_most = 0;
  uint8_t type = 0;  // tls::ContentType of `received`, where the kernel receives
  bool pending_record = false;
  bool owes_update = false;
  bool owes_close = false;
  bool rekeys = false;
  bool worn = false;
};

struct TunnelState {
  SpiffeId peer;
  RecordSocketState records;
  hbone::ConnectionState streams;
  bool asked = false;
  bool peer_closed = false;
  Milliseconds heard_ago{};
  Milliseconds idle_in{};
  Milliseconds quiet_in{};
  Milliseconds calm_in{};
  uint64_t bulk_written = 0;
  uint64_t bulk_read = 0;
  PipeState pipe;
  uint64_t before = 0;
  bool header_next = false;
  bool farewell = false;
  Milliseconds farewell_in{};
};

struct StreamRelayState {
  hbone::StreamId stream = 0;
  bool on_stream = false;  // the stream is not over
  UniqueFd application;    // none yet: invalid
  PipeState pipe;
  Buffer pending;
  Buffer said;
  uint32_t said_again = 0;
  uint64_t sent = 0;
  uint64_t received = 0;
  int32_t status = 0;
  bool relaying = false;
  bool refused = false;
  bool peer_ended = false;
  bool write_side_closed = false;
  bool read_side_closed = false;
};

struct SocketRelayState {
  struct Side {
    UniqueFd fd;
    Buffer backlog;
    uint64_t moved = 0;
    bool ended = false;
    bool shut = false;
  };
  std::array<Side, 2> sides;
  bool guard = false;
};

// The entry of fl_clients that is this connection's: it stays, its owner changes.
struct ClientNameState {
  bool published = false;
  SocketAddress local;
};

// ConnectionRecord, without what its tunnel or its relay know.
struct RecordFacts {
  uint8_t tunnel = 0;  // TunnelKind
  SocketAddress source;
  SocketAddress destination;
  SocketAddress endpoint;
  std::string service;  // full name, empty: none
  std::string peer;     // URI, empty: plaintext
  bool judged = false;
  Milliseconds age{};
};

// How far an outbound connection's set-up has come, for its next try.
struct SetUpState {
  std::vector<SocketAddress> avoid;
  uint32_t tries = 1;
  uint32_t refused = 0;
  Milliseconds give_up_in{};
  Milliseconds tunnel_in{};
  Milliseconds answer_in{};
  // Where CONNECT was sent to; empty: nowhere.
  std::string identity;
  bool in_place = false;
};

// kSettingUp: no CONNECT is out, no byte of the application has gone anywhere; it begins anew. kAsked: the
// answer to CONNECT is waited for, or came and was not acted upon.
enum class Stage : uint8_t { kSettingUp, kAsked, kStream, kSockets };

struct OutboundState {
  Stage stage = Stage::kSettingUp;
  RecordFacts record;
  SocketAddress client;
  UniqueFd application;  // invalid where its relay has it
  Buffer said;
  SetUpState set_up;
  ClientNameState name;
  StreamRelayState relay;    // kAsked, kStream
  SocketRelayState sockets;  // kSockets
};

// kSettingUp: its first bytes are in `received`, nothing was said to it.
struct InboundState {
  Stage stage = Stage::kSettingUp;  // or kSockets
  RecordFacts record;
  SocketAddress peer;
  UniqueFd fd;
  Buffer received;
  ClientNameState name;
  SocketRelayState sockets;
};

// kSettingUp: CONNECT came and was not answered. kStream.
struct InboundStreamState {
  Stage stage = Stage::kSettingUp;
  RecordFacts record;
  hbone::ConnectRequest request;  // kSettingUp
  ClientNameState name;
  StreamRelayState relay;
};

struct OutboundTunnelState {
  SocketAddress address;
  SpiffeId identity;
  bool in_place = false;
  uint32_t peer_limit = UINT32_MAX;
  TunnelState tunnel;
  std::vector<OutboundState> connections;
};

struct InboundTunnelState {
  SocketAddress local;
  SocketAddress peer;
  bool in_place = false;
  TunnelState tunnel;
  std::vector<InboundStreamState> streams;
};

}  // namespace fairlead::proxy
