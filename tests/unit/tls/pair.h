// Two Handshakes that talk to each other in memory, and what the tests of this folder build them of.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/cert_factory.h"
#include "tls/credentials.h"
#include "tls/handshake.h"

namespace fairlead::tls {

using testing::Authority;
using testing::CertificateShape;
using testing::Issued;
using testing::workload;

inline constexpr const char* kClientUri = "spiffe://cluster.local/ns/shop/sa/front";
inline constexpr const char* kServerUri = "spiffe://cluster.local/ns/shop/sa/back";

inline SpiffeId id_of(const std::string& uri) {
  return *SpiffeId::parse(uri);
}

inline Result<std::shared_ptr<const Credentials>> try_credentials(
    const Issued& issued, const std::string& roots, const std::string& uri,
    const std::vector<std::string>& intermediates = {}) {
  auto key = KeyPair::from_pem(issued.key_pem);
  if (!key) return std::move(key).error();
  std::vector<std::string> chain = {issued.certificate_pem};
  chain.insert(chain.end(), intermediates.begin(), intermediates.end());
  return Credentials::create(std::move(*key), chain, roots, id_of(uri));
}

inline std::shared_ptr<const Credentials> credentials(const Authority& authority, const std::string& uri) {
  auto made = try_credentials(authority.issue(workload(uri)), authority.certificate_pem(), uri);
  EXPECT_TRUE(made) << made.error().text();
  return made ? *made : nullptr;
}

inline std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// One end: what it received and not yet took, and how it ended.
struct End {
  std::unique_ptr<Handshake> handshake;
  Buffer inbox;
  bool done = false;
  std::optional<Error> error;
};

// Says how many of `available` bytes arrive next.
using Split = std::function<size_t(size_t available)>;
inline size_t whole(size_t available) {
  return available;
}
inline size_t byte_wise(size_t) {
  return 1;
}

class Pair {
 public:
  Pair(std::shared_ptr<const Credentials> client, std::shared_ptr<const Credentials> server,
       std::vector<SpiffeId> expected = {id_of(kServerUri)}, bool in_place = true) {
    auto made_client = Handshake::client(std::move(client), std::move(expected), in_place);
    auto made_server = Handshake::server(std::move(server));
    client_.handshake = std::move(*made_client);
    server_.handshake = std::move(*made_server);
  }

  // Until neither end has anything to say.
  void run(const Split& split = whole) {
    EXPECT_TRUE(client_.handshake->start(to_server_));
    while (!to_server_.empty() || !to_client_.empty()) {
      deliver(to_server_, server_, to_client_, split);
      deliver(to_client_, client_, to_server_, split);
    }
  }
  End& client() { return client_; }
  End& server() { return server_; }

 private:
  static void deliver(Buffer& wire, End& end, Buffer& answer, const Split& split) {
    while (!wire.empty()) {
      const size_t count = std::min(split(wire.size()), wire.size());
      end.inbox.append(wire.span().first(count));
      wire.consume(count);
      if (end.done || end.error) continue;
      auto progress = end.handshake->advance(end.inbox.span(), answer);
      if (!progress) {
        end.error = progress.error();
        continue;
      }
      end.inbox.consume(progress->consumed);
      end.done = progress->done;
    }
  }

  End client_;
  End server_;
  Buffer to_server_;
  Buffer to_client_;
};

}  // namespace fairlead::tls
