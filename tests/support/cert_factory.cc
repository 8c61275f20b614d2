#include "support/cert_factory.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace fairlead::testing {
namespace {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using Bio = std::unique_ptr<BIO, Deleter<BIO_free>>;

void must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "cert_factory: %s\n", what);
  std::abort();
}

std::string text_of(BIO* bio) {
  char* text = nullptr;
  const long length = BIO_get_mem_data(bio, &text);
  return {text, static_cast<size_t>(length)};
}

std::string pem_of(X509* certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  must(PEM_write_bio_X509(bio.get(), certificate) == 1, "write certificate");
  return text_of(bio.get());
}

std::string pem_of(EVP_PKEY* key) {
  const Bio bio(BIO_new(BIO_s_mem()));
  must(PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1,
       "write key");
  return text_of(bio.get());
}

Certificate read_certificate(const std::string& pem) {
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  must(certificate != nullptr, "read certificate");
  return certificate;
}

Key read_key(const std::string& pem) {
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  must(key != nullptr, "read key");
  return key;
}

void add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  if (value.empty()) return;
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  must(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1, value.c_str());
  X509_EXTENSION_free(extension);
}

void add_name(GENERAL_NAMES* names, int type, const std::string& bytes) {
  GENERAL_NAME* name = GENERAL_NAME_new();
  ASN1_IA5STRING* text = ASN1_IA5STRING_new();
  must(ASN1_STRING_set(text, bytes.data(), static_cast<int>(bytes.size())) == 1, "name");
  GENERAL_NAME_set0_value(name, type, text);
  sk_GENERAL_NAME_push(names, name);
}

void add_alternative_names(X509* certificate, const CertificateShape& shape) {
  if (shape.uris.empty() && shape.dns.empty()) return;
  GENERAL_NAMES* names = sk_GENERAL_NAME_new_null();
  for (const std::string& dns : shape.dns) add_name(names, GEN_DNS, dns);
  for (const std::string& uri : shape.uris) add_name(names, GEN_URI, uri);
  const int critical = shape.common_name.empty() ? 1 : 0;
  must(X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, critical, X509V3_ADD_DEFAULT) == 1, "SAN");
  GENERAL_NAMES_free(names);
}

void set_basics(X509* certificate, const CertificateShape& shape, EVP_PKEY* key) {
  unsigned char serial[8];
  must(RAND_bytes(serial, sizeof(serial)) == 1, "serial");
  serial[0] &= 0x7f;
  BIGNUM* number = BN_bin2bn(serial, sizeof(serial), nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
  BN_free(number);
  X509_set_version(certificate, X509_VERSION_3);
  X509_gmtime_adj(X509_getm_notBefore(certificate), shape.starts_in.count());
  X509_gmtime_adj(X509_getm_notAfter(certificate), shape.ends_in.count());
  if (!shape.common_name.empty()) {
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                               reinterpret_cast<const unsigned char*>(shape.common_name.c_str()), -1, -1, 0);
  }
  must(X509_set_pubkey(certificate, key) == 1, "public key");
}

// `issuer` null: self-signed.
std::string make(const CertificateShape& shape, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key) {
  const Certificate certificate(X509_new());
  X509* raw = certificate.get();
  set_basics(raw, shape, key);
  X509* by = issuer != nullptr ? issuer : raw;
  X509_set_issuer_name(raw, X509_get_subject_name(by));
  std::string constraints = shape.ca ? "critical,CA:TRUE" : "critical,CA:FALSE";
  if (!shape.path_length.empty()) constraints += ",pathlen:" + shape.path_length;
  add_extension(raw, by, NID_basic_constraints, constraints);
  add_extension(raw, by, NID_key_usage, shape.key_usage);
  add_extension(raw, by, NID_ext_key_usage, shape.extended_key_usage);
  if (shape.key_ids) {
    add_extension(raw, by, NID_subject_key_identifier, "hash");
    if (issuer != nullptr && X509_get0_subject_key_id(issuer) != nullptr) {
      add_extension(raw, by, NID_authority_key_identifier, "keyid:always");
    }
  }
  add_alternative_names(raw, shape);
  must(X509_sign(raw, issuer_key, EVP_sha256()) > 0, "sign");
  return pem_of(raw);
}

CertificateShape authority_shape(const std::string& name, bool key_ids) {
  CertificateShape shape;
  shape.common_name = name;
  shape.ends_in = std::chrono::hours(24);
  shape.ca = true;
  shape.key_usage = "critical,keyCertSign,cRLSign";
  shape.extended_key_usage.clear();
  shape.key_ids = key_ids;
  return shape;
}

Issued self_signed(const CertificateShape& shape) {
  const Key key(EVP_EC_gen("P-256"));
  return {make(shape, key.get(), nullptr, key.get()), pem_of(key.get())};
}

}  // namespace

CertificateShape workload(const std::string& uri) {
  CertificateShape shape;
  shape.uris = {uri};
  return shape;
}

Authority Authority::root(const std::string& name) {
  return Authority(self_signed(authority_shape(name, true)));
}
Authority Authority::root_without_key_ids(const std::string& name) {
  return Authority(self_signed(authority_shape(name, false)));
}
Authority Authority::intermediate(const std::string& name, bool key_ids) const {
  return Authority(issue(authority_shape(name, key_ids)));
}

Issued Authority::issue(const CertificateShape& shape) const {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate issuer = read_certificate(self_.certificate_pem);
  const Key issuer_key = read_key(self_.key_pem);
  return {make(shape, key.get(), issuer.get(), issuer_key.get()), pem_of(key.get())};
}

std::string Authority::sign(const std::string& csr_pem, const CertificateShape& shape) const {
  const Bio bio(BIO_new_mem_buf(csr_pem.data(), static_cast<int>(csr_pem.size())));
  X509_REQ* request = PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr);
  must(request != nullptr && X509_REQ_verify(request, X509_REQ_get0_pubkey(request)) == 1, "CSR");
  const Certificate issuer = read_certificate(self_.certificate_pem);
  const Key issuer_key = read_key(self_.key_pem);
  std::string pem = make(shape, X509_REQ_get0_pubkey(request), issuer.get(), issuer_key.get());
  X509_REQ_free(request);
  return pem;
}

}  // namespace fairlead::testing
