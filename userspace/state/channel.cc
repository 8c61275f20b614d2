#include "state/channel.h"

#include <algorithm>

#include "base/file.h"

namespace fairlead::state {
namespace {

constexpr int kMaxMessage = 200 * 1024 * 1024;
constexpr int kKeepaliveMs = 30000;
constexpr int kKeepaliveTimeoutMs = 10000;
constexpr int kIdleMs = 60000;

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  return text;
}

// gRPC takes a metadata value of other characters for misuse of its interface and ends the process.
bool fits_a_header(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; });
}

std::shared_ptr<grpc::Channel> channel_with(const ControllerEndpoint& endpoint, std::string roots) {
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = std::move(roots);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // Servers end connections that ping without a call. One that lies idle is closed instead: the next call
  // would be the first to notice that it is dead.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  arguments.SetInt(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, kIdleMs);
  // By default no third ping goes out while nothing is sent: a stream that only listens would never notice
  // that its controller is gone.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A new channel is to be one: a shared subchannel would keep old roots and back off on its own.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // No proxy of the environment may come between agent and controller.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!endpoint.server_name.empty()) arguments.SetSslTargetNameOverride(endpoint.server_name);
  return grpc::CreateCustomChannel(endpoint.address, grpc::SslCredentials(tls), arguments);
}

}  // namespace

Result<std::shared_ptr<grpc::Channel>> open_channel(const ControllerEndpoint& endpoint) {
  FL_TRY_ASSIGN(std::string roots, read_file(endpoint.roots_file));
  return channel_with(endpoint, std::move(roots));
}

Result<std::shared_ptr<grpc::Channel>> SharedChannel::get(const ControllerEndpoint& endpoint) {
  FL_TRY_ASSIGN(std::string roots, read_file(endpoint.roots_file));
  if (channel_ == nullptr || roots != roots_) {
    channel_ = channel_with(endpoint, roots);
    roots_ = std::move(roots);
  }
  return channel_;
}

// A channel that cannot connect backs off on its own, and fails calls with what it met before: the next
// attempt is to be one.
void SharedChannel::note(const std::shared_ptr<grpc::Channel>& channel, const grpc::Status& status) {
  const bool suspect = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                       status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  if (suspect && channel == channel_) channel_.reset();
}

Result<void> add_metadata(const ControllerEndpoint& endpoint, grpc::ClientContext& context) {
  if (!endpoint.token_file.empty()) {
    FL_TRY_ASSIGN(const std::string token, read_file(endpoint.token_file));
    const std::string bare = trimmed(token);
    if (!fits_a_header(bare))
      return Error(ErrorKind::kInvalidArgument, fmt::format("{}: holds no token", endpoint.token_file));
    context.AddMetadata("authorization", "Bearer " + bare);
  }
  if (!fits_a_header(endpoint.cluster_id))
    return Error(ErrorKind::kInvalidArgument, "the cluster's id has characters that no header may have");
  context.AddMetadata("clusterid", endpoint.cluster_id);
  return {};
}

Error error_of(const grpc::Status& status, std::string_view operation) {
  const bool denied = status.error_code() == grpc::StatusCode::UNAUTHENTICATED ||
                      status.error_code() == grpc::StatusCode::PERMISSION_DENIED;
  return {
      denied ? ErrorKind::kDenied : ErrorKind::kUnavailable,
      fmt::format("{}: {} ({})", operation, status.error_message(), static_cast<int>(status.error_code())),
      static_cast<int>(status.error_code())};
}

}  // namespace fairlead::state
