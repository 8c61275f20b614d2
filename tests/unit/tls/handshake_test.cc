// Mutual handshakes between two of ours, in memory: every way to cut the bytes, and every peer that must be
// refused.
#include "tls/handshake.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <atomic>
#include <random>
#include <thread>

#include "tls/verify.h"
#include "unit/tls/pair.h"

namespace fairlead::tls {
namespace {

class HandshakeTest : public ::testing::Test {
 protected:
  Authority root_ = Authority::root("root");
  std::shared_ptr<const Credentials> client_ = credentials(root_, kClientUri);
  std::shared_ptr<const Credentials> server_ = credentials(root_, kServerUri);
};

// Both ends done, each knows the other, and bytes go both ways.
void expect_established(Pair& pair) {
  ASSERT_TRUE(pair.client().done) << (pair.client().error ? pair.client().error->text() : "client waits");
  ASSERT_TRUE(pair.server().done) << (pair.server().error ? pair.server().error->text() : "server waits");
  EXPECT_TRUE(pair.client().inbox.empty());
  EXPECT_TRUE(pair.server().inbox.empty());
  auto client = pair.client().handshake->finish();
  auto server = pair.server().handshake->finish();
  ASSERT_TRUE(client) << client.error().text();
  ASSERT_TRUE(server) << server.error().text();
  EXPECT_EQ(client->peer, id_of(kServerUri));
  EXPECT_EQ(server->peer, id_of(kClientUri));
  EXPECT_EQ(client->suite, CipherSuite::kAes128GcmSha256);
  EXPECT_FALSE(client->peer_serial.empty());
  for (auto [from, to] : {std::pair(&*client, &*server), std::pair(&*server, &*client)}) {
    Buffer wire;
    ASSERT_TRUE(from->sealer.seal(ContentType::kApplicationData, bytes_of("good morning"), wire));
    auto opened = to->opener.open(wire.span());
    ASSERT_TRUE(opened) << opened.error().text();
    EXPECT_EQ(opened->event, RecordOpener::Event::kData);
    EXPECT_EQ(std::string(opened->payload.begin(), opened->payload.end()), "good morning");
    EXPECT_EQ(opened->consumed, wire.size());
  }
}

TEST_F(HandshakeTest, EstablishesBothEnds) {
  for (bool in_place : {true, false}) {
    Pair pair(client_, server_, {id_of(kServerUri)}, in_place);
    pair.run();
    expect_established(pair);
  }
}

TEST_F(HandshakeTest, TakesItsBytesOneByOne) {
  Pair pair(client_, server_);
  pair.run(byte_wise);
  expect_established(pair);
}

TEST_F(HandshakeTest, TakesItsBytesInRandomPieces) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    Pair pair(client_, server_);
    pair.run([&](size_t available) { return 1 + random() % available; });
    SCOPED_TRACE(seed);
    expect_established(pair);
  }
}

TEST_F(HandshakeTest, LeavesWhatComesBehindTheHandshake) {
  Pair pair(client_, server_);
  Buffer hello, flight, answer, none;
  ASSERT_TRUE(pair.client().handshake->start(hello));
  ASSERT_TRUE(pair.server().handshake->advance(hello.span(), flight));
  ASSERT_TRUE(pair.client().handshake->advance(flight.span(), answer)->done);
  auto client = pair.client().handshake->finish();
  ASSERT_TRUE(client);
  const size_t handshake_bytes = answer.size();
  ASSERT_TRUE(client->sealer.seal(ContentType::kApplicationData, bytes_of("early bird"), answer));
  auto progress = pair.server().handshake->advance(answer.span(), none);
  ASSERT_TRUE(progress) << progress.error().text();
  EXPECT_TRUE(progress->done);
  EXPECT_EQ(progress->consumed, handshake_bytes);
  EXPECT_TRUE(none.empty()) << "a server without tickets has nothing to say after the Finished";
  answer.consume(progress->consumed);
  auto server = pair.server().handshake->finish();
  ASSERT_TRUE(server);
  auto opened = server->opener.open(answer.span());
  ASSERT_TRUE(opened);
  EXPECT_EQ(std::string(opened->payload.begin(), opened->payload.end()), "early bird");
}

