// One workload identity ready for use: private key, certificate chain, trust roots, and the SSL_CTXs made of
// them. Immutable once created and shared by every connection of that identity; a renewed certificate is a
// new object. TLS 1.3 only, AES-GCM only, ALPN h2, no tickets, no resumption, no 0-RTT (RFC 8446; SPIFFE
// X509-SVID). Thread: any (immutable). Ownership: shared_ptr. Errors: kTls with the OpenSSL reason.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/spiffe_id.h"

namespace fairlead::tls {

// A P-256 key made in this process. Never leaves it, is wiped on destruction.
class KeyPair {
 public:
  static Result<KeyPair> generate();
  KeyPair(KeyPair&&) noexcept;
  KeyPair& operator=(KeyPair&&) noexcept;
  ~KeyPair();
  // PEM of a CSR with an empty subject and the id as the only, critical, SAN.
  [[nodiscard]] Result<std::string> csr_pem(const SpiffeId& id) const;
  // PEM of the key: for tests and for the demo's foreign peers only.
  static Result<KeyPair> from_pem(std::string_view pem);
  struct Impl;
  [[nodiscard]] const Impl& impl() const noexcept { return *impl_; }

 private:
  explicit KeyPair(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

class Credentials {
 public:
  // `chain`: leaf first, then intermediates, PEM each. `roots`: PEM bundle. The leaf must carry exactly
  // `expected`.
  static Result<std::shared_ptr<const Credentials>> create(KeyPair key,
                                                           const std::vector<std::string>& chain_pem,
                                                           const std::string& roots_pem,
                                                           const SpiffeId& expected);
  ~Credentials();

  [[nodiscard]] const SpiffeId& id() const noexcept;
  [[nodiscard]] std::chrono::system_clock::time_point not_before() const noexcept;
  [[nodiscard]] std::chrono::system_clock::time_point not_after() const noexcept;
  [[nodiscard]] const std::string& serial() const noexcept;  // hex
  // Peers whose chain was verified before and not again (a counter for metrics).
  [[nodiscard]] uint64_t chains_known_again() const noexcept;
  struct Impl;
  [[nodiscard]] Impl& impl() const noexcept { return *impl_; }

 private:
  explicit Credentials(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::tls
