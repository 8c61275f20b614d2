#include "tls/verify.h"

#include <algorithm>
#include <cstring>
#include <ctime>

namespace fairlead::tls {
namespace {

using std::chrono::system_clock;

Error refused(std::string_view why) {
  return {ErrorKind::kTls, fmt::format("certificate: {}", why)};
}

// Strict checking, but for the two things that common CAs leave out and that prove nothing: key identifiers
// only help to find an issuer, they do not make one.
int tolerate_missing_key_ids(int ok, X509_STORE_CTX* store) {
  const int error = X509_STORE_CTX_get_error(store);
  const bool harmless = error == X509_V_ERR_MISSING_AUTHORITY_KEY_IDENTIFIER ||
                        error == X509_V_ERR_MISSING_SUBJECT_KEY_IDENTIFIER;
  if (ok != 1 && harmless) {
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
  }
  return ok;
}

// By explicit length: a NUL or a control byte inside a name is a forgery, not an end.
Result<std::string> text_of(const ASN1_STRING* string) {
  const auto* bytes = reinterpret_cast<const char*>(ASN1_STRING_get0_data(string));
  const std::string text(bytes, static_cast<size_t>(ASN1_STRING_length(string)));
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!printable) return refused("control or non-ASCII bytes in a name");
  return text;
}

Result<SpiffeId> only_uri(X509* leaf) {
  const GeneralNamesPtr names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr)));
  if (names == nullptr) return refused("no subject alternative name, or more than one extension of it");
  std::optional<std::string> uri;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    if (uri) return refused("more than one URI name");
    FL_TRY_ASSIGN(uri, text_of(name->d.uniformResourceIdentifier));
  }
  if (!uri) return refused("no URI name");
  auto id = SpiffeId::parse(*uri);
  if (!id) return refused(id.error().text());
  return id;
}

}  // namespace

Result<SpiffeId> leaf_identity(X509* leaf) {
  const uint32_t flags = X509_get_extension_flags(leaf);
  if ((flags & EXFLAG_INVALID) != 0) return refused("malformed extensions");
  if ((flags & EXFLAG_CA) != 0) return refused("is that of a CA");
  if ((flags & EXFLAG_KUSAGE) == 0) return refused("no key usage");
  const uint32_t usage = X509_get_key_usage(leaf);
  if ((usage & KU_DIGITAL_SIGNATURE) == 0) return refused("key usage without digitalSignature");
  if ((usage & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)) != 0) return refused("key usage of a signer");
  if ((flags & EXFLAG_XKUSAGE) != 0) {
    const uint32_t extended = X509_get_extended_key_usage(leaf);
    constexpr uint32_t kBoth = XKU_SSL_SERVER | XKU_SSL_CLIENT;
    if ((extended & kBoth) != kBoth) return refused("extended key usage without serverAuth and clientAuth");
  }
  return only_uri(leaf);
}

std::string serial_of(const X509* certificate) {
  BIGNUM* number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), nullptr);
  char* hex = number != nullptr ? BN_bn2hex(number) : nullptr;
  std::string text = hex != nullptr ? hex : "";
  OPENSSL_free(hex);
  BN_free(number);
  return text;
}

system_clock::time_point time_of(const ASN1_TIME* time) {
  tm utc{};
  if (ASN1_TIME_to_tm(time, &utc) != 1) return {};
  return system_clock::from_time_t(timegm(&utc));
}

Result<void> verify_path(X509_STORE_CTX* store) {
  X509_STORE_CTX_set_verify_cb(store, tolerate_missing_key_ids);
  if (X509_verify_cert(store) == 1) return {};
  const int code = X509_STORE_CTX_get_error(store);
  ERR_clear_error();
  return Error(ErrorKind::kTls, fmt::format("certificate path: {}", X509_verify_cert_error_string(code)),
               code);
}

// ---- ChainCache
// -------------------------------------------------------------------------------------------------------

size_t ChainCache::Hash::operator()(const Fingerprint& fingerprint) const noexcept {
  size_t value = 0;
  std::memcpy(&value, fingerprint.data(), sizeof(value));
  return value;
}

Result<ChainCache::Fingerprint> ChainCache::fingerprint_of(X509_STORE_CTX* store) {
  std::string digests;
  const auto add = [&digests](const X509* certificate) {
    Fingerprint one{};
    const bool good = X509_digest(certificate, digest_for(false), one.data(), nullptr) == 1;
    digests.append(reinterpret_cast<const char*>(one.data()), one.size());
    return good;
  };
  bool good = add(X509_STORE_CTX_get0_cert(store));
  STACK_OF(X509)* sent = X509_STORE_CTX_get0_untrusted(store);
  for (int i = 0; i < sk_X509_num(sent); ++i) good = add(sk_X509_value(sent, i)) && good;
  Fingerprint all{};
  if (!good ||
      EVP_Digest(digests.data(), digests.size(), all.data(), nullptr, digest_for(false), nullptr) != 1) {
    return openssl_error("certificate fingerprint");
  }
  return all;
}

std::optional<VerifiedPeer> ChainCache::find(const Fingerprint& fingerprint) {
  const auto now = system_clock::now();
  const std::lock_guard lock(mutex_);
  const auto found = chains_.find(fingerprint);
  if (found == chains_.end()) return std::nullopt;
  if (now < found->second.not_before || now > found->second.not_after) {
    chains_.erase(found);
    return std::nullopt;
  }
  ++hits_;
  return found->second;
}

void ChainCache::remember(const Fingerprint& fingerprint, const VerifiedPeer& peer) {
  const std::lock_guard lock(mutex_);
  // Full means that the mesh is larger than the cache or that certificates were renewed: starting over is as
  // good as any order of eviction.
  if (chains_.size() >= kMaxChains) chains_.clear();
  chains_.insert_or_assign(fingerprint, peer);
}

uint64_t ChainCache::hits() const noexcept {
  const std::lock_guard lock(mutex_);
  return hits_;
}

Result<VerifiedPeer> ChainCache::verify(X509_STORE_CTX* store) {
  FL_TRY_ASSIGN(const Fingerprint fingerprint, fingerprint_of(store));
  if (auto known = find(fingerprint)) return std::move(*known);
  FL_TRY(verify_path(store));
  X509* leaf = X509_STORE_CTX_get0_cert(store);
  FL_TRY_ASSIGN(SpiffeId id, leaf_identity(leaf));
  VerifiedPeer peer{std::move(id), serial_of(leaf), time_of(X509_get0_notBefore(leaf)),
                    time_of(X509_get0_notAfter(leaf))};
  STACK_OF(X509)* path = X509_STORE_CTX_get0_chain(store);
  for (int i = 1; i < sk_X509_num(path); ++i) {
    peer.not_before = std::max(peer.not_before, time_of(X509_get0_notBefore(sk_X509_value(path, i))));
    peer.not_after = std::min(peer.not_after, time_of(X509_get0_notAfter(sk_X509_value(path, i))));
  }
  remember(fingerprint, peer);
  return peer;
}

}  // namespace fairlead::tls