TEST_F(HandshakeTest, IsAnEmptyShellAfterFinish) {
  Pair pair(client_, server_);
  pair.run();
  ASSERT_TRUE(pair.client().handshake->finish());
  EXPECT_FALSE(pair.client().handshake->finish());
  Buffer out;
  EXPECT_FALSE(pair.client().handshake->start(out));
}

TEST_F(HandshakeTest, DoesNotFinishBeforeItIsDone) {
  auto handshake = Handshake::client(client_, {id_of(kServerUri)}, true);
  EXPECT_FALSE((*handshake)->finish());
  Buffer out;
  ASSERT_TRUE((*handshake)->start(out));
  EXPECT_FALSE((*handshake)->finish());
}

TEST_F(HandshakeTest, RefusesToStartWithoutExpectation) {
  EXPECT_FALSE(Handshake::client(client_, {}, true));
  EXPECT_FALSE(Handshake::client(nullptr, {id_of(kServerUri)}, true));
  EXPECT_FALSE(Handshake::server(nullptr));
}

TEST_F(HandshakeTest, AcceptsAnyOfTheExpectedIdentities) {
  Pair pair(client_, server_, {id_of("spiffe://cluster.local/ns/shop/sa/other"), id_of(kServerUri)});
  pair.run();
  expect_established(pair);
}

TEST_F(HandshakeTest, RefusesAnUnexpectedServer) {
  Pair pair(client_, server_, {id_of("spiffe://cluster.local/ns/shop/sa/other")});
  pair.run();
  ASSERT_TRUE(pair.client().error);
  EXPECT_NE(pair.client().error->text().find(kServerUri), std::string::npos) << pair.client().error->text();
  EXPECT_TRUE(pair.server().error) << "the alert tells the server";
  EXPECT_FALSE(pair.server().done);
}

// ---- peers that our own code would not make: OpenSSL without our rules
// ---------------------------------------------------

struct ForeignOptions {
  bool certificate = true;
  std::string cipher_suites;
  std::string groups;
  std::string alpn;  // wire format
  int max_version = TLS1_3_VERSION;
};

class ForeignClient {
 public:
  ForeignClient(const Issued& issued, const std::string& chain, const ForeignOptions& options) {
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(context_, 0);
    SSL_CTX_set_max_proto_version(context_, options.max_version);
    if (!options.cipher_suites.empty()) SSL_CTX_set_ciphersuites(context_, options.cipher_suites.c_str());
    if (!options.groups.empty()) SSL_CTX_set1_groups_list(context_, options.groups.c_str());
    if (options.certificate) use(issued, chain);
    ssl_ = SSL_new(context_);
    if (!options.alpn.empty()) {
      SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>(options.alpn.data()),
                          static_cast<unsigned>(options.alpn.size()));
    }
    SSL_set_bio(ssl_, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl_);
  }
  ForeignClient(const ForeignClient&) = delete;
  ForeignClient& operator=(const ForeignClient&) = delete;
  ~ForeignClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }

  // Against a server of ours; what the server says to it.
  Result<Established> meet(std::shared_ptr<const Credentials> server) {
    auto handshake = Handshake::server(std::move(server));
    Buffer in, out;
    for (int turn = 0; turn < 10; ++turn) {
      SSL_do_handshake(ssl_);
      move(SSL_get_wbio(ssl_), in);
      auto progress = (*handshake)->advance(in.span(), out);
      BIO_write(SSL_get_rbio(ssl_), out.data(), static_cast<int>(out.size()));
      out.clear();
      if (!progress) {
        // The client reads the alert.
        char byte = 0;
        if (SSL_do_handshake(ssl_) == 1) (void)SSL_read(ssl_, &byte, 1);
        return std::move(progress).error();
      }
      in.consume(progress->consumed);
      if (progress->done) return (*handshake)->finish();
    }
    return Error(ErrorKind::kTimeout, "no end in sight");
  }
  std::string alpn() const {
    const unsigned char* name = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl_, &name, &length);
    return {reinterpret_cast<const char*>(name), length};
  }
  SSL* ssl() { return ssl_; }

 private:
  void use(const Issued& issued, const std::string& chain) {
    const std::string all = issued.certificate_pem + chain;
    BIO* bio = BIO_new_mem_buf(all.data(), static_cast<int>(all.size()));
    X509* leaf = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
    SSL_CTX_use_certificate(context_, leaf);
    X509_free(leaf);
    while (X509* extra = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr))
      SSL_CTX_add0_chain_cert(context_, extra);
    BIO_free(bio);
    BIO* key_bio = BIO_new_mem_buf(issued.key_pem.data(), static_cast<int>(issued.key_pem.size()));
    EVP_PKEY* key = PEM_read_bio_PrivateKey(key_bio, nullptr, nullptr, nullptr);
    SSL_CTX_use_PrivateKey(context_, key);
    EVP_PKEY_free(key);
    BIO_free(key_bio);
  }
  static void move(BIO* bio, Buffer& to) {
    char* bytes = nullptr;
    const long length = BIO_get_mem_data(bio, &bytes);
    if (length > 0) to.append({reinterpret_cast<const uint8_t*>(bytes), static_cast<size_t>(length)});
    (void)BIO_reset(bio);
  }

  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
};

