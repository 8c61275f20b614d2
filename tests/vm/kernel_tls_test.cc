// What the real kernel does with its TLS: the self-test, each trap of splice and close that we must not step
// into, and moves at random points of random conversations.
#include "tls/kernel_tls.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <random>

#include "net/splice.h"
#include "proxy/record_socket.h"

namespace fairlead {
namespace {

using net::IoState;
using proxy::RecordSocket;
using tls::ContentType;
using Event = tls::RecordOpener::Event;

uint8_t octet(uint64_t position) {
  return static_cast<uint8_t>(position * 7 + position / 251);
}

struct Sockets {
  UniqueFd one, other;
};

Sockets connected(int buffer = 0) {
  const auto listener = net::tcp_listener({*IpAddress::parse("127.0.0.1"), 0}, 1);
  Sockets made;
  made.one = std::move(*net::tcp_socket(AF_INET));
  if (buffer > 0) {
    for (const BorrowedFd fd : {BorrowedFd(made.one), BorrowedFd(*listener)})
      for (const int option : {SO_SNDBUF, SO_RCVBUF})
        EXPECT_EQ(::setsockopt(fd.get(), SOL_SOCKET, option, &buffer, sizeof buffer), 0);
  }
  EXPECT_TRUE(net::connect(made.one, *net::local_address(*listener), AF_INET));
  pollfd waiting{listener->get(), POLLIN, 0};
  EXPECT_EQ(::poll(&waiting, 1, 2000), 1);
  made.other = std::move((*net::accept(*listener))->fd);
  return made;
}

tls::TrafficSecret secret(uint8_t seed) {
  tls::TrafficSecret made;
  made.suite = seed % 2 == 0 ? tls::CipherSuite::kAes128GcmSha256 : tls::CipherSuite::kAes256GcmSha384;
  made.length = seed % 2 == 0 ? 32 : 48;
  for (size_t i = 0; i < made.length; ++i) made.bytes[i] = static_cast<uint8_t>(seed + i);
  return made;
}

bool ready(BorrowedFd fd, short events, int milliseconds = 2000) {
  pollfd wanted{fd.get(), events, 0};
  return ::poll(&wanted, 1, milliseconds) == 1;
}

// The kernel transmits to `user`, which opens what comes.
struct KernelSender {
  explicit KernelSender(int buffer = 0) : sockets(connected(buffer)) {
    EXPECT_TRUE(kernel.prepare(sockets.one));
    EXPECT_TRUE(
        kernel.hand_over(sockets.one, tls::Direction::kTransmit, tls::RecordSealer::create(key)->state()));
  }
  // All plaintext that comes within `milliseconds` of silence.
  std::vector<uint8_t> opened(int milliseconds = 500) {
    std::vector<uint8_t> plain;
    while (ready(sockets.other, POLLIN, milliseconds)) {
      const auto got = net::receive(sockets.other, received.prepare(65536));
      if (!got || got->state != IoState::kDone) break;
      received.commit(got->bytes);
      for (;;) {
        const auto record = opener->open(received.span());
        if (!record || record->event == Event::kNeedMore) break;
        closed = closed || record->event == Event::kClosed;
        plain.insert(plain.end(), record->payload.begin(), record->payload.end());
        received.consume(record->consumed);
        if (closed) return plain;
      }
    }
    return plain;
  }
  tls::TrafficSecret key = secret(1);
  Sockets sockets;
  tls::KernelTls kernel;
  Result<tls::RecordOpener> opener = tls::RecordOpener::create(key);
  Buffer received;
  bool closed = false;
};

TEST(KernelTlsProbe, TheKernelPassesTheSelfTest) {
  const tls::KernelTlsSupport support = tls::probe_kernel_tls();
  EXPECT_TRUE(support.usable()) << support.detail;
}

// With MSG_MORE on the last batch a record stays open, and its peer waits for good.
TEST(KernelTlsTraps, NoNumberOfFullPipeBuffersKeepsATail) {
  for (const int buffers : {1, 15, 16, 17, 31, 32}) {
    KernelSender sender;
    net::Pipe pipe = std::move(*net::Pipe::create(1 << 18));
    const std::array<char, 100> piece{};
    for (int i = 0; i < buffers; ++i) {
      ASSERT_EQ(::write(pipe.write_end().get(), piece.data(), piece.size()), 100);
      pipe.note(piece.size());
    }
    ASSERT_EQ(pipe.drain(sender.sockets.one)->bytes, 100u * static_cast<size_t>(buffers));
    EXPECT_EQ(sender.opened(200).size(), 100u * static_cast<size_t>(buffers)) << buffers << " buffers";
  }
}

TEST(KernelTlsTraps, AHeaderWithMoreBehindItLeavesWithTheRest) {
  KernelSender sender;
  const std::array<uint8_t, 9> header = {1, 2, 3};
  ASSERT_EQ(net::send(sender.sockets.one, std::span<const uint8_t>(header), true)->bytes, 9u);
  net::Pipe pipe = std::move(*net::Pipe::create(1 << 16));
  const std::vector<uint8_t> payload(16 * 1024, 'p');
  ASSERT_EQ(::write(pipe.write_end().get(), payload.data(), payload.size()), 16 * 1024);
  ASSERT_EQ(pipe.note(payload.size()).drain(sender.sockets.one)->bytes, payload.size());
  EXPECT_EQ(sender.opened(200).size(), header.size() + payload.size());
}

// shutdown() and close() drop what the kernel has sealed and not queued: not before all_left().
TEST(KernelTlsTraps, TheLastRecordHasLeftBeforeTheSocketIsClosed) {
  const tls::TrafficSecret key = secret(2);
  Sockets sockets = connected(8 * 1024);
  RecordSocket sender(std::move(sockets.one), *tls::RecordSealer::create(key),
                      *tls::RecordOpener::create(key));
  sender.move_transmit(false);
  size_t taken = 0;
  const std::vector<uint8_t> chunk(16 * 1024, 'x');
  for (int i = 0; i < 64; ++i) {
    const auto now = sender.write(chunk);
    ASSERT_TRUE(now) << now.error().text();
    taken += *now;
    if (*now < chunk.size()) break;
  }
  ASSERT_EQ(sender.transmits(), RecordSocket::Place::kKernel);
  ASSERT_LT(taken, 64 * chunk.size()) << "the socket never filled";
  ASSERT_TRUE(sender.close_notify());
  EXPECT_FALSE(sender.all_left());
  auto opener = tls::RecordOpener::create(key);
  Buffer received;
  size_t opened = 0;
  bool closed = false;
  while (!closed && ready(sockets.other, POLLIN)) {
    const auto got = net::receive(sockets.other, received.prepare(4096).first(4096));
    ASSERT_TRUE(got && got->state == IoState::kDone) << "cut off after " << opened << " of " << taken;
    received.commit(got->bytes);
    while (!closed) {
      const auto record = opener->open(received.span());
      ASSERT_TRUE(record) << record.error().text();
      if (record->event == Event::kNeedMore) break;
      closed = record->event == Event::kClosed;
      opened += record->payload.size();
      received.consume(record->consumed);
    }
    ASSERT_TRUE(sender.flush());
    if (sender.all_left() && sender.fd().get() >= 0) sender.close();
  }
  EXPECT_TRUE(closed);
  EXPECT_EQ(opened, taken);
}

TEST(KernelTlsTraps, ARecordOfAnotherTypeStopsSpliceAndIsTakenByItself) {
  const tls::TrafficSecret key = secret(4);
  Sockets sockets = connected();
  const tls::KernelTls kernel;
  auto sealer = tls::RecordSealer::create(key);
  ASSERT_TRUE(kernel.prepare(sockets.one));
  ASSERT_TRUE(kernel.hand_over(sockets.one, tls::Direction::kReceive, sealer->state()));
  const std::vector<uint8_t> data(5000, 'd');
  const std::array<uint8_t, 4> ticket = {4, 0, 0, 0};
  Buffer wire;
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, data, wire));
  ASSERT_TRUE(sealer->seal(ContentType::kHandshake, ticket, wire));
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, data, wire));
  ASSERT_EQ(net::send(sockets.other, wire.span())->bytes, wire.size());
  ASSERT_TRUE(ready(sockets.one, POLLIN));
  net::Pipe pipe = std::move(*net::Pipe::create(1 << 18));
  EXPECT_EQ(pipe.fill(sockets.one, 1 << 16)->bytes, data.size());
  const auto stopped = pipe.fill(sockets.one, 1 << 16);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code(), EINVAL);
  std::array<uint8_t, 64> room;
  const auto record = kernel.receive(sockets.one, room);
  ASSERT_TRUE(record) << record.error().text();
  EXPECT_EQ(record->type, ContentType::kHandshake);
  EXPECT_EQ(record->bytes, ticket.size());
  EXPECT_EQ(pipe.fill(sockets.one, 1 << 16)->bytes, data.size());
}

