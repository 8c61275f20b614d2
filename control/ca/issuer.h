// Who signs workload certificates, and what a CSR may ask for. The embedded development CA here; others stand
// beside it. Thread: any (sign() locks nothing; OpenSSL keys are read-only once made). Errors: kDenied for a
// CSR that asks for what it must not, kTls for OpenSSL's own, kSyscall for files.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/spiffe_id.h"

namespace fairlead::ca {

constexpr std::chrono::seconds kDefaultTtl{24 * 3600};
constexpr std::chrono::seconds kMinTtl{60};
constexpr size_t kMaxCsrBytes = 16 * 1024;

struct IssuedCertificate {
  std::string leaf_pem;
  std::string serial;
};

class Issuer {
 public:
  virtual ~Issuer() = default;
  // The CSR may carry no name but `identity`; the certificate carries exactly `identity`. ttl is clamped to
  // [kMinTtl, kDefaultTtl]; 0 or less means kDefaultTtl.
  virtual Result<IssuedCertificate> sign(const std::string& csr_pem, const SpiffeId& identity,
                                         std::chrono::seconds ttl) = 0;
  [[nodiscard]] virtual const std::string& roots_pem() const = 0;
};

struct ServerCertificate {
  std::string chain_pem;
  std::string key_pem;
};

// Root made on first start under `directory` (key mode 0600), used again later.
class DevelopmentCa final : public Issuer {
 public:
  static Result<std::unique_ptr<DevelopmentCa>> open(const std::string& directory);
  ~DevelopmentCa() override;
  Result<IssuedCertificate> sign(const std::string& csr_pem, const SpiffeId& identity,
                                 std::chrono::seconds ttl) override;
  [[nodiscard]] const std::string& roots_pem() const override;
  // The controller's own certificate, with these DNS names and IP addresses.
  Result<ServerCertificate> server_certificate(const std::vector<std::string>& dns,
                                               const std::vector<std::string>& ips);

 private:
  struct Impl;
  explicit DevelopmentCa(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::ca
