#include "control/ca/csr.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include "base/scope.h"
#include "control/ca/issuer.h"

namespace fairlead::ca {
namespace {

constexpr int kMinRsaBits = 2048;
constexpr int kMaxRsaBits = 8192;  // to verify a larger one costs more than a request is worth

Error denied(std::string_view why) {
  ERR_clear_error();
  return {ErrorKind::kDenied, fmt::format("CSR: {}", why)};
}

Result<void> check_key(EVP_PKEY* key) {
  const int type = EVP_PKEY_get_base_id(key);
  const int bits = EVP_PKEY_get_bits(key);
  if (type == EVP_PKEY_ED25519) return {};
  if (type == EVP_PKEY_RSA && bits >= kMinRsaBits && bits <= kMaxRsaBits) return {};
  char group[64] = "";
  size_t length = 0;
  if (type == EVP_PKEY_EC && EVP_PKEY_get_group_name(key, group, sizeof group, &length) == 1) {
    const std::string_view name(group, length);
    if (name == "prime256v1" || name == "P-256" || name == "secp384r1" || name == "P-384") return {};
  }
  return denied("key is none of P-256, P-384, Ed25519, RSA of 2048 to 8192 bits");
}

// One request for extensions at most: OpenSSL reads only the first of several.
Result<void> check_attributes(const X509_REQ* request) {
  int asking = 0;
  for (int i = 0; i < X509_REQ_get_attr_count(request); ++i) {
    X509_ATTRIBUTE* attribute = X509_REQ_get_attr(request, i);
    const int nid = OBJ_obj2nid(X509_ATTRIBUTE_get0_object(attribute));
    if (nid == NID_ext_req || nid == NID_ms_ext_req) asking += X509_ATTRIBUTE_count(attribute);
  }
  if (asking > 1) return denied("asks for extensions more than once");
  return {};
}

Result<void> check_names(X509_REQ* request, const SpiffeId& identity) {
  FL_TRY(check_attributes(request));
  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(request);
  const ScopeExit cleanup([&] { sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free); });
  int critical = 0;  // -1: not there, -2: there more than once
  const NamesPtr names(
      static_cast<GENERAL_NAMES*>(X509V3_get_d2i(extensions, NID_subject_alt_name, &critical, nullptr)));
  if (names == nullptr) {
    if (critical == -1) return {};
    return denied("subject alternative name is malformed or there twice");
  }
  if (sk_GENERAL_NAME_num(names.get()) != 1) return denied("has more names than one");
  const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), 0);
  if (name->type != GEN_URI) return denied("has a name that is no URI");
  const ASN1_STRING* uri = name->d.uniformResourceIdentifier;
  // By length: a NUL inside would cut a C string short.
  const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                              static_cast<size_t>(ASN1_STRING_length(uri)));
  if (text != identity.uri()) return denied(fmt::format("asks for another name than {}", identity.uri()));
  return {};
}

}  // namespace

Result<RequestPtr> check_csr(const std::string& pem, const SpiffeId& identity) {
  if (pem.size() > kMaxCsrBytes) return denied("too large");
  const BioPtr in = reading(pem);
  RequestPtr request(in == nullptr ? nullptr
                                   : PEM_read_bio_X509_REQ(in.get(), nullptr, no_passphrase, nullptr));
  if (request == nullptr) return denied("is not a PKCS#10 request in PEM");
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (key == nullptr) return denied("has no readable key");
  FL_TRY(check_key(key));
  if (X509_REQ_verify(request.get(), key) != 1) return denied("signature does not verify");
  FL_TRY(check_names(request.get(), identity));
  return request;
}

}  // namespace fairlead::ca
