// Certificates for tests: authorities, intermediates and leafs, good ones by default and wrong in any way
// that is asked for. P-256 throughout. What cannot be made aborts the test program.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace fairlead::testing {

struct Issued {
  std::string certificate_pem;
  std::string key_pem;
};

struct CertificateShape {
  std::vector<std::string> uris;  // SAN, any bytes
  std::vector<std::string> dns;   // SAN
  std::string common_name;        // empty: no subject, SAN critical
  std::chrono::seconds starts_in{-3600};
  std::chrono::seconds ends_in{3600};
  bool ca = false;
  std::string path_length;                              // of a CA, empty: none
  std::string key_usage = "critical,digitalSignature";  // empty: none
  std::string extended_key_usage = "serverAuth,clientAuth";
  bool key_ids = true;  // subject and authority key identifiers
};

// The shape of a good workload certificate.
CertificateShape workload(const std::string& uri);

class Authority {
 public:
  static Authority root(const std::string& name);
  // A certificate and its key in the role of an authority, whether it may be one or not.
  static Authority of(Issued self) { return Authority(std::move(self)); }
  // A root without the key identifiers that strict path checking asks for.
  static Authority root_without_key_ids(const std::string& name);
  [[nodiscard]] Authority intermediate(const std::string& name, bool key_ids = true) const;
  [[nodiscard]] Issued issue(const CertificateShape& shape) const;
  // As issue(), for the key of a CSR; names and usages come from the shape.
  [[nodiscard]] std::string sign(const std::string& csr_pem, const CertificateShape& shape) const;
  [[nodiscard]] const std::string& certificate_pem() const { return self_.certificate_pem; }
  [[nodiscard]] const std::string& key_pem() const { return self_.key_pem; }

 private:
  explicit Authority(Issued self) : self_(std::move(self)) {}
  Issued self_;
};

}  // namespace fairlead::testing
