#include "tls/handshake.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <optional>

#include "tls/credentials_impl.h"
#include "tls/key_memory.h"
#include "tls/key_schedule.h"
#include "tls/verify.h"

namespace fairlead::tls {
namespace {

constexpr std::string_view kH2 = "h2";

// What the callbacks of one SSL read and write; reached by ex_data.
struct Context {
  bool server = false;
  Credentials::Impl* credentials = nullptr;
  std::vector<SpiffeId> expected;
  std::optional<TrafficSecret> client_secret;
  std::optional<TrafficSecret> server_secret;
  std::optional<VerifiedPeer> peer;
  std::optional<Error> refusal;
};

int context_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}
Context* context_of(const SSL* ssl) {
  return static_cast<Context*>(SSL_get_ex_data(ssl, context_index()));
}

Result<VerifiedPeer> judge_peer(const Context& context, X509_STORE_CTX* store) {
  Credentials::Impl& own = *context.credentials;
  FL_TRY_ASSIGN(VerifiedPeer peer,
                (context.server ? own.verified_clients : own.verified_servers).verify(store));
  if (peer.id.trust_domain != own.id.trust_domain) {
    return Error(ErrorKind::kTls, fmt::format("peer {} is of another trust domain", peer.id.uri()));
  }
  const auto& expected = context.expected;
  if (!context.server && std::find(expected.begin(), expected.end(), peer.id) == expected.end()) {
    return Error(ErrorKind::kTls,
                 fmt::format("peer is {}, expected {}", peer.id.uri(), expected.front().uri()));
  }
  return peer;
}

// Stands in for OpenSSL's own verification, which it calls for the path.
int verify_peer(X509_STORE_CTX* store, void*) noexcept {
  const auto* ssl =
      static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  Context* context = context_of(ssl);
  auto peer = judge_peer(*context, store);
  if (peer) {
    context->peer = std::move(*peer);
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
  }
  // Becomes the alert: a path at fault names its own cause (unknown_ca, certificate_expired), the rest
  // bad_certificate.
  if (X509_STORE_CTX_get_error(store) == X509_V_OK) X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
  context->refusal = std::move(peer).error();
  return 0;
}

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

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

// "LABEL client-random secret": OpenSSL's only way to tell the traffic secrets. The line is its own and wiped
// by it.
void take_secret(const SSL* ssl, const char* line) {
  const std::string_view text(line);
  Context* context = context_of(ssl);
  const size_t last = text.rfind(' ');
  if (context == nullptr || last == std::string_view::npos) return;
  if (text.starts_with("CLIENT_TRAFFIC_SECRET_0 "))
    context->client_secret = secret_from(text.substr(last + 1));
  if (text.starts_with("SERVER_TRAFFIC_SECRET_0 "))
    context->server_secret = secret_from(text.substr(last + 1));
}

int select_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* in,
                unsigned in_length, void*) {
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

struct Handshake::Impl : InKeyMemory {
  std::shared_ptr<const Credentials> credentials;
  Context context;
  SslPtr ssl;
  BIO* in = nullptr;   // owned by ssl
  BIO* out = nullptr;  // owned by ssl
  size_t received = 0;
  bool answered = false;  // server: the ClientHello was whole and good
  bool done = false;

  static Result<std::unique_ptr<Impl>> create(std::shared_ptr<const Credentials> credentials, bool server) {
    if (credentials == nullptr)
      return Error(ErrorKind::kInvalidArgument, "TLS handshake without credentials");
    auto impl = std::make_unique<Impl>();
    impl->context.server = server;
    impl->context.credentials = &credentials->impl();
    impl->credentials = std::move(credentials);
    impl->ssl.reset(
        SSL_new((server ? impl->context.credentials->server : impl->context.credentials->client).get()));
    BioPtr in(BIO_new(BIO_s_mem()));
    BioPtr out(BIO_new(BIO_s_mem()));
    if (impl->ssl == nullptr || in == nullptr || out == nullptr ||
        SSL_set_ex_data(impl->ssl.get(), context_index(), &impl->context) != 1) {
      return openssl_error("SSL_new");
    }
    impl->in = in.release();
    impl->out = out.release();
    SSL_set_bio(impl->ssl.get(), impl->in, impl->out);
    server ? SSL_set_accept_state(impl->ssl.get()) : SSL_set_connect_state(impl->ssl.get());
    return impl;
  }

  void drain(Buffer& to) {
    char* bytes = nullptr;
    const long length = BIO_get_mem_data(out, &bytes);
    if (length <= 0) return;
    to.append({reinterpret_cast<const uint8_t*>(bytes), static_cast<size_t>(length)});
    (void)BIO_reset(out);  // ignoring: a memory BIO's reset cannot fail
    answered = true;
  }

  Error failure(int reason) {
    Error error = openssl_error("TLS handshake");
    if (context.refusal) return std::move(*context.refusal).context("TLS handshake");
    if (reason == SSL_ERROR_ZERO_RETURN) return {ErrorKind::kTls, "TLS handshake: the peer closed"};
    return error;
  }

  // Lets OpenSSL work on what it has.
  Result<void> step(Buffer& to) {
    if (ssl == nullptr) return Error(ErrorKind::kTls, "TLS handshake is over");
    ERR_clear_error();
    const int result = SSL_do_handshake(ssl.get());
    const int reason = result == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl.get(), result);
    drain(to);
    if (result == 1) {
      done = true;
    } else if (reason != SSL_ERROR_WANT_READ) {
      Error error = failure(reason);
      ssl.reset();
      return error;
    }
    return {};
  }

  // The length of the whole record at the front of `in`, 0 if it is not whole. Told by its header, so that
  // what is not TLS fails at once instead of being waited for.
  Result<size_t> next_record(std::span<const uint8_t> bytes) const {
    if (bytes.empty()) return size_t{0};
    constexpr uint8_t kFirstType = 20;  // change_cipher_spec, alert, handshake, application_data
    constexpr uint8_t kLastType = 23;
    const bool is_tls =
        bytes[0] >= kFirstType && bytes[0] <= kLastType && (bytes.size() < 2 || bytes[1] == 3);
    if (!is_tls) return Error(ErrorKind::kTls, "TLS handshake: not a TLS record");
    if (bytes.size() < kRecordHeader) return size_t{0};
    const size_t record = kRecordHeader + (static_cast<size_t>(bytes[3]) << 8 | bytes[4]);
    if (record > kMaxRecord) return Error(ErrorKind::kTls, "TLS handshake: record too long");
    const size_t limit = context.server && !answered ? kMaxClientHello + kRecordHeader : kMaxHandshakeInput;
    if (received + record > limit) return Error(ErrorKind::kTls, "TLS handshake: too many bytes");
    return bytes.size() < record ? 0 : record;
  }

  // What must hold of every handshake that OpenSSL calls done, whatever it was made to negotiate.
  Result<CipherSuite> negotiated() const {
    const SSL_CIPHER* cipher = SSL_get_current_cipher(ssl.get());
    const auto suite = static_cast<CipherSuite>(cipher == nullptr ? 0 : SSL_CIPHER_get_protocol_id(cipher));
    if (suite != CipherSuite::kAes128GcmSha256 && suite != CipherSuite::kAes256GcmSha384) {
      return Error(ErrorKind::kTls, "TLS handshake: another cipher suite than offered");
    }
    const bool sound = SSL_version(ssl.get()) == TLS1_3_VERSION && SSL_session_reused(ssl.get()) == 0 &&
                       context.peer && context.client_secret && context.server_secret &&
                       BIO_pending(in) == 0 && SSL_has_pending(ssl.get()) == 0;
    if (!sound) return Error(ErrorKind::kTls, "TLS handshake: ended in an unsound state");
    const unsigned char* name = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl.get(), &name, &length);
    // A peer without ALPN speaks HTTP/2 all the same.
    if (length != 0 && std::string_view(reinterpret_cast<const char*>(name), length) != kH2) {
      return Error(ErrorKind::kTls, "TLS handshake: the peer chose another protocol than h2");
    }
    return suite;
  }

  Result<Established> establish(CipherSuite suite) {
    context.client_secret->suite = context.server_secret->suite = suite;
    const TrafficSecret& mine = context.server ? *context.server_secret : *context.client_secret;
    const TrafficSecret& theirs = context.server ? *context.client_secret : *context.server_secret;
    if (mine.length != secret_length_of(suite) || theirs.length != mine.length) {
      return Error(ErrorKind::kTls, "TLS handshake: traffic secret of wrong length");
    }
    FL_TRY_ASSIGN(RecordSealer sealer, RecordSealer::create(mine));
    FL_TRY_ASSIGN(RecordOpener opener, RecordOpener::create(theirs));
    return Established{std::move(sealer), std::move(opener), std::move(context.peer->id),
                       std::move(context.peer->serial), suite};
  }
};

