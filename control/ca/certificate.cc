#include "control/ca/certificate.h"

#include <openssl/rand.h>

namespace fairlead::ca {
namespace {

constexpr long kBackdateSeconds = 120;  // clocks of nodes differ
constexpr int kSerialBytes = 16;

bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_random_serial(X509* certificate) {
  unsigned char bytes[kSerialBytes];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
  bytes[0] =
      static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);  // positive, always 16 octets (RFC 5280 §4.1.2.2)
  const BigNumberPtr number(BN_bin2bn(bytes, sizeof bytes, nullptr));
  return number != nullptr && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

// No certificate outlives its signer.
bool set_validity(X509* certificate, const Profile& profile, const X509* signer) {
  if (X509_gmtime_adj(X509_getm_notBefore(certificate), -kBackdateSeconds) == nullptr ||
      X509_gmtime_adj(X509_getm_notAfter(certificate), static_cast<long>(profile.life.count())) == nullptr) {
    return false;
  }
  if (signer == nullptr ||
      ASN1_TIME_compare(X509_get0_notAfter(certificate), X509_get0_notAfter(signer)) <= 0)
    return true;
  return X509_set1_notAfter(certificate, X509_get0_notAfter(signer)) == 1;
}

bool set_subject(X509* certificate, const std::string& common_name) {
  return common_name.empty() ||
         X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                                    0) == 1;
}

bool set_extensions(X509* certificate, X509* issuer, const Profile& profile) {
  const auto add = [&](int nid, const std::string& value) {
    return add_extension(certificate, issuer, nid, value);
  };
  if (!add(NID_subject_key_identifier, "hash")) return false;
  if (!profile.names.empty() && !add(NID_subject_alt_name, profile.names)) return false;
  if (profile.ca)
    return add(NID_basic_constraints, "critical,CA:TRUE") &&
           add(NID_key_usage, "critical,keyCertSign,cRLSign");
  return add(NID_basic_constraints, "critical,CA:FALSE") && add(NID_key_usage, "critical,digitalSignature") &&
         add(NID_ext_key_usage, "serverAuth,clientAuth") && add(NID_authority_key_identifier, "keyid:always");
}

}  // namespace

Result<X509Ptr> make_certificate(const Profile& profile, EVP_PKEY* subject_key, X509* signer,
                                 EVP_PKEY* signer_key) {
  X509Ptr certificate(X509_new());
  X509* raw = certificate.get();
  X509* issuer = signer != nullptr ? signer : raw;
  const bool good = raw != nullptr && X509_set_version(raw, X509_VERSION_3) == 1 && set_random_serial(raw) &&
                    set_validity(raw, profile, signer) && X509_set_pubkey(raw, subject_key) == 1 &&
                    set_subject(raw, profile.common_name) &&
                    X509_set_issuer_name(raw, X509_get_subject_name(issuer)) == 1 &&
                    set_extensions(raw, issuer, profile) &&
                    X509_sign(raw, signer_key != nullptr ? signer_key : subject_key, EVP_sha256()) > 0;
  if (!good) return openssl_error("make certificate");
  return certificate;
}

std::string hex_serial(const X509* certificate) {
  const BigNumberPtr number(ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr));
  char* hex = number == nullptr ? nullptr : BN_bn2hex(number.get());
  std::string text = hex != nullptr ? hex : "";
  OPENSSL_free(hex);
  return text;
}

}  // namespace fairlead::ca
