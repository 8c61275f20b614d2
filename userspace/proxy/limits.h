// Every maximum and deadline of the proxy, by name.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace fairlead::proxy {

constexpr size_t kMaxAcceptsPerEvent = 64;
constexpr size_t kReadChunk = 64 * 1024;    // one recv() of an application's or a tunnel's socket
constexpr int kMaxReadsPerEvent = 8;        // then other connections have their turn
constexpr size_t kPipeSize = 256 * 1024;    // wished for, of each pipe that bulk goes through
constexpr size_t kSpliceWorth = 16 * 1024;  // less than this is copied
constexpr int kCopiesBetween = 16;          // of a stream whose last splice was not worth it
constexpr size_t kMaxTunnelsPerKey = 64;
constexpr size_t kMaxStreamsPerTunnel = 256;       // fewer when the peer says so
constexpr int kMaxEndpointTries = 3;               // of a Service, for one connection
constexpr size_t kMaxSuspects = 64;                // remembered per pod
constexpr size_t kMaxDiscarded = 8 * 1024 * 1024;  // read and dropped of a peer that was given up
constexpr int kMaxRefusedTries = 4;  // a stream the peer has refused unseen (RFC 9113 §8.7) is tried anew
constexpr size_t kMaxEarlyBytes = 16 * 1024;      // sent behind a CONNECT that is not answered yet
constexpr size_t kMaxFirstBytes = 16 * 1024;      // kept while the first bytes are classified
constexpr size_t kMaxHandshakeBytes = 64 * 1024;  // received in one handshake
constexpr size_t kMaxHandshakesPerSource = 64;    // under way at once, from one address to this worker's pods
constexpr size_t kMaxHandshakes = 2048;           // the same, from everywhere
constexpr size_t kMaxTunnelsPerSource = 512;      // that one address opened to this worker's pods
constexpr size_t kMaxInboundTunnels = 16384;
constexpr size_t kSocketStockLow = 12;  // ask the keeper for more below this
// Per worker, fewer where file descriptors are; beyond, new ones are reset.
constexpr size_t kMaxConnections = 200000;
constexpr size_t kReservedFds = 1024;             // of the process, for everything but connections
constexpr size_t kMaxDecisions = 512;             // remembered per worker
constexpr size_t kMaxRefusalsPerSecond = 20;      // of these, connections that could not be made
constexpr size_t kMaxRefusalDetail = 256;         // bytes
constexpr size_t kMaxReportedConnections = 2000;  // by one worker in one breath: 0.1 ms
constexpr size_t kMaxRelayBacklog = 256 * 1024;   // plaintext relay: bytes kept for a slow reader

constexpr std::chrono::milliseconds kFirstBytesDeadline{500};
constexpr std::chrono::seconds kHandshakeDeadline{10};
constexpr std::chrono::seconds kConnectDeadline{5};
constexpr std::chrono::seconds kIdentityDeadline{10};  // own workload and certificate at start
// Another endpoint is tried no later than this after the first.
constexpr std::chrono::seconds kRetryFor{8};
constexpr std::chrono::seconds kSuspectFor{3};  // an endpoint that gave no tunnel is tried last
constexpr std::chrono::seconds kSocketDeadline{5};
constexpr std::chrono::seconds kResponseDeadline{15};  // CONNECT answered
// A silent peer is given up. TCP counts from its first retransmission, up to 3 s after the data was sent:
// with those a dead peer is noticed within 10 s.
constexpr std::chrono::seconds kDeadPeer{5};
// A peer that has streams and says nothing this long is asked whether it lives, and has that long to answer.
constexpr std::chrono::seconds kQuietPeer{10};
constexpr std::chrono::seconds kPongDeadline{10};
constexpr std::chrono::seconds kHeardLately{1};           // a tunnel that is trusted with early bytes
constexpr std::chrono::minutes kTunnelIdle{5};            // without a stream, on the side that opened it
constexpr std::chrono::minutes kInboundTunnelIdle{15};    // on the other: that peer should have closed it
constexpr std::chrono::seconds kLinger{2};                // a peer that was given up has read why
constexpr std::chrono::milliseconds kFarewellLook{5};     // whether the kernel has sent the last record
constexpr std::chrono::seconds kPeerCalm{10};             // frames and resets of a peer are counted anew
constexpr std::chrono::milliseconds kAcceptBackOff{100};  // after EMFILE and the like
// A hand-over, as the old proxy and as the successor: shorter than the keepers' patience
// (keeper/hand_over_limits.h), so that they hear of it.
constexpr std::chrono::seconds kFreezeWait{2};     // for what is open and cannot be moved
constexpr std::chrono::seconds kMoveDeadline{5};   // until Commit
constexpr std::chrono::seconds kTakenDeadline{2};  // behind it, for the answer

constexpr uint16_t kHbonePort = 15008;

}  // namespace fairlead::proxy
