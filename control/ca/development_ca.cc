#include <openssl/pem.h>
#include <openssl/rand.h>

#include <algorithm>

#include "base/file.h"
#include "control/ca/csr.h"
#include "control/ca/issuer.h"
#include "control/ca/openssl.h"

namespace fairlead::ca {
namespace {

constexpr std::chrono::seconds kRootLife{3650L * 86400};
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

struct Profile {
  std::string common_name;  // empty: empty subject
  std::string names;        // subjectAltName, empty: none
  bool ca = false;
  std::chrono::seconds life{};
};

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

// `signer` and `signer_key`: null for a self-signed root.
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

}  // namespace

struct DevelopmentCa::Impl {
  KeyPtr key;
  X509Ptr root;
  std::string root_pem;

  Result<void> load(const std::string& key_pem, const std::string& where);
  Result<void> make(const std::string& key_path, const std::string& root_path);
};

Result<void> DevelopmentCa::Impl::load(const std::string& key_pem, const std::string& where) {
  auto loaded = key_of(key_pem);
  if (!loaded) return std::move(loaded).error().context(where);
  key = std::move(*loaded);
  const BioPtr in = reading(root_pem);
  root.reset(in == nullptr ? nullptr : PEM_read_bio_X509(in.get(), nullptr, no_passphrase, nullptr));
  if (root == nullptr || X509_check_private_key(root.get(), key.get()) != 1) {
    return openssl_error(fmt::format("{}: root certificate and key do not fit together", where));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(root.get())) <= 0) {
    return Error(ErrorKind::kTls, fmt::format("{}: root certificate has expired", where));
  }
  return {};
}

Result<void> DevelopmentCa::Impl::make(const std::string& key_path, const std::string& root_path) {
  FL_TRY_ASSIGN(key, make_p256_key());
  FL_TRY_ASSIGN(
      root, make_certificate({"Fairlead development CA", "", true, kRootLife}, key.get(), nullptr, nullptr));
  FL_TRY_ASSIGN(root_pem, pem_of(root.get()));
  FL_TRY_ASSIGN(const std::string key_pem, pem_of(key.get()));
  // The key last: a root without its key is made anew, a key without its root is an error.
  FL_TRY(write_file_atomically(root_path, root_pem, 0644));
  return write_file_atomically(key_path, key_pem, 0600);
}

DevelopmentCa::DevelopmentCa(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
DevelopmentCa::~DevelopmentCa() = default;
const std::string& DevelopmentCa::roots_pem() const {
  return impl_->root_pem;
}

Result<std::unique_ptr<DevelopmentCa>> DevelopmentCa::open(const std::string& directory) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const std::string key_path = directory + "/root-key.pem";
  const std::string root_path = directory + "/root-cert.pem";
  auto impl = std::make_unique<Impl>();
  const auto key_pem = read_file(key_path);
  if (key_pem) {
    FL_TRY_ASSIGN(impl->root_pem, read_file(root_path));
    FL_TRY(impl->load(*key_pem, directory));
  } else if (key_pem.error().code() == ENOENT) {
    FL_TRY(impl->make(key_path, root_path));
  } else {
    return key_pem.error();
  }
  return std::unique_ptr<DevelopmentCa>(new DevelopmentCa(std::move(impl)));
}

Result<IssuedCertificate> DevelopmentCa::sign(const std::string& csr_pem, const SpiffeId& identity,
                                              std::chrono::seconds ttl) {
  FL_TRY_ASSIGN(const RequestPtr request, check_csr(csr_pem, identity));
  if (ttl.count() <= 0) ttl = kDefaultTtl;
  ttl = std::clamp(ttl, kMinTtl, kDefaultTtl);
  // The subject is empty, so the name is critical (RFC 5280 §4.2.1.6).
  FL_TRY_ASSIGN(const X509Ptr leaf,
                make_certificate({"", "critical,URI:" + identity.uri(), false, ttl},
                                 X509_REQ_get0_pubkey(request.get()), impl_->root.get(), impl_->key.get()));
  FL_TRY_ASSIGN(std::string pem, pem_of(leaf.get()));
  return IssuedCertificate{std::move(pem), hex_serial(leaf.get())};
}

Result<ServerCertificate> DevelopmentCa::server_certificate(const std::vector<std::string>& dns,
                                                            const std::vector<std::string>& ips) {
  FL_TRY_ASSIGN(const KeyPtr key, make_p256_key());
  std::string names;
  for (const std::string& name : dns) names += (names.empty() ? "DNS:" : ",DNS:") + name;
  for (const std::string& ip : ips) names += (names.empty() ? "IP:" : ",IP:") + ip;
  // Made anew with every start and kept in memory only: it may last as long as the root.
  FL_TRY_ASSIGN(const X509Ptr leaf, make_certificate({"fairlead-controller", names, false, kRootLife},
                                                     key.get(), impl_->root.get(), impl_->key.get()));
  FL_TRY_ASSIGN(std::string chain, pem_of(leaf.get()));
  FL_TRY_ASSIGN(std::string key_pem, pem_of(key.get()));
  return ServerCertificate{std::move(chain), std::move(key_pem)};
}

}  // namespace fairlead::ca