struct RefusedClient {
  const char* name;
  std::function<void(CertificateShape&)> spoil;
  const char* reason;  // in the error's text
};

const RefusedClient kRefused[] = {
    {"expired", [](auto& s) { s.starts_in = std::chrono::hours(-2), s.ends_in = std::chrono::seconds(-60); },
     "expired"},
    {"not yet valid", [](auto& s) { s.starts_in = std::chrono::minutes(10); }, "not yet valid"},
    {"foreign trust domain", [](auto& s) { s.uris = {"spiffe://other.domain/ns/shop/sa/front"}; },
     "another trust domain"},
    {"two URIs", [](auto& s) { s.uris.push_back(kServerUri); }, "more than one URI"},
    {"the same URI twice", [](auto& s) { s.uris.push_back(kClientUri); }, "more than one URI"},
    {"no name at all", [](auto& s) { s.uris.clear(), s.common_name = "front"; },
     "no subject alternative name"},
    {"a DNS name only", [](auto& s) { s.uris.clear(), s.dns = {"front.shop"}; }, "no URI name"},
    {"the identity in the DNS name", [](auto& s) { s.uris.clear(), s.dns = {kClientUri}; }, "no URI name"},
    {"NUL behind the identity", [](auto& s) { s.uris = {std::string(kClientUri) + '\0' + "x"}; }, "control"},
    {"NUL at the end", [](auto& s) { s.uris = {std::string(kClientUri) + '\0'}; }, "control"},
    {"newline in the identity", [](auto& s) { s.uris = {"spiffe://cluster.local/ns/shop/sa/fr\nont"}; },
     "control"},
    {"not ASCII", [](auto& s) { s.uris = {"spiffe://cluster.local/ns/shop/sa/fr\xc3\xb6nt"}; }, "control"},
    {"not a SPIFFE ID", [](auto& s) { s.uris = {"https://cluster.local/ns/shop/sa/front"}; }, "SPIFFE"},
    {"upper case", [](auto& s) { s.uris = {"SPIFFE://cluster.local/ns/shop/sa/front"}; }, "SPIFFE"},
    {"a query", [](auto& s) { s.uris = {std::string(kClientUri) + "?a=b"}; }, "SPIFFE"},
    {"a longer path", [](auto& s) { s.uris = {std::string(kClientUri) + "/x"}; }, "SPIFFE"},
    {"trust domain only", [](auto& s) { s.uris = {"spiffe://cluster.local"}; }, "SPIFFE"},
    {"empty URI", [](auto& s) { s.uris = {""}; }, "SPIFFE"},
    {"a CA",
     [](auto& s) {
       s.ca = true, s.common_name = "ca", s.key_usage = "critical,digitalSignature,keyCertSign";
     },
     ""},
    {"a CA without the usage", [](auto& s) { s.ca = true, s.common_name = "ca"; }, ""},
    {"keyCertSign on a leaf", [](auto& s) { s.key_usage = "critical,digitalSignature,keyCertSign"; }, ""},
    {"cRLSign on a leaf",
     [](auto& s) { s.key_usage = "critical,digitalSignature,cRLSign", s.common_name = "x"; }, "signer"},
    {"no digitalSignature", [](auto& s) { s.key_usage = "critical,keyAgreement"; }, ""},
    {"no key usage", [](auto& s) { s.key_usage.clear(); }, "no key usage"},
    {"server only", [](auto& s) { s.extended_key_usage = "serverAuth"; }, ""},
    {"client only", [](auto& s) { s.extended_key_usage = "clientAuth"; }, "without serverAuth"},
    {"e-mail", [](auto& s) { s.extended_key_usage = "emailProtection"; }, ""},
    {"any usage only", [](auto& s) { s.extended_key_usage = "anyExtendedKeyUsage"; }, ""},
};

