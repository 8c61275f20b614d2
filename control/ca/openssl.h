// Ownership of OpenSSL's objects and the few PEM operations that the parts of this folder share. Private to
// the folder.
#pragma once

#include <openssl/bio.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ca {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const noexcept {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, Deleter<BIO_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using DigestPtr = std::unique_ptr<EVP_MD_CTX, Deleter<EVP_MD_CTX_free>>;
using SignaturePtr = std::unique_ptr<ECDSA_SIG, Deleter<ECDSA_SIG_free>>;
using BigNumberPtr = std::unique_ptr<BIGNUM, Deleter<BN_free>>;
using X509Ptr = std::unique_ptr<X509, Deleter<X509_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, Deleter<X509_REQ_free>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, Deleter<GENERAL_NAMES_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, Deleter<X509_EXTENSION_free>>;

// kTls with the newest of OpenSSL's own errors; leaves its queue empty.
Error openssl_error(std::string_view operation);

// For PEM readers: without one, encrypted PEM would have OpenSSL ask for a passphrase on the terminal.
int no_passphrase(char* buffer, int size, int writing, void* user) noexcept;

BioPtr reading(std::string_view pem);
std::string text_of(BIO* bio);
Result<std::string> pem_of(X509* certificate);
Result<std::string> pem_of(EVP_PKEY* key);
Result<KeyPtr> key_of(std::string_view pem);
Result<KeyPtr> make_p256_key();

// Held while keys are looked for and made, so that two processes that start at once end up with the same
// ones.
class StateLock {
 public:
  // Makes the directory (0700) if need be; waits for another holder.
  static Result<StateLock> acquire(const std::string& directory);

 private:
  explicit StateLock(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
  UniqueFd fd_;  // the lock goes with it
};

}  // namespace fairlead::ca
