#include "control/serve/call.h"

namespace fairlead::serve {

std::string_view token_of(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return {};
  const std::string_view value(found->second.data(), found->second.size());
  for (const std::string_view scheme : {std::string_view("Bearer "), std::string_view("Istio ")}) {
    if (value.starts_with(scheme)) return value.substr(scheme.size());
  }
  return {};
}

std::string printable(std::string_view text, size_t maximum) {
  std::string out(text.substr(0, maximum));
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

grpc::Status unauthenticated() {
  return {grpc::StatusCode::UNAUTHENTICATED, "request authenticate failure"};
}

}  // namespace fairlead::serve
