// Names and certificates: what a peer says of itself.
#include <openssl/x509.h>

#include "base/spiffe_id.h"
#include "control/ca/csr.h"
#include "fuzz/targets.h"
#include "tls/handshake.h"
#include "tls/verify.h"

namespace fairlead::fuzz {

void spiffe(Bytes input) {
  const auto id = SpiffeId::parse(text_of(input));
  if (!id) return;
  promise(id->uri() == text_of(input), "an identity has one spelling");
  const auto again = SpiffeId::make(id->trust_domain, id->ns, id->service_account);
  promise(again.has_value() && *again == *id, "its parts make the same identity");
}

// A verdict, once given, does not change by more bytes.
void hello(Bytes input) {
  const tls::FirstBytes whole = tls::classify(input);
  for (size_t length = 0; length < input.size(); length += 1 + length / 16) {
    const tls::FirstBytes part = tls::classify(input.first(length));
    if (part != tls::FirstBytes::kNeedMore) promise(part == whole, "the verdict stays");
  }
}

void certificate(Bytes input) {
  const uint8_t* at = input.data();
  X509* leaf = d2i_X509(nullptr, &at, static_cast<long>(input.size()));
  if (leaf == nullptr) return;
  const auto id = tls::leaf_identity(leaf);
  if (id)
    promise(SpiffeId::parse(id->uri()).has_value(), "an identity from a certificate is one by the grammar");
  (void)tls::serial_of(leaf);
  (void)tls::time_of(X509_get0_notAfter(leaf));
  X509_free(leaf);
}

void request(Bytes input) {
  static const SpiffeId kIdentity = *SpiffeId::make("cluster.local", "front", "web");
  (void)ca::check_csr(std::string(text_of(input)), kIdentity);
}

}  // namespace fairlead::fuzz