TEST_F(HandshakeTest, ServerRefusesClientsThatBreakARule) {
  for (const RefusedClient& peer : kRefused) {
    SCOPED_TRACE(peer.name);
    CertificateShape shape = workload(kClientUri);
    peer.spoil(shape);
    ForeignClient client(root_.issue(shape), "", {});
    const auto result = client.meet(server_);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::kTls);
    EXPECT_NE(result.error().text().find(peer.reason), std::string::npos) << result.error().text();
  }
}

TEST_F(HandshakeTest, ServerAcceptsTheForeignClientThatBreaksNone) {
  for (auto spoil : std::vector<std::function<void(CertificateShape&)>>{
           [](auto&) {},
           [](auto& s) { s.dns = {"front.shop"}; },
           [](auto& s) { s.common_name = "front"; },
           [](auto& s) { s.extended_key_usage.clear(); },
           [](auto& s) { s.key_ids = false; },
           [](auto& s) { s.key_usage = "critical,digitalSignature,keyEncipherment"; },
       }) {
    CertificateShape shape = workload(kClientUri);
    spoil(shape);
    ForeignClient client(root_.issue(shape), "", {});
    const auto result = client.meet(server_);
    ASSERT_TRUE(result) << result.error().text();
    EXPECT_EQ(result->peer, id_of(kClientUri));
  }
}

TEST_F(HandshakeTest, ServerRefusesAClientWithoutCertificate) {
  ForeignOptions options;
  options.certificate = false;
  const auto result = ForeignClient({}, "", options).meet(server_);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text().find("certificate"), std::string::npos) << result.error().text();
}

TEST_F(HandshakeTest, RefusesAForeignRootOnBothSides) {
  const Authority stranger = Authority::root("root");  // the same name, another key
  {
    ForeignClient client(stranger.issue(workload(kClientUri)), stranger.certificate_pem(), {});
    const auto result = client.meet(server_);
    ASSERT_FALSE(result);
    EXPECT_NE(result.error().code(), 0);
  }
  Pair pair(credentials(stranger, kClientUri), server_);
  pair.run();
  ASSERT_TRUE(pair.client().error);
  EXPECT_FALSE(pair.server().done);
}

TEST_F(HandshakeTest, RefusesTls12) {
  ForeignOptions options;
  options.max_version = TLS1_2_VERSION;
  const auto result = ForeignClient(root_.issue(workload(kClientUri)), "", options).meet(server_);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text().find("protocol"), std::string::npos) << result.error().text();
}

TEST_F(HandshakeTest, NegotiatesAlpn) {
  using namespace std::string_literals;
  const struct {
    std::string offer;
    bool good;
    std::string chosen;
  } cases[] = {
      {"", true, ""},
      {"\2h2"s, true, "h2"},
      {"\10http/1.1\2h2"s, true, "h2"},
      {"\12fairlead/1\2h2"s, true, "h2"},
      {"\12fairlead/1"s, false, ""},
      {"\10http/1.1"s, false, ""},
      {"\3h2c"s, false, ""},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.offer);
    ForeignOptions options;
    options.alpn = c.offer;
    ForeignClient client(root_.issue(workload(kClientUri)), "", options);
    EXPECT_EQ(client.meet(server_).has_value(), c.good);
    if (c.good) {
      EXPECT_EQ(client.alpn(), c.chosen);
    }
  }
}

TEST_F(HandshakeTest, NegotiatesSuitesAndGroups) {
  const struct {
    const char* suites;
    const char* groups;
    std::optional<CipherSuite> suite;
  } cases[] = {
      {"TLS_AES_128_GCM_SHA256", "X25519", CipherSuite::kAes128GcmSha256},
      {"TLS_AES_256_GCM_SHA384", "X25519", CipherSuite::kAes256GcmSha384},
      // The server's order counts, and a first key share of the wrong group costs a HelloRetryRequest.
      {"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "P-384:P-256", CipherSuite::kAes128GcmSha256},
      {"TLS_CHACHA20_POLY1305_SHA256", "X25519", std::nullopt},
      {"TLS_AES_128_GCM_SHA256", "P-384", std::nullopt},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.suites);
    ForeignOptions options;
    options.cipher_suites = c.suites;
    options.groups = c.groups;
    ForeignClient client(root_.issue(workload(kClientUri)), "", options);
    auto result = client.meet(server_);
    ASSERT_EQ(result.has_value(), c.suite.has_value()) << (result ? "" : result.error().text());
    if (result) {
      EXPECT_EQ(result->suite, *c.suite);
    }
  }
}

