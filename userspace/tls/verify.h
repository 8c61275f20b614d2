// What a peer's certificate must be beyond a valid chain (SPIFFE X509-SVID §4, §5).
#pragma once

#include <openssl/x509.h>

#include <string>

#include "base/result.h"
#include "base/spiffe_id.h"

namespace fairlead::tls {

constexpr int kMaxChainDepth = 4;
constexpr long kMaxChainBytes = 32 * 1024;

// Exactly one URI SAN that is a SPIFFE ID; leaf not a CA; KU with digitalSignature and without keyCertSign and cRLSign;
// EKU, if there is one, with serverAuth and clientAuth.
Result<SpiffeId> leaf_identity(X509* leaf);
std::string serial_of(const X509* certificate);

}  // namespace fairlead::tls