Handshake::Handshake(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Handshake::~Handshake() = default;

Result<std::unique_ptr<Handshake>> Handshake::client(std::shared_ptr<const Credentials> credentials,
                                                     std::vector<SpiffeId> expected, bool in_place) {
  if (expected.empty())
    return Error(ErrorKind::kInvalidArgument, "TLS client without an expected peer identity");
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

Result<void> Handshake::start(Buffer& out) {
  return impl_->step(out);
}

Result<Handshake::Progress> Handshake::advance(std::span<const uint8_t> in, Buffer& out) {
  Progress progress;
  while (!impl_->done) {
    const auto rest = in.subspan(progress.consumed);
    FL_TRY_ASSIGN(const size_t record, impl_->next_record(rest));
    if (record == 0) break;
    if (impl_->ssl != nullptr &&
        BIO_write(impl_->in, rest.data(), static_cast<int>(record)) != static_cast<int>(record)) {
      return openssl_error("BIO_write");
    }
    impl_->received += record;
    progress.consumed += record;
    FL_TRY(impl_->step(out));
  }
  progress.done = impl_->done;
  return progress;
}

Result<Established> Handshake::finish() {
  if (!impl_->done || impl_->ssl == nullptr) return Error(ErrorKind::kTls, "TLS handshake is not finished");
  const auto suite = impl_->negotiated();
  impl_->ssl.reset();  // with both BIOs
  if (!suite) return Error(suite.error());
  auto established = impl_->establish(*suite);
  impl_->context.client_secret.reset();
  impl_->context.server_secret.reset();
  return established;
}

}  // namespace fairlead::tls
