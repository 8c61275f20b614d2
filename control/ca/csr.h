// What a certificate signing request may ask for. Private to the folder. Thread: any. Errors: kDenied with
// the reason.
#pragma once

#include <string>

#include "base/spiffe_id.h"
#include "control/ca/openssl.h"

namespace fairlead::ca {

// A PKCS#10 request in PEM whose signature proves that its sender has the key, with a key of an acceptable
// kind, that asks for no name but `identity`. What else it asks for (subject, usages) is not granted: nothing
// of it is copied.
Result<RequestPtr> check_csr(const std::string& pem, const SpiffeId& identity);

}  // namespace fairlead::ca
