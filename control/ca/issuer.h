// Who signs workload certificates, and what a CSR may ask for. The embedded development CA here; others stand
// beside it. Thread: any (roots are swapped whole; OpenSSL keys are read-only once made), one for refresh().
// Errors: kDenied for a CSR that asks for what it must not, kTls for OpenSSL's own, kSyscall for files.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/spiffe_id.h"

namespace fairlead::ca {

constexpr std::chrono::seconds kDefaultTtl{24 * 3600};
constexpr std::chrono::seconds kMinTtl{10};
constexpr size_t kMaxCsrBytes = 16 * 1024;

struct IssuedCertificate {
  std::string leaf_pem;
  std::string serial;
  std::string roots_pem;  // what its holder is to trust
};

class Issuer {
 public:
  virtual ~Issuer() = default;
  // The CSR may carry no name but `identity`; the certificate carries exactly `identity`. ttl is clamped to
  // [kMinTtl, the issuer's longest]; 0 or less means the longest.
  virtual Result<IssuedCertificate> sign(const std::string& csr_pem, const SpiffeId& identity,
                                         std::chrono::seconds ttl) = 0;
  [[nodiscard]] virtual std::string roots_pem() const = 0;
};

struct ServerCertificate {
  std::string chain_pem;
  std::string key_pem;
};

enum class RootsChanged { kNo, kTrusted, kSigner };

// Root made on first start under `directory` (key mode 0600), used again later; roots.h tells how it changes.
class DevelopmentCa final : public Issuer {
 public:
  static Result<std::unique_ptr<DevelopmentCa>> open(const std::string& directory,
                                                     std::chrono::seconds longest = kDefaultTtl);
  ~DevelopmentCa() override;
  Result<IssuedCertificate> sign(const std::string& csr_pem, const SpiffeId& identity,
                                 std::chrono::seconds ttl) override;
  [[nodiscard]] std::string roots_pem() const override;
  // Takes what is in the files now, all of it or, on an error, nothing.
  Result<RootsChanged> refresh();
  // The controller's own certificate, with these DNS names and IP addresses.
  Result<ServerCertificate> server_certificate(const std::vector<std::string>& dns,
                                               const std::vector<std::string>& ips);

 private:
  struct Impl;
  explicit DevelopmentCa(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::ca
