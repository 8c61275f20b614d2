#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "control/ca/node_token.h"
#include "control/ca/openssl.h"

namespace fairlead::ca {
namespace {

using nlohmann::json;

constexpr std::string_view kIssuer = "fairlead-controller";
constexpr size_t kHalf = 32;  // r and s of P-256 (RFC 7518 §3.4)
constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

Error denied(std::string_view why) {
  return {ErrorKind::kDenied, fmt::format("token: {}", why)};
}

std::string encode64(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t at) {
      return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0u;
    };
    const unsigned group = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    const size_t digits = std::min<size_t>(bytes.size() - i, 3) + 1;
    for (size_t d = 0; d < digits; ++d) out += kAlphabet[group >> (18 - 6 * d) & 63];
  }
  return out;
}

// Strict (RFC 4648 §3.5): one spelling per value, or a token would go through under many.
Result<std::string> decode64(std::string_view text) {
  std::string out;
  unsigned group = 0;
  int bits = 0;
  for (const char c : text) {
    const size_t digit = kAlphabet.find(c);
    if (digit == std::string_view::npos) return denied("not base64url");
    group = (group << 6 | static_cast<unsigned>(digit)) & 0xffffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += static_cast<char>(group >> bits & 0xff);
    }
  }
  if (bits == 6 || (group & ((1u << bits) - 1)) != 0) return denied("not base64url");
  return out;
}

int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// JWS wants r and s side by side, OpenSSL speaks DER.
Result<std::string> raw_signature(const std::vector<unsigned char>& der) {
  const unsigned char* at = der.data();
  const SignaturePtr signature(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
  std::array<unsigned char, 2 * kHalf> raw{};
  if (signature == nullptr || BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), raw.data(), kHalf) < 0 ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), raw.data() + kHalf, kHalf) < 0) {
    return openssl_error("sign token");
  }
  return std::string(reinterpret_cast<char*>(raw.data()), raw.size());
}

Result<std::vector<unsigned char>> der_signature(std::string_view raw) {
  if (raw.size() != 2 * kHalf) return denied("signature of wrong length");
  const auto* bytes = reinterpret_cast<const unsigned char*>(raw.data());
  const SignaturePtr signature(ECDSA_SIG_new());
  ECDSA_SIG_set0(signature.get(), BN_bin2bn(bytes, kHalf, nullptr), BN_bin2bn(bytes + kHalf, kHalf, nullptr));
  std::vector<unsigned char> der(static_cast<size_t>(i2d_ECDSA_SIG(signature.get(), nullptr)));
  unsigned char* at = der.data();
  i2d_ECDSA_SIG(signature.get(), &at);
  return der;
}

Result<json> part(std::string_view text) {
  FL_TRY_ASSIGN(const std::string decoded, decode64(text));
  json document = json::parse(decoded, nullptr, false);
  if (document.is_discarded() || !document.is_object()) return denied("not a JSON object");
  return document;
}

std::string string_at(const json& document, const json::json_pointer& where) {
  const json value = document.contains(where) ? document.at(where) : json();
  return value.is_string() ? value.get<std::string>() : std::string();
}

Result<Caller> read_claims(const json& claims) {
  const json expires = claims.value("exp", json());
  if (!expires.is_number_integer() || expires.get<int64_t>() <= now_seconds()) return denied("expired");
  if (string_at(claims, json::json_pointer("/iss")) != kIssuer) return denied("of another issuer");
  const json audiences = claims.value("aud", json());
  const bool ours = audiences.is_array() &&
                    std::find(audiences.begin(), audiences.end(), json(kAudience)) != audiences.end();
  if (!ours) return denied("for another audience");
  Caller caller{string_at(claims, json::json_pointer("/sub")),
                string_at(claims, json::json_pointer("/kubernetes.io/node/name"))};
  if (caller.subject != kAgentSubject || caller.node.empty()) return denied("not that of an agent");
  return caller;
}

}  // namespace

struct NodeTokens::Impl {
  KeyPtr key;
};

NodeTokens::NodeTokens(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
NodeTokens::~NodeTokens() = default;

Result<std::unique_ptr<NodeTokens>> NodeTokens::open(const std::string& directory) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const std::string path = directory + "/token-key.pem";
  auto impl = std::make_unique<Impl>();
  const auto pem = read_file(path);
  if (pem) {
    auto key = key_of(*pem);
    if (!key) return std::move(key).error().context(path);
    impl->key = std::move(*key);
    return std::unique_ptr<NodeTokens>(new NodeTokens(std::move(impl)));
  }
  if (pem.error().code() != ENOENT) return pem.error();
  FL_TRY_ASSIGN(impl->key, make_p256_key());
  FL_TRY_ASSIGN(const std::string made, pem_of(impl->key.get()));
  FL_TRY(write_file_atomically(path, made, 0600));
  return std::unique_ptr<NodeTokens>(new NodeTokens(std::move(impl)));
}

Result<std::string> NodeTokens::issue(std::string_view node, std::chrono::seconds ttl) const {
  if (node.empty() || node.size() > kMaxNodeName || ttl.count() <= 0) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("token: want a node's name of 1 to {} bytes and a life", kMaxNodeName));
  }
  const int64_t now = now_seconds();
  const json claims{{"iss", kIssuer},           {"aud", json::array({kAudience})},
                    {"sub", kAgentSubject},     {"iat", now},
                    {"exp", now + ttl.count()}, {"kubernetes.io", {{"node", {{"name", node}}}}}};
  const std::string text =
      encode64(json{{"alg", "ES256"}, {"typ", "JWT"}}.dump()) + "." + encode64(claims.dump());
  const DigestPtr context(EVP_MD_CTX_new());
  size_t length = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  if (EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, impl_->key.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &length, bytes, text.size()) != 1) {
    return openssl_error("sign token");
  }
  std::vector<unsigned char> der(length);
  if (EVP_DigestSign(context.get(), der.data(), &length, bytes, text.size()) != 1)
    return openssl_error("sign token");
  der.resize(length);
  FL_TRY_ASSIGN(const std::string raw, raw_signature(der));
  return text + "." + encode64(raw);
}

Result<Caller> NodeTokens::authenticate(std::string_view token) const {
  if (token.size() > kMaxToken) return denied("too long");
  const size_t first = token.find('.');
  const size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos) return denied("not a JWT");
  FL_TRY_ASSIGN(const json header, part(token.substr(0, first)));
  // An extension that we would have to understand and do not (RFC 7515 §4.1.11).
  if (header.contains("crit")) return denied("has critical header parameters");
  // Only the algorithm of our own key: never what the token would like (RFC 8725 §3.1).
  if (string_at(header, json::json_pointer("/alg")) != "ES256") return denied("algorithm is not ES256");
  FL_TRY_ASSIGN(const std::string raw, decode64(token.substr(second + 1)));
  FL_TRY_ASSIGN(const auto der, der_signature(raw));
  const DigestPtr context(EVP_MD_CTX_new());
  const auto* signed_bytes = reinterpret_cast<const unsigned char*>(token.data());
  if (EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, impl_->key.get()) != 1 ||
      EVP_DigestVerify(context.get(), der.data(), der.size(), signed_bytes, second) != 1) {
    ERR_clear_error();
    return denied("signature does not verify");
  }
  FL_TRY_ASSIGN(const json claims, part(token.substr(first + 1, second - first - 1)));
  return read_claims(claims);
}

}  // namespace fairlead::ca
