// The few steps of the TLS 1.3 key schedule that a record layer needs (RFC 8446 §7.1–7.3, RFC 5869).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tls/record.h"

namespace fairlead::tls {

Result<void> hkdf_expand_label(CipherSuite suite, std::span<const uint8_t> secret, std::string_view label,
                               std::span<uint8_t> out);
// Key, iv and sequence 0 from a traffic secret.
Result<RecordState> derive_state(const TrafficSecret& secret);
// "traffic upd": the secret after a KeyUpdate.
Result<TrafficSecret> next_secret(const TrafficSecret& secret);

constexpr size_t key_length_of(CipherSuite suite) noexcept {
  return suite == CipherSuite::kAes128GcmSha256 ? 16 : 32;
}
constexpr size_t secret_length_of(CipherSuite suite) noexcept {
  return suite == CipherSuite::kAes128GcmSha256 ? 32 : 48;
}

}  // namespace fairlead::tls
