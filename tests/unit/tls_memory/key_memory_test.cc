// After a key is gone, its bytes are nowhere in what this process may write: heaps, stacks, globals.
#include "tls/key_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <optional>
#include <thread>

#include "base/file.h"
#include "tls/credentials_impl.h"
#include "tls/record.h"
#include "unit/tls/pair.h"

namespace fairlead::tls {
namespace {

const Result<KeyMemory> g_memory = protect_keys();  // before gtest and everything else

// A secret that the test remembers without holding its bytes: all of them inverted.
class Mask {
 public:
  Mask() = default;
  Mask(const uint8_t* bytes, size_t length) : length_(length) {
    for (size_t i = 0; i < length; ++i) inverted_[i] = static_cast<uint8_t>(~bytes[i]);
  }
  // The same number the other way round, as big-number libraries keep it.
  [[nodiscard]] Mask reversed() const {
    Mask other = *this;
    std::reverse(other.inverted_.begin(), other.inverted_.begin() + static_cast<ptrdiff_t>(length_));
    return other;
  }
  [[nodiscard]] bool is_at(const uint8_t* at) const {
    for (size_t i = 0; i < length_; ++i) {
      if (static_cast<uint8_t>(~at[i]) != inverted_[i]) return false;
    }
    return true;
  }
  // As the hexadecimal text of OpenSSL's key log.
  [[nodiscard]] bool is_text_at(const uint8_t* at) const {
    for (size_t i = 0; i < length_; ++i) {
      const auto byte = static_cast<uint8_t>(~inverted_[i]);
      if (at[2 * i] != digit(byte >> 4) || at[2 * i + 1] != digit(byte & 15)) return false;
    }
    return true;
  }
  [[nodiscard]] size_t length() const { return length_; }

 private:
  static uint8_t digit(int value) { return static_cast<uint8_t>("0123456789abcdef"[value]); }
  std::array<uint8_t, 64> inverted_{};
  size_t length_ = 0;
};

// Every place of it in the writable mappings, as "[heap] +0x10", read through /proc/self/mem in pieces that
// lie in one buffer, which is skipped and wiped.
class Search {
 public:
  // On a thread of its own: a search on the caller's stack would overwrite what it looks for.
  std::vector<std::string> find(const Mask& secret) {
    found_.clear();
    std::thread([&] { search(secret); }).join();
    return found_;
  }

 private:
  void search(const Mask& secret) {
    std::ifstream maps("/proc/self/maps");
    std::vector<std::string> lines;
    for (std::string line; std::getline(maps, line);) lines.push_back(line);
    const UniqueFd memory(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(memory);
    for (const std::string& line : lines) {
      unsigned long from = 0;
      unsigned long to = 0;
      char modes[5] = {};
      if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, modes) == 3 && modes[1] == 'w')
        look(memory, from, to, line, secret);
    }
    OPENSSL_cleanse(window_.data(), window_.size());
  }

  void look(BorrowedFd memory, unsigned long from, unsigned long to, const std::string& line,
            const Mask& secret) {
    const size_t overlap = 2 * secret.length();
    const auto own = reinterpret_cast<unsigned long>(window_.data());
    for (unsigned long at = from; at < to; at += window_.size() - overlap) {
      const ssize_t count = ::pread(memory.get(), window_.data(), std::min<size_t>(window_.size(), to - at),
                                    static_cast<off_t>(at));
      if (count <= 0) continue;  // a guard page
      for (size_t i = 0; i + secret.length() <= static_cast<size_t>(count); ++i) {
        if (at + i >= own && at + i < own + window_.size()) continue;
        const bool text = i + overlap <= static_cast<size_t>(count) && secret.is_text_at(&window_[i]);
        if (secret.is_at(&window_[i]) || text)
          found_.push_back(fmt::format("{} +{:#x}{}", line, at + i - from, text ? " (text)" : ""));
      }
    }
  }

