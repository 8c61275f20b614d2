#include "tls/credentials.h"

#include <openssl/ec.h>
#include <openssl/pem.h>

#include "tls/credentials_impl.h"
#include "tls/verify.h"

namespace fairlead::tls {
namespace {

constexpr const char* kCipherSuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
constexpr const char* kGroups = "X25519:P-256";

Result<BioPtr> memory(std::string_view text) {
  BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) return openssl_error("BIO_new_mem_buf");
  return bio;
}

Result<std::vector<X509Ptr>> read_certificates(std::string_view pem) {
  FL_TRY_ASSIGN(const BioPtr bio, memory(pem));
  std::vector<X509Ptr> certificates;
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) certificates.emplace_back(certificate);
  const unsigned long last = ERR_peek_last_error();
  const bool at_end = ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
  if (!at_end) return openssl_error("certificate PEM");
  ERR_clear_error();
  if (certificates.empty()) return Error(ErrorKind::kTls, "no certificate in PEM");
  return certificates;
}

std::chrono::system_clock::time_point time_of(const ASN1_TIME* time) {
  tm utc{};
  if (ASN1_TIME_to_tm(time, &utc) != 1) return {};
  return std::chrono::system_clock::from_time_t(timegm(&utc));
}

Result<StorePtr> trust_store(const std::string& roots_pem) {
  FL_TRY_ASSIGN(const auto roots, read_certificates(roots_pem));
  StorePtr store(X509_STORE_new());
  if (store == nullptr) return openssl_error("X509_STORE_new");
  for (const X509Ptr& root : roots) {
    if (X509_STORE_add_cert(store.get(), root.get()) != 1) return openssl_error("trust root");
  }
  // A bundle may hold an intermediate as the anchor.
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN);
  X509_STORE_set_depth(store.get(), kMaxChainDepth);
  return store;
}

Result<SslContextPtr> make_context(bool server, const Credentials::Impl& impl, const std::vector<X509Ptr>& chain,
                                   X509_STORE* roots) {
  SslContextPtr context(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX* raw = context.get();
  if (raw == nullptr) return openssl_error("SSL_CTX_new");
  const bool good = SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_ciphersuites(raw, kCipherSuites) == 1 && SSL_CTX_set1_groups_list(raw, kGroups) == 1 &&
                    SSL_CTX_set_num_tickets(raw, 0) == 1 &&
                    SSL_CTX_use_certificate(raw, chain.front().get()) == 1 &&
                    SSL_CTX_use_PrivateKey(raw, impl.key.impl().key.get()) == 1 && SSL_CTX_check_private_key(raw) == 1;
  if (!good) return openssl_error("TLS context");
  SSL_CTX_set1_cert_store(raw, roots);
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(raw, chain[i].get()) != 1) return openssl_error("chain certificate");
  }
  SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | (server ? SSL_OP_CIPHER_SERVER_PREFERENCE : 0));
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(raw, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
  SSL_CTX_set_max_early_data(raw, 0);
  SSL_CTX_set_max_cert_list(raw, kMaxChainBytes);
  SSL_CTX_set_read_ahead(raw, 0);
  install_handshake_callbacks(raw, server);
  return context;
}

// The chain must stand before our own roots: better now than in front of every peer.
Result<void> verify_own_chain(const std::vector<X509Ptr>& chain, X509_STORE* roots) {
  const std::unique_ptr<STACK_OF(X509), decltype([](STACK_OF(X509) * stack) { sk_X509_free(stack); })> others(sk_X509_new_null());
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(others.get(), chain[i].get());
  const StoreContextPtr context(X509_STORE_CTX_new());
  if (X509_STORE_CTX_init(context.get(), roots, chain.front().get(), others.get()) != 1) return openssl_error("own chain");
  if (X509_verify_cert(context.get()) == 1) return {};
  const int code = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  return Error(ErrorKind::kTls, fmt::format("own chain: {}", X509_verify_cert_error_string(code)), code);
}

}  // namespace

// ---- KeyPair ------------------------------------------------------------------------------------------------------------

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
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr) return openssl_error("private key PEM");
  return KeyPair(std::make_unique<Impl>(Impl{std::move(key)}));
}

Result<std::string> KeyPair::csr_pem(const SpiffeId& id) const {
  const RequestPtr request(X509_REQ_new());
  const std::string san = "critical,URI:" + id.uri();
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, san.c_str());
  if (request == nullptr || extension == nullptr) return openssl_error("CSR");
  STACK_OF(X509_EXTENSION)* extensions = sk_X509_EXTENSION_new_null();
  sk_X509_EXTENSION_push(extensions, extension);
  const bool good = X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1 &&
                    X509_REQ_set_pubkey(request.get(), impl_->key.get()) == 1 &&
                    X509_REQ_add_extensions(request.get(), extensions) == 1 &&
                    X509_REQ_sign(request.get(), impl_->key.get(), EVP_sha256()) > 0;
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (!good || PEM_write_bio_X509_REQ(out.get(), request.get()) != 1) return openssl_error("CSR");
  char* text = nullptr;
  const long length = BIO_get_mem_data(out.get(), &text);
  return std::string(text, static_cast<size_t>(length));
}

// ---- Credentials ----------------------------------------------------------------------------------------------------------

Credentials::Credentials(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Credentials::~Credentials() = default;
const SpiffeId& Credentials::id() const noexcept { return impl_->id; }
std::chrono::system_clock::time_point Credentials::not_before() const noexcept { return impl_->not_before; }
std::chrono::system_clock::time_point Credentials::not_after() const noexcept { return impl_->not_after; }
const std::string& Credentials::serial() const noexcept { return impl_->serial; }

Result<std::shared_ptr<const Credentials>> Credentials::create(KeyPair key, const std::vector<std::string>& chain_pem,
                                                               const std::string& roots_pem, const SpiffeId& expected) {
  std::vector<X509Ptr> chain;
  for (const std::string& pem : chain_pem) {
    FL_TRY_ASSIGN(auto part, read_certificates(pem));
    for (X509Ptr& certificate : part) chain.push_back(std::move(certificate));
  }
  if (chain.empty()) return Error(ErrorKind::kTls, "empty certificate chain");
  FL_TRY_ASSIGN(SpiffeId id, leaf_identity(chain.front().get()));
  if (id != expected) {
    return Error(ErrorKind::kTls, fmt::format("certificate is for {}, asked for {}", id.uri(), expected.uri()));
  }
  FL_TRY_ASSIGN(const StorePtr roots, trust_store(roots_pem));
  FL_TRY(verify_own_chain(chain, roots.get()));
  auto impl = std::make_unique<Impl>(Impl{std::move(key), std::move(id), nullptr, {}, {}, {}, nullptr, nullptr});
  impl->serial = serial_of(chain.front().get());
  impl->not_before = time_of(X509_get0_notBefore(chain.front().get()));
  impl->not_after = time_of(X509_get0_notAfter(chain.front().get()));
  FL_TRY_ASSIGN(impl->client, make_context(false, *impl, chain, roots.get()));
  FL_TRY_ASSIGN(impl->server, make_context(true, *impl, chain, roots.get()));
  impl->leaf = std::move(chain.front());
  return std::shared_ptr<const Credentials>(new Credentials(std::move(impl)));
}

}  // namespace fairlead::tls