TEST(KernelTlsTraps, AForgedRecordIsEbadmsgAndNothingOfItIsGiven) {
  const tls::TrafficSecret key = secret(6);
  Sockets sockets = connected();
  const tls::KernelTls kernel;
  auto sealer = tls::RecordSealer::create(key);
  ASSERT_TRUE(kernel.prepare(sockets.one));
  ASSERT_TRUE(kernel.hand_over(sockets.one, tls::Direction::kReceive, sealer->state()));
  Buffer wire;
  const std::array<uint8_t, 100> data{};
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, data, wire));
  wire.data()[50] ^= 1;
  ASSERT_EQ(net::send(sockets.other, wire.span())->bytes, wire.size());
  ASSERT_TRUE(ready(sockets.one, POLLIN));
  std::array<uint8_t, 256> room;
  const auto got = kernel.receive(sockets.one, room);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code(), EBADMSG);
}

TEST(KernelTlsTraps, AKeyUpdateOfThePeerEndsTheConnectionWhereTheKernelCannotFollow) {
  const tls::TrafficSecret key = secret(8);
  Sockets sockets = connected();
  auto sealer = tls::RecordSealer::create(key);
  RecordSocket receiver(std::move(sockets.one), *tls::RecordSealer::create(secret(10)),
                        *tls::RecordOpener::create(key));
  receiver.move_receive();
  ASSERT_EQ(receiver.read()->state, IoState::kWouldBlock);
  ASSERT_EQ(receiver.receives(), RecordSocket::Place::kKernel);
  Buffer wire;
  const std::array<uint8_t, 3> data = {1, 2, 3};
  ASSERT_TRUE(sealer->update_key(wire));
  ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, data, wire));
  ASSERT_EQ(net::send(sockets.other, wire.span())->bytes, wire.size());
  ASSERT_TRUE(ready(receiver.fd(), POLLIN));
  ASSERT_EQ(receiver.read()->state, IoState::kDone);
  const auto taken = receiver.next();
  if (tls::probe_kernel_tls().rekey) {
    ASSERT_TRUE(taken) << taken.error().text();
    ASSERT_EQ(receiver.read()->state, IoState::kDone);
    EXPECT_EQ(receiver.next()->payload.size(), data.size());
  } else {
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().code(), EBUSY);
  }
}

