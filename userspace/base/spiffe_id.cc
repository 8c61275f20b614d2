#include "base/spiffe_id.h"

#include <algorithm>
#include <array>

namespace fairlead {
namespace {

constexpr std::string_view kScheme = "spiffe://";
constexpr size_t kMaxTrustDomain = 255;  // SPIFFE-ID §2.1
constexpr size_t kMaxUri = 2048;         // SPIFFE-ID §2.3

bool is_lower_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_trust_domain_char(char c) {
  return is_lower_or_digit(c) || c == '.' || c == '-' || c == '_';
}
bool is_path_char(char c) {
  return is_trust_domain_char(c) || (c >= 'A' && c <= 'Z');
}

bool valid_segment(std::string_view segment) {
  return !segment.empty() && segment != "." && segment != ".." &&
         std::all_of(segment.begin(), segment.end(), is_path_char);
}

Error invalid(std::string_view uri, std::string_view why) {
  return {ErrorKind::kInvalidArgument, fmt::format("SPIFFE ID '{}': {}", uri.substr(0, 256), why)};
}

}  // namespace

Result<SpiffeId> SpiffeId::make(std::string_view trust_domain, std::string_view ns,
                                std::string_view service_account) {
  SpiffeId id{std::string(trust_domain), std::string(ns), std::string(service_account)};
  const std::string uri = id.uri();
  if (trust_domain.empty() || trust_domain.size() > kMaxTrustDomain ||
      !std::all_of(trust_domain.begin(), trust_domain.end(), is_trust_domain_char)) {
    return invalid(uri, "trust domain must be 1 to 255 of a-z 0-9 . - _");
  }
  if (!valid_segment(ns) || !valid_segment(service_account)) {
    return invalid(uri, "path segments must be of A-Z a-z 0-9 . - _ and neither '.' nor '..'");
  }
  if (uri.size() > kMaxUri) return invalid(uri, "longer than 2048 bytes");
  return id;
}

Result<SpiffeId> SpiffeId::parse(std::string_view uri) {
  if (!uri.starts_with(kScheme)) return invalid(uri, "scheme must be spiffe");
  std::string_view rest = uri.substr(kScheme.size());
  std::array<std::string_view, 5> parts;
  for (size_t i = 0; i < parts.size(); ++i) {
    const size_t slash = rest.find('/');
    const bool last = i + 1 == parts.size();
    if (last != (slash == std::string_view::npos))
      return invalid(uri, "want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME");
    parts[i] = rest.substr(0, slash);
    if (!last) rest.remove_prefix(slash + 1);
  }
  if (parts[1] != "ns" || parts[3] != "sa")
    return invalid(uri, "want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME");
  return make(parts[0], parts[2], parts[4]);
}

std::string SpiffeId::uri() const {
  return fmt::format("{}{}", kScheme, principal());
}
std::string SpiffeId::principal() const {
  return fmt::format("{}/ns/{}/sa/{}", trust_domain, ns, service_account);
}

}  // namespace fairlead
