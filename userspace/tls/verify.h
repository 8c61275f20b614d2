// What a peer's certificate must be: a path to our roots (RFC 5280), and on it a workload's leaf (SPIFFE
// X509-SVID §4, §5). Thread: any. Errors: kTls, code() = OpenSSL's X509_V_ERR_* where the path is at fault.
#pragma once

#include <array>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "base/spiffe_id.h"
#include "tls/openssl.h"

namespace fairlead::tls {

constexpr int kMaxChainDepth = 4;  // intermediates between leaf and root
constexpr long kMaxChainBytes = 32 * 1024;

// X509_verify_cert() by the flags that the trust store carries (trust_store() in credentials.cc).
Result<void> verify_path(X509_STORE_CTX* store);

// Exactly one URI SAN that is a SPIFFE ID; leaf not a CA; KU with digitalSignature and without keyCertSign
// and cRLSign; EKU, if there is one, with serverAuth and clientAuth.
Result<SpiffeId> leaf_identity(X509* leaf);
std::string serial_of(const X509* certificate);
std::chrono::system_clock::time_point time_of(const ASN1_TIME* time);

// A peer whose chain was found good.
struct VerifiedPeer {
  SpiffeId id;
  std::string serial;
  // When the whole path is valid.
  std::chrono::system_clock::time_point not_before;
  std::chrono::system_clock::time_point not_after;
};

// Chains that were found good before one set of roots, in one role. The same workloads connect again and
// again: a look-up stands for the path's signatures. It says nothing about who holds the key: that is proved
// in every handshake.
class ChainCache {
 public:
  static constexpr size_t kMaxChains = 1024;

  // Path and leaf of what the peer sent, from the cache where the very same bytes were seen and are valid
  // still.
  Result<VerifiedPeer> verify(X509_STORE_CTX* store);
  [[nodiscard]] uint64_t hits() const noexcept;

 private:
  using Fingerprint = std::array<uint8_t, 32>;  // SHA-256
  struct Hash {
    size_t operator()(const Fingerprint& fingerprint) const noexcept;
  };
  static Result<Fingerprint> fingerprint_of(X509_STORE_CTX* store);
  [[nodiscard]] std::optional<VerifiedPeer> find(const Fingerprint& fingerprint);
  void remember(const Fingerprint& fingerprint, const VerifiedPeer& peer);

  mutable std::mutex mutex_;
  std::unordered_map<Fingerprint, VerifiedPeer, Hash> chains_;
  uint64_t hits_ = 0;
};

}  // namespace fairlead::tls
