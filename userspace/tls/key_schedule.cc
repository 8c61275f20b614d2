#include "tls/key_schedule.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <array>

#include "tls/openssl.h"

namespace fairlead::tls {
namespace {

struct KdfFree {
  void operator()(EVP_KDF_CTX* context) const noexcept { EVP_KDF_CTX_free(context); }
};

EVP_KDF* hkdf() noexcept {
  static EVP_KDF* const kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  return kdf;
}

}  // namespace

Result<void> hkdf_expand_label(CipherSuite suite, std::span<const uint8_t> secret, std::string_view label,
                               std::span<uint8_t> out) {
  // struct HkdfLabel { uint16 length; opaque label<7..255> = "tls13 " + label; opaque context<0..255> = ""; }
  std::array<uint8_t, 64> info{};
  constexpr std::string_view kPrefix = "tls13 ";
  if (label.size() + kPrefix.size() + 4 > info.size())
    return Error(ErrorKind::kInvalidArgument, "HKDF label too long");
  size_t used = 0;
  info[used++] = static_cast<uint8_t>(out.size() >> 8);
  info[used++] = static_cast<uint8_t>(out.size());
  info[used++] = static_cast<uint8_t>(kPrefix.size() + label.size());
  for (char c : kPrefix) info[used++] = static_cast<uint8_t>(c);
  for (char c : label) info[used++] = static_cast<uint8_t>(c);
  info[used++] = 0;

  const std::unique_ptr<EVP_KDF_CTX, KdfFree> context(EVP_KDF_CTX_new(hkdf()));
  const bool sha384 = suite == CipherSuite::kAes256GcmSha384;
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  char digest[] = "SHA256";
  char digest384[] = "SHA384";
  const std::array<OSSL_PARAM, 5> parameters = {
      OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, sha384 ? digest384 : digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<uint8_t*>(secret.data()),
                                        secret.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), used),
      OSSL_PARAM_construct_end(),
  };
  if (context == nullptr || EVP_KDF_derive(context.get(), out.data(), out.size(), parameters.data()) != 1) {
    return openssl_error("HKDF-Expand-Label");
  }
  return {};
}

Result<RecordState> derive_state(const TrafficSecret& secret) {
  RecordState state;
  state.secret = secret;
  state.key_length = key_length_of(secret.suite);
  const std::span<const uint8_t> bytes(secret.bytes.data(), secret.length);
  FL_TRY(hkdf_expand_label(secret.suite, bytes, "key", std::span(state.key).first(state.key_length)));
  FL_TRY(hkdf_expand_label(secret.suite, bytes, "iv", state.iv));
  return state;
}

Result<TrafficSecret> next_secret(const TrafficSecret& secret) {
  TrafficSecret next;
  next.suite = secret.suite;
  next.length = secret.length;
  FL_TRY(hkdf_expand_label(secret.suite, {secret.bytes.data(), secret.length}, "traffic upd",
                           std::span(next.bytes).first(next.length)));
  return next;
}

TrafficSecret::~TrafficSecret() {
  OPENSSL_cleanse(bytes.data(), bytes.size());
}
RecordState::~RecordState() {
  OPENSSL_cleanse(key.data(), key.size());
  OPENSSL_cleanse(iv.data(), iv.size());
}

}  // namespace fairlead::tls
