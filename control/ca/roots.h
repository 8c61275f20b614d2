// The roots of the development CA as files of its directory, and how one takes the place of another without a
// handshake that fails:
//   root-cert.pem      what is trusted: one root, two while they change
//   root-key.pem       the key that signs; its certificate is the one of root-cert.pem that it fits
//   next-root-key.pem  the key of a root that is trusted and does not sign yet
// Roots reach workloads with their certificates. So each step waits until whatever was issued before the last
// one has run out: add (trusted everywhere), use (signs), retire (the old one is trusted no longer). Thread:
// any; processes lock the directory. Errors: kDenied for a step out of turn, kTls and kSyscall.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/result.h"

namespace fairlead::ca {

using SystemTime = std::chrono::system_clock::time_point;

// A running controller looks at the files once a second.
constexpr std::chrono::seconds kRootsNoticed{5};

struct RootChange {
  enum class Phase { kNone, kAdded, kInUse };
  Phase phase = Phase::kNone;
  SystemTime next_from;  // of the next step, unless kNone
};

struct RootLine {
  std::string fingerprint;  // SHA-256, hex
  SystemTime not_after;
  bool signs = false;
};

struct RootsReport {
  std::vector<RootLine> roots;
  RootChange change;
};

// `longest`: the longest life of a certificate that this CA gives.
Result<RootsReport> look_at_roots(const std::string& directory, std::chrono::seconds longest);
Result<void> add_root(const std::string& directory, std::chrono::seconds longest);
// Before their time only when `at_once`: a key that was stolen is worth a few refused handshakes.
Result<void> use_root(const std::string& directory, std::chrono::seconds longest, bool at_once);
Result<void> retire_root(const std::string& directory, std::chrono::seconds longest, bool at_once);

}  // namespace fairlead::ca