TEST_F(HandshakeTest, WalksIntermediatesUpToTheDepthLimit) {
  std::string chain;
  Authority issuer = root_;
  for (int depth = 1; depth <= kMaxChainDepth + 1; ++depth) {
    issuer = issuer.intermediate("level " + std::to_string(depth));
    chain = issuer.certificate_pem() + chain;
    ForeignClient client(issuer.issue(workload(kClientUri)), chain, {});
    const auto result = client.meet(server_);
    EXPECT_EQ(result.has_value(), depth <= kMaxChainDepth) << depth;
  }
}

TEST_F(HandshakeTest, AcceptsAuthoritiesWithoutKeyIdentifiers) {
  const Authority old = Authority::root_without_key_ids("old root");
  const Authority middle = old.intermediate("old middle", false);
  const Issued issued = middle.issue(workload(kServerUri));
  auto server = try_credentials(issued, old.certificate_pem(), kServerUri, {middle.certificate_pem()});
  ASSERT_TRUE(server) << server.error().text();
  Pair pair(credentials(old, kClientUri), *server);
  pair.run();
  expect_established(pair);
}

TEST_F(HandshakeTest, RefusesALeafThatSigns) {
  // A workload of the mesh that plays CA.
  CertificateShape shape = workload(kServerUri);
  shape.common_name = "back";
  const Issued evil = root_.issue(shape);
  const Issued forged = Authority::of(evil).issue(workload(kClientUri));
  ForeignClient client(forged, evil.certificate_pem, {});
  const auto result = client.meet(server_);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().code(), 0);
}

// ---- the cache of chains
// ------------------------------------------------------------------------------------------------

TEST_F(HandshakeTest, KnowsAChainAgain) {
  for (int i = 0; i < 3; ++i) {
    Pair pair(client_, server_);
    pair.run();
    expect_established(pair);
  }
  EXPECT_EQ(client_->chains_known_again(), 2u);
  EXPECT_EQ(server_->chains_known_again(), 2u);
}

TEST_F(HandshakeTest, JudgesAKnownChainByTheExpectationAgain) {
  Pair good(client_, server_);
  good.run();
  expect_established(good);
  Pair bad(client_, server_, {id_of("spiffe://cluster.local/ns/shop/sa/other")});
  bad.run();
  EXPECT_TRUE(bad.client().error);
}

TEST_F(HandshakeTest, DoesNotRememberWhatItRefused) {
  CertificateShape shape = workload(kClientUri);
  shape.uris.push_back(kServerUri);
  const Issued issued = root_.issue(shape);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(ForeignClient(issued, "", {}).meet(server_));
  EXPECT_EQ(server_->chains_known_again(), 0u);
}

TEST_F(HandshakeTest, KnownChainEndsWithItsCertificate) {
  CertificateShape shape = workload(kClientUri);
  shape.ends_in = std::chrono::seconds(2);
  const Issued issued = root_.issue(shape);
  ASSERT_TRUE(ForeignClient(issued, "", {}).meet(server_));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool refused = false;
  while (!refused && std::chrono::steady_clock::now() < deadline)
    refused = !ForeignClient(issued, "", {}).meet(server_);
  EXPECT_TRUE(refused);
  EXPECT_GT(server_->chains_known_again(), 0u);
}

TEST_F(HandshakeTest, SharesCredentialsBetweenThreads) {
  std::atomic<int> good = 0;
  std::vector<std::thread> threads;
  constexpr int kThreads = 4;
  constexpr int kRounds = 25;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        Pair pair(client_, server_);
        pair.run();
        good += pair.client().handshake->finish() && pair.server().handshake->finish() ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, kThreads * kRounds);
}

// ---- bytes that are no handshake
// ----------------------------------------------------------------------------------------

struct Garbage {
  const char* name;
  std::string bytes;
};

