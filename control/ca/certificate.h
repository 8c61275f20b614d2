// Certificates of this CA: roots and leaves. Private to the folder.
#pragma once

#include <chrono>
#include <string>

#include "control/ca/openssl.h"

namespace fairlead::ca {

constexpr std::chrono::seconds kRootLife{3650L * 86400};

struct Profile {
  std::string common_name;  // empty: empty subject
  std::string names;        // subjectAltName, empty: none
  bool ca = false;
  std::chrono::seconds life{};
};

// `signer` and `signer_key`: null for a self-signed root.
Result<X509Ptr> make_certificate(const Profile& profile, EVP_PKEY* subject_key, X509* signer,
                                 EVP_PKEY* signer_key);
std::string hex_serial(const X509* certificate);

}  // namespace fairlead::ca
