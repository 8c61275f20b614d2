#include "control/ca/openssl.h"

#include <fcntl.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/file.h>

#include "base/file.h"

namespace fairlead::ca {

Error openssl_error(std::string_view operation) {
  char text[256] = "no more is known";
  if (const unsigned long code = ERR_peek_last_error(); code != 0)
    ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return {ErrorKind::kTls, fmt::format("{}: {}", operation, text)};
}

int no_passphrase(char*, int, int, void*) noexcept {
  return -1;
}

BioPtr reading(std::string_view pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::string text_of(BIO* bio) {
  char* bytes = nullptr;
  const long length = BIO_get_mem_data(bio, &bytes);
  return {bytes, static_cast<size_t>(length)};
}

Result<std::string> pem_of(X509* certificate) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (out == nullptr || PEM_write_bio_X509(out.get(), certificate) != 1)
    return openssl_error("write certificate");
  return text_of(out.get());
}

Result<std::string> pem_of(EVP_PKEY* key) {
  const BioPtr out(BIO_new(BIO_s_secmem()));
  if (out == nullptr ||
      PEM_write_bio_PKCS8PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return openssl_error("write private key");
  }
  return text_of(out.get());
}

Result<KeyPtr> key_of(std::string_view pem) {
  const BioPtr in = reading(pem);
  KeyPtr key(in == nullptr ? nullptr : PEM_read_bio_PrivateKey(in.get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) return openssl_error("read private key");
  return key;
}

Result<KeyPtr> make_p256_key() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return openssl_error("make key");
  return key;
}

Result<StateLock> StateLock::acquire(const std::string& directory) {
  FL_TRY(make_directories(directory, 0700));
  FL_TRY_ASSIGN(UniqueFd fd, open_file(directory, O_RDONLY | O_DIRECTORY));
  int result = 0;
  do {
    result = ::flock(fd.get(), LOCK_EX);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return Error::from_errno(fmt::format("lock {}", directory));
  return StateLock(std::move(fd));
}

}  // namespace fairlead::ca
