// Keys, CSRs and tokens for tests, right by default and wrong in any way that is asked for.
#pragma once

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace fairlead::ca::testing {

struct Free {
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(X509_REQ* p) const { X509_REQ_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(GENERAL_NAMES* p) const { GENERAL_NAMES_free(p); }
};
template <class T>
using Ptr = std::unique_ptr<T, Free>;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char pattern[] = "/tmp/fairlead-ca-XXXXXX";
    path_ = ::mkdtemp(pattern);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline Ptr<EVP_PKEY> p256() {
  return Ptr<EVP_PKEY>(EVP_EC_gen("P-256"));
}

inline std::string text_of(BIO* bio) {
  char* bytes = nullptr;
  const long length = BIO_get_mem_data(bio, &bytes);
  return {bytes, static_cast<size_t>(length)};
}

struct CsrShape {
  Ptr<EVP_PKEY> key = p256();
  std::vector<std::string> san;  // one extension each: "URI:spiffe://…", "URI:…,DNS:…"
  std::string common_name;
  bool extensions_twice = false;                            // a second attribute that asks for extensions
  std::function<void(X509_REQ*)> spoil = [](X509_REQ*) {};  // after the signature
};

inline std::string csr(CsrShape shape) {
  const Ptr<X509_REQ> request(X509_REQ_new());
  X509_REQ_set_pubkey(request.get(), shape.key.get());
  if (!shape.common_name.empty()) {
    X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_UTF8,
                               reinterpret_cast<const unsigned char*>(shape.common_name.c_str()), -1, -1, 0);
  }
  STACK_OF(X509_EXTENSION)* extensions = sk_X509_EXTENSION_new_null();
  for (const std::string& names : shape.san) {
    sk_X509_EXTENSION_push(extensions,
                           X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names.c_str()));
  }
  if (!shape.san.empty()) X509_REQ_add_extensions(request.get(), extensions);
  if (shape.extensions_twice) X509_REQ_add_extensions_nid(request.get(), extensions, NID_ms_ext_req);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  const bool own_digest = EVP_PKEY_get_base_id(shape.key.get()) == EVP_PKEY_ED25519;
  X509_REQ_sign(request.get(), shape.key.get(), own_digest ? nullptr : EVP_sha256());
  shape.spoil(request.get());
  const Ptr<BIO> out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_REQ(out.get(), request.get());
  return text_of(out.get());
}

inline Ptr<X509> certificate_of(const std::string& pem) {
  const Ptr<BIO> in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return Ptr<X509>(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
}

inline Ptr<EVP_PKEY> private_key_of(const std::string& pem) {
  const Ptr<BIO> in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return Ptr<EVP_PKEY>(PEM_read_bio_PrivateKey(in.get(), nullptr, nullptr, nullptr));
}

}  // namespace fairlead::ca::testing
