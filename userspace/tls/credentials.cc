#include "tls/credentials.h"

#include <openssl/ec.h>
#include <openssl/pem.h>

#include <array>

#include "tls/credentials_impl.h"
#include "tls/verify.h"

namespace fairlead::tls {
namespace {

constexpr const char* kCipherSuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
constexpr const char* kGroups = "X25519:P-256";

constexpr const char* kSignatures =
    "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ed25519:rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_"
    "rsae_sha512:"
    // In certificates only: TLS 1.3 itself does not sign by PKCS #1.
    "rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512";
constexpr int kSecurityLevel = 2;  // not what the host's openssl.cnf says: 112 bits, no SHA-1
constexpr size_t kMaxPem = 1024 * 1024;
constexpr size_t kMaxCertificates = 1024;  // of one bundle

Result<BioPtr> memory(std::string_view text) {
  if (text.size() > kMaxPem) return Error(ErrorKind::kTls, "PEM too long");
  BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) return openssl_error("BIO_new_mem_buf");
  return bio;
}

// No passphrase: OpenSSL would ask for one on the terminal.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

Result<std::vector<X509Ptr>> read_certificates(std::string_view pem) {
  FL_TRY_ASSIGN(const BioPtr bio, memory(pem));
  std::vector<X509Ptr> certificates;
  ERR_clear_error();
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr)) {
    certificates.emplace_back(certificate);
    if (certificates.size() > kMaxCertificates) return Error(ErrorKind::kTls, "too many certificates in PEM");
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!at_end) return openssl_error("certificate PEM");
  ERR_clear_error();
  if (certificates.empty()) return Error(ErrorKind::kTls, "no certificate in PEM");
  return certificates;
}

Result<std::vector<X509Ptr>> read_chain(const std::vector<std::string>& chain_pem) {
  std::vector<X509Ptr> chain;
  long bytes = 0;
  for (const std::string& pem : chain_pem) {
    FL_TRY_ASSIGN(auto part, read_certificates(pem));
    for (X509Ptr& certificate : part) {
      bytes += i2d_X509(certificate.get(), nullptr);
      if (bytes > kMaxChainBytes) return Error(ErrorKind::kTls, "certificate chain too long");
      chain.push_back(std::move(certificate));
    }
  }
  if (chain.empty()) return Error(ErrorKind::kTls, "empty certificate chain");
  return chain;
}

Result<StorePtr> trust_store(const std::string& roots_pem) {
  FL_TRY_ASSIGN(const auto roots, read_certificates(roots_pem));
  StorePtr store(X509_STORE_new());
  if (store == nullptr) return openssl_error("X509_STORE_new");
  for (const X509Ptr& root : roots) {
    if (X509_STORE_add_cert(store.get(), root.get()) != 1) return openssl_error("trust root");
  }
  // A bundle may hold an intermediate as the anchor.
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_X509_STRICT);
  X509_STORE_set_depth(store.get(), kMaxChainDepth);
  return store;
}

Result<void> present(SSL_CTX* context, const Credentials::Impl& impl, const std::vector<X509Ptr>& chain) {
  const bool good = SSL_CTX_use_certificate(context, chain.front().get()) == 1 &&
                    SSL_CTX_use_PrivateKey(context, impl.key.impl().key.get()) == 1 &&
                    SSL_CTX_check_private_key(context) == 1;
  if (!good) return openssl_error("own certificate and key");
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) return openssl_error("chain certificate");
  }
  return {};
}

Result<SslContextPtr> make_context(bool server, const Credentials::Impl& impl,
                                   const std::vector<X509Ptr>& chain, X509_STORE* roots) {
  SslContextPtr context(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX* raw = context.get();
  if (raw == nullptr) return openssl_error("SSL_CTX_new");
  SSL_CTX_set_security_level(raw, kSecurityLevel);
  const bool good =
      SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) == 1 &&
      SSL_CTX_set_ciphersuites(raw, kCipherSuites) == 1 && SSL_CTX_set1_groups_list(raw, kGroups) == 1 &&
      SSL_CTX_set1_sigalgs_list(raw, kSignatures) == 1 && SSL_CTX_set_num_tickets(raw, 0) == 1 &&
      SSL_CTX_set_max_early_data(raw, 0) == 1 && SSL_CTX_set_recv_max_early_data(raw, 0) == 1;
  if (!good) return openssl_error("TLS context");
  FL_TRY(present(raw, impl, chain));
  SSL_CTX_set1_cert_store(raw, roots);
  SSL_CTX_set_options(
      raw, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | (server ? SSL_OP_CIPHER_SERVER_PREFERENCE : 0));
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
  SSL_CTX_set_max_cert_list(raw, kMaxChainBytes);
  SSL_CTX_set_read_ahead(raw, 0);
  install_handshake_callbacks(raw, server);
  return context;
}

// The chain must stand before our own roots, in both roles: better now than in front of every peer.
Result<void> verify_own_chain(const std::vector<X509Ptr>& chain, X509_STORE* roots) {
  const std::unique_ptr<STACK_OF(X509), decltype([](STACK_OF(X509) * stack) { sk_X509_free(stack); })> others(
      sk_X509_new_null());
  for (size_t i = 1; i < chain.size(); ++i) {
    if (sk_X509_push(others.get(), chain[i].get()) <= 0) return openssl_error("own chain");
  }
  for (const char* role : {"ssl_client", "ssl_server"}) {
    const StoreContextPtr context(X509_STORE_CTX_new());
    if (context == nullptr ||
        X509_STORE_CTX_init(context.get(), roots, chain.front().get(), others.get()) != 1 ||
        X509_STORE_CTX_set_default(context.get(), role) != 1) {
      return openssl_error("own chain");
    }
    X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(context.get()), kSecurityLevel);
    if (auto good = verify_path(context.get()); !good) return std::move(good).error().context("own chain");
  }
  return {};
}

