#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/file.h"
#include "control/ca/issuer.h"

namespace fairlead::ca {
namespace {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const noexcept {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, Deleter<BIO_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using X509Ptr = std::unique_ptr<X509, Deleter<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, Deleter<X509_REQ_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, Deleter<GENERAL_NAMES_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, Deleter<X509_EXTENSION_free>>;

constexpr long kRootDays = 3650;
constexpr long kServerDays = 365;
constexpr long kBackdateSeconds = 120;  // clocks of nodes differ
constexpr int kMinRsaBits = 2048;

Error openssl_error(std::string_view operation) {
  char text[256] = "";
  if (const unsigned long code = ERR_get_error(); code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return {ErrorKind::kTls, fmt::format("{}: {}", operation, text)};
}

std::string text_of(BIO* bio) {
  char* bytes = nullptr;
  const long length = BIO_get_mem_data(bio, &bytes);
  return {bytes, static_cast<size_t>(length)};
}

std::string pem_of(X509* certificate) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), certificate);
  return text_of(out.get());
}

std::string pem_of(EVP_PKEY* key) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  PEM_write_bio_PKCS8PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return text_of(out.get());
}

bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_random_serial(X509* certificate) {
  unsigned char bytes[16];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);  // positive, always 16 octets
  BIGNUM* number = BN_bin2bn(bytes, sizeof bytes, nullptr);
  const bool good = number != nullptr && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return good;
}

struct Profile {
  std::string common_name;  // empty: empty subject
  std::string names;        // subjectAltName, empty: none
  bool ca = false;
  long seconds = 0;
};

// `signer` and `signer_key`: null for a self-signed root.
Result<X509Ptr> make_certificate(const Profile& profile, EVP_PKEY* subject_key, X509* signer, EVP_PKEY* signer_key) {
  X509Ptr certificate(X509_new());
  X509* raw = certificate.get();
  X509* issuer = signer != nullptr ? signer : raw;
  bool good = raw != nullptr && X509_set_version(raw, X509_VERSION_3) == 1 && set_random_serial(raw) &&
              X509_gmtime_adj(X509_getm_notBefore(raw), -kBackdateSeconds) != nullptr &&
              X509_gmtime_adj(X509_getm_notAfter(raw), profile.seconds) != nullptr &&
              X509_set_pubkey(raw, subject_key) == 1;
  if (good && !profile.common_name.empty()) {
    good = X509_NAME_add_entry_by_txt(X509_get_subject_name(raw), "CN", MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(profile.common_name.c_str()), -1, -1, 0) == 1;
  }
  good = good && X509_set_issuer_name(raw, X509_get_subject_name(issuer)) == 1 &&
         add_extension(raw, issuer, NID_basic_constraints, profile.ca ? "critical,CA:TRUE" : "critical,CA:FALSE") &&
         add_extension(raw, issuer, NID_key_usage, profile.ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature") &&
         add_extension(raw, issuer, NID_subject_key_identifier, "hash") &&
         (profile.ca || add_extension(raw, issuer, NID_ext_key_usage, "serverAuth,clientAuth")) &&
         (profile.ca || add_extension(raw, issuer, NID_authority_key_identifier, "keyid:always")) &&
         (profile.names.empty() || add_extension(raw, issuer, NID_subject_alt_name, profile.names)) &&
         X509_sign(raw, signer_key != nullptr ? signer_key : subject_key, EVP_sha256()) > 0;
  if (!good) return openssl_error("certificate");
  return certificate;
}

// ---- CSR checks ---------------------------------------------------------------------------------------------------------

Error denied(std::string_view why) { return {ErrorKind::kDenied, fmt::format("CSR: {}", why)}; }

Result<void> check_key(EVP_PKEY* key) {
  const int type = EVP_PKEY_get_base_id(key);
  if (type == EVP_PKEY_ED25519) return {};
  if (type == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) >= kMinRsaBits) return {};
  char group[64] = "";
  size_t length = 0;
  if (type == EVP_PKEY_EC && EVP_PKEY_get_group_name(key, group, sizeof group, &length) == 1) {
    const std::string_view name(group, length);
    if (name == "prime256v1" || name == "P-256" || name == "secp384r1" || name == "P-384") return {};
  }
  return denied("key must be P-256, P-384, Ed25519 or RSA of 2048 bits");
}

Result<void> check_names(X509_REQ* request, const SpiffeId& identity) {
  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(request);
  int critical = 0;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(X509V3_get_d2i(extensions, NID_subject_alt_name, &critical, nullptr)));
  const int at = X509v3_get_ext_by_NID(extensions, NID_subject_alt_name, -1);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  if (names == nullptr && at >= 0) return denied("subject alternative name is malformed or there twice");
  const std::string wanted = identity.uri();
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) return denied("has a name that is no URI");
    const ASN1_STRING* uri = name->d.uniformResourceIdentifier;
    const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), static_cast<size_t>(ASN1_STRING_length(uri)));
    if (text != wanted || i > 0) return denied(fmt::format("asks for more or other names than {}", wanted));
  }
  return {};
}