TEST_F(HandshakeTest, RefusesGarbageAtTheFirstByteThatShowsIt) {
  using namespace std::string_literals;
  const Garbage cases[] = {
      {"HTTP", "GET / HTTP/1.1\r\n"},
      {"one wrong byte", "G"},
      {"SSLv2", "\x80\x2e\x01"s},
      {"record version", "\x16\x02"s},
      {"record too long", "\x16\x03\x01\xff\xff"s},
      {"application data first", "\x17\x03\x03\x00\x05hello"s},
      {"alert first", "\x15\x03\x03\x00\x02\x02\x28"s},
      {"a ServerHello", "\x16\x03\x03\x00\x04\x02\x00\x00\x00"s},
      {"an empty ClientHello", "\x16\x03\x01\x00\x04\x01\x00\x00\x00"s},
  };
  for (const Garbage& garbage : cases) {
    SCOPED_TRACE(garbage.name);
    for (bool client : {false, true}) {
      auto handshake =
          client ? Handshake::client(client_, {id_of(kServerUri)}, true) : Handshake::server(server_);
      Buffer out;
      if (client) ASSERT_TRUE((*handshake)->start(out));
      EXPECT_FALSE((*handshake)->advance(bytes_of(garbage.bytes), out));
      EXPECT_FALSE((*handshake)->advance(bytes_of(garbage.bytes), out)) << "stays refused";
      EXPECT_FALSE((*handshake)->finish());
    }
  }
}

TEST_F(HandshakeTest, WaitsForWhatIsTruncated) {
  Pair pair(client_, server_);
  Buffer hello;
  ASSERT_TRUE(pair.client().handshake->start(hello));
  for (size_t length = 0; length < hello.size(); ++length) {
    Buffer out;
    auto progress = pair.server().handshake->advance(hello.span().first(length), out);
    ASSERT_TRUE(progress);
    EXPECT_EQ(progress->consumed, 0u);
    EXPECT_TRUE(out.empty());
  }
}

TEST_F(HandshakeTest, RefusesAnOversizedClientHello) {
  // Whole records of a ClientHello that promises 60,000 bytes.
  auto handshake = Handshake::server(server_);
  std::string message("\x01\x00\xea\x60\x03\x03", 6);
  message.resize(4096, 'x');
  const std::string record = std::string("\x16\x03\x01\x10\x00", 5) + message;
  Buffer out;
  size_t taken = 0;
  Result<Handshake::Progress> progress = Handshake::Progress{};
  for (int i = 0; i < 32 && progress; ++i) {
    progress = (*handshake)->advance(bytes_of(record), out);
    if (progress) taken += progress->consumed;
  }
  EXPECT_FALSE(progress);
  EXPECT_LE(taken, kMaxClientHello + kRecordHeader);
}

TEST_F(HandshakeTest, BoundsAWholeHandshake) {
  // A server that keeps the client busy with change_cipher_spec records, which mean nothing in TLS 1.3.
  auto handshake = Handshake::client(client_, {id_of(kServerUri)}, true);
  Buffer out;
  ASSERT_TRUE((*handshake)->start(out));
  const std::string ccs("\x14\x03\x03\x00\x01\x01", 6);
  size_t taken = 0;
  Result<Handshake::Progress> progress = Handshake::Progress{};
  while (taken < 2 * kMaxHandshakeInput && progress) {
    progress = (*handshake)->advance(bytes_of(ccs), out);
    if (progress) taken += progress->consumed;
  }
  EXPECT_FALSE(progress);
  EXPECT_LE(taken, kMaxHandshakeInput);
}

TEST_F(HandshakeTest, SurvivesAFlippedBitAnywhere) {
  // Every byte of the client's second flight and of the hello: refused or waited for, never established.
  for (size_t at = 0;; ++at) {
    Pair pair(client_, server_);
    Buffer hello, flight, answer, none;
    ASSERT_TRUE(pair.client().handshake->start(hello));
    ASSERT_TRUE(pair.server().handshake->advance(hello.span(), flight));
    ASSERT_TRUE(pair.client().handshake->advance(flight.span(), answer));
    at += at < 6 ? 0 : 12;  // all of the first header, then a sample
    if (at >= answer.size()) break;
    answer.data()[at] ^= 1;
    auto progress = pair.server().handshake->advance(answer.span(), none);
    if (progress) {
      EXPECT_FALSE(progress->done) << at;
    }
  }
}

}  // namespace
}  // namespace fairlead::tls
