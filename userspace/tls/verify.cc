#include "tls/verify.h"

#include <algorithm>
#include <optional>

#include "tls/openssl.h"

namespace fairlead::tls {
namespace {

Error refused(std::string_view why) { return {ErrorKind::kTls, fmt::format("peer certificate: {}", why)}; }

// By explicit length: a NUL or a control byte inside a name is a forgery, not an end.
Result<std::string> text_of(const ASN1_STRING* string) {
  const auto* bytes = reinterpret_cast<const char*>(ASN1_STRING_get0_data(string));
  const std::string text(bytes, static_cast<size_t>(ASN1_STRING_length(string)));
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!printable) return refused("control or non-ASCII bytes in a name");
  return text;
}

Result<SpiffeId> only_uri(X509* leaf) {
  const GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr)));
  if (names == nullptr) return refused("no subject alternative name, or more than one extension of it");
  std::optional<std::string> uri;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    if (uri) return refused("more than one URI name");
    FL_TRY_ASSIGN(uri, text_of(name->d.uniformResourceIdentifier));
  }
  if (!uri) return refused("no URI name");
  return SpiffeId::parse(*uri);
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

}  // namespace fairlead::tls