  std::vector<uint8_t> window_ = std::vector<uint8_t>(1 << 20);
  std::vector<std::string> found_;
};

Mask scalar_of(const KeyPair& key) {
  BIGNUM* number = nullptr;
  EXPECT_EQ(EVP_PKEY_get_bn_param(key.impl().key.get(), OSSL_PKEY_PARAM_PRIV_KEY, &number), 1);
  std::array<uint8_t, 32> bytes{};
  EXPECT_EQ(BN_bn2binpad(number, bytes.data(), bytes.size()), 32);
  BN_clear_free(number);
  const Mask mask(bytes.data(), bytes.size());
  OPENSSL_cleanse(bytes.data(), bytes.size());
  return mask;
}

void expect_nowhere(const Mask& secret, const char* what) {
  Search search;
  for (const std::string& place : search.find(secret)) ADD_FAILURE() << what << ": " << place;
  for (const std::string& place : search.find(secret.reversed()))
    ADD_FAILURE() << what << " reversed: " << place;
}

bool is_found(const Mask& secret) {
  Search search;
  return !search.find(secret).empty() || !search.find(secret.reversed()).empty();
}

TEST(KeyMemory, IsInForce) {
  ASSERT_TRUE(g_memory) << g_memory.error().text();
  EXPECT_EQ(g_memory->arena, kKeyArena);
}

TEST(KeyMemory, KeyPairLivesInTheArenaAndLeavesNothing) {
  Mask secret;
  {
    auto key = KeyPair::generate();
    ASSERT_TRUE(key);
    secret = scalar_of(*key);
    EXPECT_TRUE(is_found(secret)) << "a search that finds nothing proves nothing";
    Search search;
    for (const Mask& form : {secret, secret.reversed()}) {
      for (const std::string& place : search.find(form))
        EXPECT_EQ(place.find("[heap]"), std::string::npos) << place;
    }
    ASSERT_TRUE(key->csr_pem(id_of(kClientUri)));
  }
  expect_nowhere(secret, "private key");
}

// The search runs as soon as the key is made: what its maker left on the stack was not yet overwritten.
TEST(KeyMemory, MakingAKeyPutsItNowhereElse) {
  auto key = KeyPair::generate();
  Search search;
  const Mask secret = scalar_of(*key);
  size_t places = 0;
  for (const Mask& form : {secret, secret.reversed()}) {
    for (const std::string& place : search.find(form)) {
      EXPECT_EQ(place.find("[stack]"), std::string::npos) << place;
      ++places;
    }
  }
  EXPECT_EQ(places, 1u) << "in the arena, and nowhere else";
}

TEST(KeyMemory, KeyPairOfAThreadThatGoesOnLeavesNothing) {
  Mask secret;
  std::thread([&] {
    {
      auto key = KeyPair::generate();
      ASSERT_TRUE(key);
      secret = scalar_of(*key);
      ASSERT_TRUE(key->csr_pem(id_of(kClientUri)));
    }
    expect_nowhere(secret, "private key");
  }).join();
}

TEST(KeyMemory, CredentialsThatServedLeaveNothing) {
  const Authority authority = Authority::root("root");
  Mask secret;
  {
    auto key = KeyPair::generate();
    ASSERT_TRUE(key);
    secret = scalar_of(*key);
    const auto csr = key->csr_pem(id_of(kServerUri));
    ASSERT_TRUE(csr);
    auto server = Credentials::create(std::move(*key), {authority.sign(*csr, testing::workload(kServerUri))},
                                      authority.certificate_pem(), id_of(kServerUri));
    ASSERT_TRUE(server) << server.error().text();
    for (int i = 0; i < 3; ++i) {
      Pair pair(credentials(authority, kClientUri), *server);
      pair.run();
      ASSERT_TRUE(pair.server().done);
    }
  }
  expect_nowhere(secret, "private key");
}

// Both directions of a handshake, kept by the sealers and openers for as long as they live.
struct Secrets {
  Mask client;
  Mask server;
  Mask key;
};

std::optional<Secrets> remember(const RecordSealer& client, const RecordSealer& server) {
  Secrets secrets;
  {
    const RecordState one = client.state();
    const RecordState other = server.state();
    secrets.client = Mask(one.secret.bytes.data(), one.secret.length);
    secrets.server = Mask(other.secret.bytes.data(), other.secret.length);
    secrets.key = Mask(one.key.data(), one.key_length);
  }
  return secrets;
}

TEST(KeyMemory, HandshakeAndRecordsLeaveNothing) {
  const Authority authority = Authority::root("root");
  const auto client = credentials(authority, kClientUri);
  const auto server = credentials(authority, kServerUri);
  std::optional<Secrets> secrets;
  {
    Pair pair(client, server);
    pair.run();
    ASSERT_TRUE(pair.client().done && pair.server().done);
    auto one = pair.client().handshake->finish();
    auto other = pair.server().handshake->finish();
    ASSERT_TRUE(one && other);
    secrets = remember(one->sealer, other->sealer);
    EXPECT_TRUE(is_found(secrets->client)) << "a search that finds nothing proves nothing";
    Buffer wire;
    ASSERT_TRUE(one->sealer.seal(ContentType::kApplicationData, bytes_of("hello"), wire));
    auto opened = other->opener.open({wire.data(), wire.size()});
    ASSERT_TRUE(opened);
  }
  expect_nowhere(secrets->client, "client traffic secret");
  expect_nowhere(secrets->server, "server traffic secret");
  expect_nowhere(secrets->key, "AES key");
}

TEST(KeyMemory, KeyUpdateLeavesNothingOfTheOldKey) {
  const Authority authority = Authority::root("root");
  Pair pair(credentials(authority, kClientUri), credentials(authority, kServerUri));
  pair.run();
  auto one = pair.client().handshake->finish();
  auto other = pair.server().handshake->finish();
  ASSERT_TRUE(one && other);
  const auto secrets = remember(one->sealer, other->sealer);
  Buffer wire;
  ASSERT_TRUE(one->sealer.update_key(wire));
  ASSERT_TRUE(other->opener.open({wire.data(), wire.size()}));
  expect_nowhere(secrets->client, "client traffic secret before the update");
  expect_nowhere(secrets->key, "AES key before the update");
}

TEST(KeyMemory, HandshakeThatNobodyFinishedLeavesNothing) {
  const Authority authority = Authority::root("root");
  std::optional<Secrets> secrets;
  {
    Pair pair(credentials(authority, kClientUri), credentials(authority, kServerUri));
    pair.run();
    auto one = pair.client().handshake->finish();
    ASSERT_TRUE(one);
    secrets = remember(one->sealer, one->sealer);  // the server end knows it, too, and is given up
  }
  expect_nowhere(secrets->client, "client traffic secret");
}

TEST(KeyMemory, ArenaIsLargeEnough) {
  const Authority authority = Authority::root("root");
  const auto client = credentials(authority, kClientUri);
  const auto server = credentials(authority, kServerUri);
  const size_t before = key_arena_used();
  constexpr int kPairs = 50;
  std::vector<Established> ends;
  for (int i = 0; i < kPairs; ++i) {
    Pair pair(client, server);
    pair.run();
    ends.push_back(std::move(*pair.client().handshake->finish()));
    ends.push_back(std::move(*pair.server().handshake->finish()));
  }
  const size_t per_tunnel = (key_arena_used() - before) / ends.size();
  std::vector<KeyPair> keys;
  const size_t middle = key_arena_used();
  for (int i = 0; i < kPairs; ++i) keys.push_back(std::move(*KeyPair::generate()));
  const size_t per_identity = (key_arena_used() - middle) / keys.size();
  std::printf("arena: %zu bytes per end of a tunnel, %zu per identity, %zu at rest\n", per_tunnel,
              per_identity, before);
  EXPECT_LE(per_tunnel, 2 * 256u);
  EXPECT_LE(per_identity, 128u);
  ends.clear();
  keys.clear();
  EXPECT_LE(key_arena_used(), before + 4096) << "given back";
}

TEST(KeyMemory, WorksOnWhenTheArenaIsHalfFull) {
  std::vector<void*> filling;
  while (key_arena_used() < kKeyArena / 2) filling.push_back(OPENSSL_secure_malloc(4096));
  const size_t before = key_arena_used();
  TrafficSecret secret;
  secret.length = 32;
  Mask mask;
  {
    auto sealer = RecordSealer::create(secret);
    ASSERT_TRUE(sealer);
    EXPECT_EQ(key_arena_used(), before) << "the rest is OpenSSL's";
    const RecordState state = sealer->state();
    mask = Mask(state.key.data(), state.key_length);
  }
  expect_nowhere(mask, "AES key outside of the arena");
  for (void* piece : filling) OPENSSL_secure_free(piece);
}

}  // namespace
}  // namespace fairlead::tls
