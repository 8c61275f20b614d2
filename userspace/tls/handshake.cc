#include "tls/handshake.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <optional>

#include "tls/credentials_impl.h"
#include "tls/key_schedule.h"
#include "tls/verify.h"

namespace fairlead::tls {
namespace {

constexpr std::string_view kH2 = "h2";
constexpr size_t kMaxHandshakeInput = 128 * 1024;  // of one peer

// What the callbacks of one SSL write; reached by ex_data.
struct Context {
  bool server = false;
  std::vector<SpiffeId> expected;
  std::string trust_domain;
  std::optional<TrafficSecret> client_secret;
  std::optional<TrafficSecret> server_secret;
  std::optional<SpiffeId> peer;
  std::string peer_serial;
  std::string refusal;
};

int context_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}
Context* context_of(const SSL* ssl) { return static_cast<Context*>(SSL_get_ex_data(ssl, context_index())); }

Result<SpiffeId> judge_peer(const Context& context, X509* leaf) {
  FL_TRY_ASSIGN(SpiffeId id, leaf_identity(leaf));
  if (id.trust_domain != context.trust_domain) {
    return Error(ErrorKind::kTls, fmt::format("peer {} is of another trust domain", id.uri()));
  }
  const auto& expected = context.expected;
  if (!context.server && std::find(expected.begin(), expected.end(), id) == expected.end()) {
    return Error(ErrorKind::kTls, fmt::format("peer is {}, expected {}", id.uri(), expected.front().uri()));
  }
  return id;
}

int verify_peer(X509_STORE_CTX* store, void*) {
  const auto* ssl =
      static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  Context* context = context_of(ssl);
  if (X509_verify_cert(store) != 1) {
    context->refusal = X509_verify_cert_error_string(X509_STORE_CTX_get_error(store));
    return 0;
  }
  X509* leaf = X509_STORE_CTX_get0_cert(store);
  auto id = judge_peer(*context, leaf);
  if (!id) {
    context->refusal = id.error().text();
    X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
    return 0;
  }
  context->peer = std::move(*id);
  context->peer_serial = serial_of(leaf);
  return 1;
}

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

std::optional<TrafficSecret> secret_from(std::string_view hex) {
  TrafficSecret secret;
  if (hex.size() % 2 != 0 || hex.size() / 2 > secret.bytes.size()) return std::nullopt;
  secret.length = hex.size() / 2;
  for (size_t i = 0; i < secret.length; ++i) {
    const int high = hex_digit(hex[2 * i]);
    const int low = hex_digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    secret.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return secret;
}

// "LABEL client-random secret": OpenSSL's only way to tell the traffic secrets. The line is its own and wiped by it.
void take_secret(const SSL* ssl, const char* line) {
  const std::string_view text(line);
  Context* context = context_of(ssl);
  const size_t last = text.rfind(' ');
  if (context == nullptr || last == std::string_view::npos) return;
  if (text.starts_with("CLIENT_TRAFFIC_SECRET_0 ")) context->client_secret = secret_from(text.substr(last + 1));
  if (text.starts_with("SERVER_TRAFFIC_SECRET_0 ")) context->server_secret = secret_from(text.substr(last + 1));
}

int select_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* in, unsigned in_length, void*) {
  for (unsigned at = 0; at < in_length; at += 1u + in[at]) {
    const std::string_view offered(reinterpret_cast<const char*>(in) + at + 1, in[at]);
    if (offered != kH2) continue;
    *out = in + at + 1;
    *out_length = in[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

std::string alpn_list(bool in_place) {
  std::string list;
  const auto add = [&list](std::string_view name) {
    list += static_cast<char>(name.size());
    list += name;
  };
  if (in_place) add(kInPlaceAlpn);
  add(kH2);
  return list;
}

}  // namespace

void install_handshake_callbacks(SSL_CTX* context, bool server) {
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(context, verify_peer, nullptr);
  SSL_CTX_set_keylog_callback(context, take_secret);
  if (server) SSL_CTX_set_alpn_select_cb(context, select_alpn, nullptr);
}

struct Handshake::Impl {
  std::shared_ptr<const Credentials> credentials;
  Context context;
  SslPtr ssl;
  BIO* in = nullptr;   // owned by ssl
  BIO* out = nullptr;  // owned by ssl
  size_t received = 0;
  bool done = false;

  static Result<std::unique_ptr<Impl>> create(std::shared_ptr<const Credentials> credentials, bool server) {
    auto impl = std::make_unique<Impl>();
    impl->context.server = server;
    impl->context.trust_domain = credentials->id().trust_domain;
    impl->ssl.reset(SSL_new((server ? credentials->impl().server : credentials->impl().client).get()));
    impl->credentials = std::move(credentials);
    impl->in = BIO_new(BIO_s_mem());
    impl->out = BIO_new(BIO_s_mem());
    if (impl->ssl == nullptr || impl->in == nullptr || impl->out == nullptr) return openssl_error("SSL_new");
    SSL_set_bio(impl->ssl.get(), impl->in, impl->out);
    SSL_set_ex_data(impl->ssl.get(), context_index(), &impl->context);
    server ? SSL_set_accept_state(impl->ssl.get()) : SSL_set_connect_state(impl->ssl.get());
    return impl;
  }

  void drain(Buffer& to) const {
    char* bytes = nullptr;
    const long length = BIO_get_mem_data(out, &bytes);
    if (length > 0) to.append({reinterpret_cast<const uint8_t*>(bytes), static_cast<size_t>(length)});
    (void)BIO_reset(out);  // ignoring: a memory BIO's reset cannot fail
  }

  Error failure() {
    Error error = openssl_error("TLS handshake");
    if (context.refusal.empty()) return error;
    return {ErrorKind::kTls, fmt::format("TLS handshake: {}", context.refusal), error.code()};
  }

  // Lets OpenSSL work on what it has.
  Result<void> step(Buffer& to) {
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl.get());
    const int reason = result == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl.get(), result);
    drain(to);
    if (result == 1) {
      done = true;
    } else if (reason != SSL_ERROR_WANT_READ) {
      return failure();
    }
    return {};
  }
};

Handshake::Handshake(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Handshake::~Handshake() = default;

Result<std::unique_ptr<Handshake>> Handshake::client(std::shared_ptr<const Credentials> credentials,
                                                     std::vector<SpiffeId> expected, bool in_place) {
  if (expected.empty()) return Error(ErrorKind::kInvalidArgument, "TLS client without an expected peer identity");
  FL_TRY_ASSIGN(auto impl, Impl::create(std::move(credentials), false));
  impl->context.expected = std::move(expected);
  const std::string alpn = alpn_list(in_place);
  if (SSL_set_alpn_protos(impl->ssl.get(), reinterpret_cast<const unsigned char*>(alpn.data()),
                          static_cast<unsigned>(alpn.size())) != 0) {
    return openssl_error("ALPN");
  }
  return std::unique_ptr<Handshake>(new Handshake(std::move(impl)));
}

Result<std::unique_ptr<Handshake>> Handshake::server(std::shared_ptr<const Credentials> credentials) {
  FL_TRY_ASSIGN(auto impl, Impl::create(std::move(credentials), true));
  return std::unique_ptr<Handshake>(new Handshake(std::move(impl)));
}

Result<void> Handshake::start(Buffer& out) { return impl_->step(out); }

Result<Handshake::Progress> Handshake::advance(std::span<const uint8_t> in, Buffer& out) {
  Progress progress;
  while (!impl_->done) {
    const auto rest = in.subspan(progress.consumed);
    if (rest.size() < kRecordHeader) break;
    const size_t record = kRecordHeader + (static_cast<size_t>(rest[3]) << 8 | rest[4]);
    if (record > kMaxRecord) return Error(ErrorKind::kTls, "TLS handshake: record too long");
    if (rest.size() < record) break;
    impl_->received += record;
    if (impl_->received > kMaxHandshakeInput) return Error(ErrorKind::kTls, "TLS handshake: too many bytes");
    if (BIO_write(impl_->in, rest.data(), static_cast<int>(record)) != static_cast<int>(record)) return openssl_error("BIO_write");
    progress.consumed += record;
    FL_TRY(impl_->step(out));
  }
  progress.done = impl_->done;
  return progress;
}

Result<Established> Handshake::finish() {
  Context& context = impl_->context;
  const SSL_CIPHER* cipher = SSL_get_current_cipher(impl_->ssl.get());
  if (!impl_->done || cipher == nullptr || !context.peer || !context.client_secret || !context.server_secret) {
    return Error(ErrorKind::kTls, "TLS handshake is not finished");
  }
  const auto suite = static_cast<CipherSuite>(SSL_CIPHER_get_protocol_id(cipher));
  if (suite != CipherSuite::kAes128GcmSha256 && suite != CipherSuite::kAes256GcmSha384) {
    return Error(ErrorKind::kTls, "TLS handshake chose another cipher suite than offered");
  }
  context.client_secret->suite = context.server_secret->suite = suite;
  const TrafficSecret& mine = context.server ? *context.server_secret : *context.client_secret;
  const TrafficSecret& theirs = context.server ? *context.client_secret : *context.server_secret;
  if (mine.length != secret_length_of(suite)) return Error(ErrorKind::kTls, "traffic secret of wrong length");
  FL_TRY_ASSIGN(RecordSealer sealer, RecordSealer::create(mine));
  FL_TRY_ASSIGN(RecordOpener opener, RecordOpener::create(theirs));
  return Established{std::move(sealer), std::move(opener), std::move(*context.peer), std::move(context.peer_serial), suite};
}

}  // namespace fairlead::tls