Result<RequestPtr> read_csr(const std::string& pem, const SpiffeId& identity) {
  if (pem.size() > kMaxCsrBytes) return denied("too large");
  const BioPtr in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  RequestPtr request(PEM_read_bio_X509_REQ(in.get(), nullptr, nullptr, nullptr));
  if (request == nullptr) {
    ERR_clear_error();
    return denied("is not a PKCS#10 request in PEM");
  }
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (key == nullptr || X509_REQ_verify(request.get(), key) != 1) {
    ERR_clear_error();
    return denied("signature does not verify");
  }
  FL_TRY(check_key(key));
  FL_TRY(check_names(request.get(), identity));
  return request;
}

std::string hex_serial(X509* certificate) {
  BIGNUM* number = ASN1_INTEGER_to_BN(X509_get_serialNumber(certificate), nullptr);
  char* hex = BN_bn2hex(number);
  std::string text = hex != nullptr ? hex : "";
  OPENSSL_free(hex);
  BN_free(number);
  return text;
}

}  // namespace

struct DevelopmentCa::Impl {
  KeyPtr key;
  X509Ptr root;
  std::string root_pem;
};

DevelopmentCa::DevelopmentCa(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
DevelopmentCa::~DevelopmentCa() = default;
const std::string& DevelopmentCa::roots_pem() const { return impl_->root_pem; }

Result<std::unique_ptr<DevelopmentCa>> DevelopmentCa::open(const std::string& directory) {
  FL_TRY(make_directories(directory, 0700));
  const std::string key_path = directory + "/root-key.pem";
  const std::string root_path = directory + "/root-cert.pem";
  auto impl = std::make_unique<Impl>();
  const auto key_pem = read_file(key_path);
  if (key_pem) {
    FL_TRY_ASSIGN(impl->root_pem, read_file(root_path));
    const BioPtr key_in(BIO_new_mem_buf(key_pem->data(), static_cast<int>(key_pem->size())));
    const BioPtr root_in(BIO_new_mem_buf(impl->root_pem.data(), static_cast<int>(impl->root_pem.size())));
    impl->key.reset(PEM_read_bio_PrivateKey(key_in.get(), nullptr, nullptr, nullptr));
    impl->root.reset(PEM_read_bio_X509(root_in.get(), nullptr, nullptr, nullptr));
    if (impl->key == nullptr || impl->root == nullptr || X509_check_private_key(impl->root.get(), impl->key.get()) != 1) {
      return openssl_error(fmt::format("{} and {} do not fit together", key_path, root_path));
    }
    return std::unique_ptr<DevelopmentCa>(new DevelopmentCa(std::move(impl)));
  }
  if (key_pem.error().code() != ENOENT) return key_pem.error();
  impl->key.reset(EVP_EC_gen("P-256"));
  if (impl->key == nullptr) return openssl_error("root key");
  const Profile profile{"Fairlead development CA", "", true, kRootDays * 86400};
  FL_TRY_ASSIGN(impl->root, make_certificate(profile, impl->key.get(), nullptr, nullptr));
  impl->root_pem = pem_of(impl->root.get());
  // The key last: a root without its key is made anew, a key without its root would be an error.
  FL_TRY(write_file_atomically(root_path, impl->root_pem, 0644));
  FL_TRY(write_file_atomically(key_path, pem_of(impl->key.get()), 0600));
  return std::unique_ptr<DevelopmentCa>(new DevelopmentCa(std::move(impl)));
}

Result<IssuedCertificate> DevelopmentCa::sign(const std::string& csr_pem, const SpiffeId& identity, std::chrono::seconds ttl) {
  FL_TRY_ASSIGN(const RequestPtr request, read_csr(csr_pem, identity));
  if (ttl.count() <= 0) ttl = kDefaultTtl;
  ttl = std::clamp(ttl, kMinTtl, kDefaultTtl);
  const Profile profile{"", "critical,URI:" + identity.uri(), false, static_cast<long>(ttl.count())};
  FL_TRY_ASSIGN(const X509Ptr leaf,
                make_certificate(profile, X509_REQ_get0_pubkey(request.get()), impl_->root.get(), impl_->key.get()));
  return IssuedCertificate{pem_of(leaf.get()), hex_serial(leaf.get())};
}

Result<ServerCertificate> DevelopmentCa::server_certificate(const std::vector<std::string>& dns, const std::vector<std::string>& ips) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return openssl_error("server key");
  std::string names;
  for (const std::string& name : dns) names += (names.empty() ? "DNS:" : ",DNS:") + name;
  for (const std::string& ip : ips) names += (names.empty() ? "IP:" : ",IP:") + ip;
  const Profile profile{"fairlead-controller", names, false, kServerDays * 86400};
  FL_TRY_ASSIGN(const X509Ptr leaf, make_certificate(profile, key.get(), impl_->root.get(), impl_->key.get()));
  return ServerCertificate{pem_of(leaf.get()), pem_of(key.get())};
}

}  // namespace fairlead::ca
