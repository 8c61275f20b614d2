// Everything that parses bytes of somebody else's, one function each: takes any input, aborts when a promise
// is broken. The same functions run over the kept corpus as a unit test (corpus_test.cc) and under libFuzzer
// (entry.cc; preset fuzz, scripts/fuzz).
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

namespace fairlead::fuzz {

using Bytes = std::span<const uint8_t>;

void frames(Bytes input);       // HTTP/2 connection, both roles
void hpack(Bytes input);        // header blocks
void spiffe(Bytes input);       // SPIFFE IDs
void hello(Bytes input);        // first bytes of a captured connection
void certificate(Bytes input);  // DER of a peer's certificate
void request(Bytes input);      // PEM of a certificate signing request
void discovery(Bytes input);    // xDS resources and what is decided by them
void manifests(Bytes input);    // Kubernetes manifests and what is made of them
void contract(Bytes input);     // messages between keeper and proxy
void parcel(Bytes input);       // what a successor gets of its predecessor
void http2_state(Bytes input);  // of an HTTP/2 connection, and what its peer says next
void handover(Bytes input);     // … between the keepers of two agents
void parcels(Bytes input);      // … between their proxies

struct Target {
  std::string_view name;
  void (*run)(Bytes input);
};
inline constexpr Target kTargets[] = {
    {"frames", frames},           {"hpack", hpack},
    {"spiffe", spiffe},           {"hello", hello},
    {"certificate", certificate}, {"request", request},
    {"discovery", discovery},     {"manifests", manifests},
    {"contract", contract},       {"parcel", parcel},
    {"http2_state", http2_state}, {"handover", handover},
    {"parcels", parcels},
};

inline std::string_view text_of(Bytes input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

// A promise that does not depend on NDEBUG.
inline void promise(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace fairlead::fuzz