// SAN with the id alone. Made of the object, not of a configuration line: no spelling of an id can add a
// name.
Result<ExtensionPtr> only_san(const SpiffeId& id) {
  FL_TRY(SpiffeId::make(id.trust_domain, id.ns, id.service_account));
  const std::string uri = id.uri();
  const GeneralNamesPtr names(sk_GENERAL_NAME_new_null());
  GENERAL_NAME* name = GENERAL_NAME_new();
  if (names == nullptr || name == nullptr || sk_GENERAL_NAME_push(names.get(), name) <= 0) {
    GENERAL_NAME_free(name);
    return openssl_error("CSR: name");
  }
  ASN1_IA5STRING* text = ASN1_IA5STRING_new();
  if (text == nullptr || ASN1_STRING_set(text, uri.data(), static_cast<int>(uri.size())) != 1) {
    ASN1_IA5STRING_free(text);
    return openssl_error("CSR: name");
  }
  GENERAL_NAME_set0_value(name, GEN_URI, text);
  ExtensionPtr extension(X509V3_EXT_i2d(NID_subject_alt_name, 1, names.get()));
  if (extension == nullptr) return openssl_error("CSR: extension");
  return extension;
}

}  // namespace

// ---- KeyPair
// ------------------------------------------------------------------------------------------------------------

KeyPair::KeyPair(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
KeyPair::KeyPair(KeyPair&&) noexcept = default;
KeyPair& KeyPair::operator=(KeyPair&&) noexcept = default;
KeyPair::~KeyPair() = default;  // EVP_PKEY_free wipes

Result<KeyPair> KeyPair::generate() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return openssl_error("P-256 key");
  return KeyPair(std::make_unique<Impl>(Impl{std::move(key)}));
}

Result<KeyPair> KeyPair::from_pem(std::string_view pem) {
  FL_TRY_ASSIGN(const BioPtr bio, memory(pem));
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) return openssl_error("private key PEM");
  std::array<char, 64> group{};
  if (EVP_PKEY_get_group_name(key.get(), group.data(), group.size(), nullptr) != 1 ||
      std::string_view(group.data()) != SN_X9_62_prime256v1) {
    ERR_clear_error();
    return Error(ErrorKind::kTls, "private key PEM: not a P-256 key");
  }
  return KeyPair(std::make_unique<Impl>(Impl{std::move(key)}));
}

Result<std::string> KeyPair::csr_pem(const SpiffeId& id) const {
  FL_TRY_ASSIGN(ExtensionPtr extension, only_san(id));
  const RequestPtr request(X509_REQ_new());
  const ExtensionsPtr extensions(sk_X509_EXTENSION_new_null());
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (extensions == nullptr || sk_X509_EXTENSION_push(extensions.get(), extension.get()) <= 0)
    return openssl_error("CSR");
  (void)extension.release();  // the stack's now
  const bool good = request != nullptr && out != nullptr &&
                    X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1 &&
                    X509_REQ_set_pubkey(request.get(), impl_->key.get()) == 1 &&
                    X509_REQ_add_extensions(request.get(), extensions.get()) == 1 &&
                    X509_REQ_sign(request.get(), impl_->key.get(), EVP_sha256()) > 0 &&
                    PEM_write_bio_X509_REQ(out.get(), request.get()) == 1;
  if (!good) return openssl_error("CSR");
  char* text = nullptr;
  const long length = BIO_get_mem_data(out.get(), &text);
  return std::string(text, static_cast<size_t>(length));
}

// ---- Credentials
// ----------------------------------------------------------------------------------------------------------

Credentials::Credentials(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Credentials::~Credentials() = default;
const SpiffeId& Credentials::id() const noexcept {
  return impl_->id;
}
std::chrono::system_clock::time_point Credentials::not_before() const noexcept {
  return impl_->not_before;
}
std::chrono::system_clock::time_point Credentials::not_after() const noexcept {
  return impl_->not_after;
}
const std::string& Credentials::serial() const noexcept {
  return impl_->serial;
}

uint64_t Credentials::chains_known_again() const noexcept {
  return impl_->verified_clients.hits() + impl_->verified_servers.hits();
}

Result<std::shared_ptr<const Credentials>> Credentials::create(KeyPair key,
                                                               const std::vector<std::string>& chain_pem,
                                                               const std::string& roots_pem,
                                                               const SpiffeId& expected) {
  FL_TRY_ASSIGN(const auto chain, read_chain(chain_pem));
  X509* leaf = chain.front().get();
  FL_TRY_ASSIGN(SpiffeId id, leaf_identity(leaf));
  if (id != expected) {
    return Error(ErrorKind::kTls,
                 fmt::format("certificate is for {}, asked for {}", id.uri(), expected.uri()));
  }
  FL_TRY_ASSIGN(const StorePtr roots, trust_store(roots_pem));
  FL_TRY(verify_own_chain(chain, roots.get()));
  auto impl = std::make_unique<Impl>(std::move(key), std::move(id));
  impl->serial = serial_of(leaf);
  impl->not_before = time_of(X509_get0_notBefore(leaf));
  impl->not_after = time_of(X509_get0_notAfter(leaf));
  FL_TRY_ASSIGN(impl->client, make_context(false, *impl, chain, roots.get()));
  FL_TRY_ASSIGN(impl->server, make_context(true, *impl, chain, roots.get()));
  return std::shared_ptr<const Credentials>(new Credentials(std::move(impl)));
}

}  // namespace fairlead::tls
