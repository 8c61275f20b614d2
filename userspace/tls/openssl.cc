#include "tls/openssl.h"

#include <array>

namespace fairlead::tls {

Error openssl_error(std::string_view operation) {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  std::array<char, 256> text{};
  if (code == 0) return {ErrorKind::kTls, std::string(operation)};
  ERR_error_string_n(code, text.data(), text.size());
  return {ErrorKind::kTls, fmt::format("{}: {}", operation, text.data()),
          static_cast<int>(ERR_GET_REASON(code))};
}

const EVP_CIPHER* aes_gcm(size_t key_length) noexcept {
  static const EVP_CIPHER* const k128 = EVP_CIPHER_fetch(nullptr, "AES-128-GCM", nullptr);
  static const EVP_CIPHER* const k256 = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  return key_length == 16 ? k128 : k256;
}

const EVP_MD* digest_for(bool sha384) noexcept {
  static const EVP_MD* const k256 = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  static const EVP_MD* const k384 = EVP_MD_fetch(nullptr, "SHA384", nullptr);
  return sha384 ? k384 : k256;
}

}  // namespace fairlead::tls
