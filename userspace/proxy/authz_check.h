// "Who would be let in?" (`fairlead authz check`): a question about connections that nobody opens, answered
// from a snapshot by the engine that judges real ones. Pure. Thread: any.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proxy/judge.h"

namespace fairlead::proxy {

struct AuthzQuestion {
  enum class Kind { kEither, kService, kPod };
  // Empty: plaintext, which shows no identity.
  std::string source_ns;
  std::string source_account;
  std::optional<IpAddress> source_ip;  // none: the addresses of the pods with that identity
  Kind kind = Kind::kEither;
  std::string ns;
  std::string name;
  uint16_t port = 0;
};

struct AuthzAnswer {
  std::shared_ptr<const state::Workload> workload;
  SocketAddress endpoint;
  std::string principal;  // empty: plaintext
  IpAddress source_ip;    // unspecified: no policy of the destination asks for it
  policy::Decision decision;
  Remarks remarks;
};

constexpr size_t kMaxAuthzAnswers = 1000;

// One answer for each endpoint and source address that can meet. The error says what cannot be answered.
Result<std::vector<AuthzAnswer>> check_authz(const state::Snapshot& snapshot, const AuthzQuestion& question);

}  // namespace fairlead::proxy
