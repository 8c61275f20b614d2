// What TLS costs here. Prints numbers and asserts none: run by hand with
//   test_tls --gtest_also_run_disabled_tests --gtest_filter='*TlsBench*'
#include <malloc.h>
#include <time.h>

#include <cstdio>

#include "unit/tls/pair.h"

namespace fairlead::tls {
namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

TrafficSecret any_secret() {
  TrafficSecret secret;
  secret.length = 32;
  secret.bytes[0] = 1;
  return secret;
}

TEST(DISABLED_TlsBench, Records) {
  for (size_t size : {size_t{64}, size_t{1024}, kMaxPlaintext}) {
    const int rounds = size > 4096 ? 20000 : 200000;
    auto sealer = RecordSealer::create(any_secret());
    auto opener = RecordOpener::create(any_secret());
    const std::vector<uint8_t> plaintext(size, 'x');
    Buffer wire;
    double sealing = 0, opening = 0;
    for (int i = 0; i < rounds; i += 100) {
      const double start = cpu_seconds();
      for (int k = 0; k < 100; ++k) ASSERT_TRUE(sealer->seal(ContentType::kApplicationData, plaintext, wire));
      const double middle = cpu_seconds();
      while (!wire.empty()) wire.consume(opener->open(wire.span())->consumed);
      const double end = cpu_seconds();
      sealing += middle - start;
      opening += end - middle;
    }
    std::printf("record of %5zu: seal %6.0f ns, open %6.0f ns\n", size, sealing / rounds * 1e9,
                opening / rounds * 1e9);
  }
}

struct Sides {
  double client = 0;
  double server = 0;
};

// One handshake; the CPU of each side is added.
std::pair<Established, Established> timed_handshake(
    const std::shared_ptr<const Credentials>& client_credentials,
    const std::shared_ptr<const Credentials>& server_credentials, Sides& cpu) {
  Buffer hello, flight, answer, none;
  const double t0 = cpu_seconds();
  auto client = std::move(*Handshake::client(client_credentials, {id_of(kServerUri)}, true));
  (void)client->start(hello);
  const double t1 = cpu_seconds();
  auto server = std::move(*Handshake::server(server_credentials));
  (void)server->advance(hello.span(), flight);
  const double t2 = cpu_seconds();
  (void)client->advance(flight.span(), answer);
  Established client_end = std::move(*client->finish());
  client.reset();
  const double t3 = cpu_seconds();
  (void)server->advance(answer.span(), none);
  Established server_end = std::move(*server->finish());
  server.reset();
  const double t4 = cpu_seconds();
  cpu.client += t1 - t0 + t3 - t2;
  cpu.server += t2 - t1 + t4 - t3;
  return {std::move(client_end), std::move(server_end)};
}

TEST(DISABLED_TlsBench, Handshakes) {
  const Authority root = Authority::root("root");
  const auto client = credentials(root, kClientUri);
  const auto server = credentials(root, kServerUri);
  constexpr int kRounds = 2000;
  Sides known, fresh;
  for (int i = 0; i < kRounds; ++i) (void)timed_handshake(client, server, known);
  for (int i = 0; i < kRounds / 10; ++i) {
    const auto new_client = credentials(root, kClientUri);
    const auto new_server = credentials(root, kServerUri);
    (void)timed_handshake(new_client, new_server, fresh);
  }
  std::printf("handshake, known chain: client %.0f us, server %.0f us\n", known.client / kRounds * 1e6,
              known.server / kRounds * 1e6);
  std::printf("handshake, new chain:   client %.0f us, server %.0f us\n", fresh.client / kRounds * 1e7,
              fresh.server / kRounds * 1e7);
}

TEST(DISABLED_TlsBench, Memory) {
  const Authority root = Authority::root("root");
  const auto client = credentials(root, kClientUri);
  const auto server = credentials(root, kServerUri);
  Sides cpu;
  constexpr int kConnections = 2000;
  std::vector<std::pair<Established, Established>> alive;
  alive.reserve(kConnections + 1);
  alive.push_back(timed_handshake(client, server, cpu));
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < kConnections; ++i) alive.push_back(timed_handshake(client, server, cpu));
  const size_t after = mallinfo2().uordblks;
  std::printf("established connection, one end: %zu bytes in the struct, %zu bytes of heap\n",
              sizeof(Established), (after - before) / (2 * kConnections));
  std::vector<RecordOpener> openers;
  openers.reserve(kConnections);
  const size_t empty = mallinfo2().uordblks;
  for (int i = 0; i < kConnections; ++i) openers.push_back(std::move(*RecordOpener::create(any_secret())));
  std::printf("one direction: %zu bytes of heap\n", (mallinfo2().uordblks - empty) / kConnections);
  for (RecordOpener& opener : openers) opener.rest();
  std::printf("one direction at rest: %zu bytes of heap\n", (mallinfo2().uordblks - empty) / kConnections);
}

}  // namespace
}  // namespace fairlead::tls