// ---- moves at random points
// --------------------------------------------------------------------------------------------

// One end: what it has sent and got, by position.
struct End {
  RecordSocket records;
  uint64_t wants_to_send = 0;
  uint64_t sent = 0;
  uint64_t got = 0;
  bool said_close = false;
  bool heard_close = false;

  void say(std::mt19937& random) {
    if (sent == wants_to_send) {
      if (!said_close) ASSERT_TRUE(records.close_notify());
      said_close = true;
      ASSERT_TRUE(records.flush());
      return;
    }
    std::vector<uint8_t> chunk(std::min<uint64_t>(wants_to_send - sent, 1 + random() % 70000));
    for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = octet(sent + i);
    const auto taken = records.write(chunk);
    ASSERT_TRUE(taken) << taken.error().text();
    sent += *taken;
  }

  void hear(std::mt19937& random) {
    const auto got_now = records.read(1 + random() % 65536);
    ASSERT_TRUE(got_now) << got_now.error().text();
    if (got_now->state != IoState::kDone) return;
    for (;;) {
      const auto record = records.next();
      ASSERT_TRUE(record) << record.error().text();
      if (record->event == Event::kNeedMore) return;
      heard_close = heard_close || record->event == Event::kClosed;
      if (heard_close) return;
      for (const uint8_t byte : record->payload) ASSERT_EQ(byte, octet(got++));
    }
  }
};

TEST(KernelTlsMoves, AtAnyPointOfAnyConversationNothingIsLostOrDoubled) {
  for (unsigned seed = 0; seed < 24; ++seed) {
    std::mt19937 random(seed);
    Sockets sockets = connected(seed % 3 == 0 ? 8 * 1024 : 0);
    const auto up = secret(static_cast<uint8_t>(2 * seed)), down = secret(static_cast<uint8_t>(2 * seed + 1));
    std::array<End, 2> ends = {End{RecordSocket(std::move(sockets.one), *tls::RecordSealer::create(up),
                                                *tls::RecordOpener::create(down))},
                               End{RecordSocket(std::move(sockets.other), *tls::RecordSealer::create(down),
                                                *tls::RecordOpener::create(up))}};
    for (End& end : ends) end.wants_to_send = random() % 600000;
    const auto over = [&] { return ends[0].heard_close && ends[1].heard_close; };
    int steps = 0;
    for (; !over() && steps < 200000; ++steps) {
      End& end = ends[random() % 2];
      const unsigned chance = random() % 1000;
      if (chance == 0) end.records.move_transmit(false);
      if (chance == 1) end.records.move_receive();
      if (random() % 2 == 0) {
        end.say(random);
      } else if (!end.heard_close) {
        end.hear(random);
      }
      if (HasFatalFailure()) FAIL() << "seed " << seed;
    }
    ASSERT_TRUE(over()) << "seed " << seed << " stuck at " << ends[0].got << " and " << ends[1].got;
    EXPECT_EQ(ends[0].got, ends[1].wants_to_send) << "seed " << seed;
    EXPECT_EQ(ends[1].got, ends[0].wants_to_send) << "seed " << seed;
  }
}

}  // namespace
}  // namespace fairlead
