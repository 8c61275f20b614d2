#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "discovery.grpc.pb.h"
#include "state/channel.h"
#include "state/clients.h"
#include "state/snapshot_builder.h"

namespace fairlead::state {
namespace {

namespace xds = envoy::service::discovery::v3;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
constexpr std::string_view kPolicyType = "type.googleapis.com/istio.security.Authorization";
constexpr std::chrono::milliseconds kFirstBackOff{10};
constexpr std::chrono::milliseconds kMaxBackOff{15000};
// Many responses make one snapshot: it is made when none came for a moment, and at the latest after a while.
constexpr std::chrono::milliseconds kQuiet{20};
constexpr std::chrono::milliseconds kLatest{500};
constexpr size_t kMaxNackText = 4096;
constexpr size_t kSmallestLimit = 4 * 1024 * 1024;  // gRPC's default for what a server receives

}  // namespace

struct XdsClient::Impl {
  Impl(ControllerEndpoint where, std::function<void(SnapshotPtr)> whom)
      : endpoint(std::move(where)), on_snapshot(std::move(whom)), builder(endpoint.network) {}

  ControllerEndpoint endpoint;
  std::function<void(SnapshotPtr)> on_snapshot;
  SnapshotBuilder builder;
  // Versions by type: what we hold, told to the controller after a reconnect.
  std::map<std::string, std::map<std::string, std::string>> versions;
  std::set<std::string> synced_types;
  std::set<std::string> fresh_types;  // that had a first push on this stream
  // A request that tells all versions of a large mesh may be larger than the controller takes (istiod: 4
  // MiB). The stream after such a refusal tells none, and its first push of each type is all that there is.
  bool everything_anew = false;
  size_t largest_told = 0;  // octets, of the first requests of this stream
  std::thread thread;
  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  grpc::ClientContext* live = nullptr;  // to cancel
  XdsStatus status;

  // Responses that are in no snapshot yet: when the first and the last of them came.
  struct Unpublished {
    Clock::time_point first, last;
  };
  std::optional<Unpublished> unpublished;

  using Stream = grpc::ClientAsyncReaderWriter<xds::DeltaDiscoveryRequest, xds::DeltaDiscoveryResponse>;

  void run();
  Result<void> session();
  grpc::Status converse(grpc::ClientContext& context, const std::shared_ptr<grpc::Channel>& channel,
                        grpc::CompletionQueue& queue);
  // How the one operation that is under way ended. Meanwhile, snapshots that are due are made.
  bool outcome(grpc::CompletionQueue& queue);
  [[nodiscard]] Clock::time_point publish_at() const;
  void publish();
  void subscribe(Stream& stream, grpc::CompletionQueue& queue);
  void describe_node(xds::Node& node) const;
  Result<void> apply(const xds::DeltaDiscoveryResponse& response);
  // False when it was refused; `broken` then names it.
  bool apply_resource(bool addresses, const xds::Resource& resource, std::string& broken);
  void drop_unmentioned(bool addresses, const xds::DeltaDiscoveryResponse& response);
  bool sleep(std::chrono::milliseconds time);
  void set_status(const std::function<void(XdsStatus&)>& change) {
    const std::lock_guard lock(mutex);
    change(status);
  }
};

XdsClient::XdsClient(ControllerEndpoint endpoint, std::function<void(SnapshotPtr)> on_snapshot)
    : impl_(std::make_unique<Impl>(std::move(endpoint), std::move(on_snapshot))) {}

XdsClient::~XdsClient() {
  stop();
}

void XdsClient::start() {
  impl_->thread = std::thread([this] { impl_->run(); });
}

void XdsClient::stop() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    if (impl_->live != nullptr) impl_->live->TryCancel();
  }
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

XdsStatus XdsClient::status() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->status;
}

// False when stopping.
bool XdsClient::Impl::sleep(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex);
  return !wake.wait_for(lock, time, [this] { return stopping; });
}

void XdsClient::Impl::run() {
  auto back_off = kFirstBackOff;
  for (;;) {
    fresh_types.clear();
    const Result<void> ended = session();
    if (fresh_types.size() == 2) back_off = kFirstBackOff;  // it worked: try again at once
    set_status([&](XdsStatus& s) {
      s.connected = false;
      s.last_error = ended ? "the controller ended the stream" : ended.error().text();
    });
    if (!sleep(back_off)) return;
    back_off = std::min(back_off * 2, kMaxBackOff);
  }
}

Result<void> XdsClient::Impl::session() {
  FL_TRY_ASSIGN(const auto channel, open_channel(endpoint));
  grpc::ClientContext context;
  FL_TRY(add_metadata(endpoint, context));
  {
    const std::lock_guard lock(mutex);
    if (stopping) return {};
    live = &context;
  }
  grpc::CompletionQueue queue;
  const grpc::Status status_of_stream = converse(context, channel, queue);
  queue.Shutdown();
  if (unpublished) publish();
  everything_anew = status_of_stream.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
                    fresh_types.empty() && largest_told > kSmallestLimit;
  {
    const std::lock_guard lock(mutex);
    live = nullptr;
  }
  if (status_of_stream.ok()) return {};
  return error_of(status_of_stream, "discovery stream");
}

grpc::Status XdsClient::Impl::converse(grpc::ClientContext& context,
                                       const std::shared_ptr<grpc::Channel>& channel,
                                       grpc::CompletionQueue& queue) {
  const auto stub = xds::AggregatedDiscoveryService::NewStub(channel);
  const auto stream = stub->PrepareAsyncDeltaAggregatedResources(&context, &queue);
  stream->StartCall(nullptr);
  if (outcome(queue)) subscribe(*stream, queue);
  xds::DeltaDiscoveryResponse response;
  // Read to the end whatever became of the requests: the status comes behind the last response.
  while (stream->Read(&response, nullptr), outcome(queue)) {
    set_status([](XdsStatus& s) { s.connected = true; });
    const Result<void> applied = apply(response);
    xds::DeltaDiscoveryRequest answer;
    answer.set_type_url(response.type_url());
    answer.set_response_nonce(response.nonce());
    if (!applied) {
      answer.mutable_error_detail()->set_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
      answer.mutable_error_detail()->set_message(applied.error().text().substr(0, kMaxNackText));
    }
    stream->Write(answer, nullptr);
    (void)outcome(queue);  // ignoring: a broken stream shows in Read()
  }
  grpc::Status status_of_stream;
  stream->Finish(&status_of_stream, nullptr);
  (void)outcome(queue);  // ignoring: a Finish() always succeeds
  return status_of_stream;
}

bool XdsClient::Impl::outcome(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool good = false;
  for (;;) {
    gpr_timespec until = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (unpublished) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(publish_at() - Clock::now()).count();
      if (left <= 0) {  // asked before the queue is, which on a busy stream is never empty
        publish();
        continue;
      }
      until = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(left, GPR_TIMESPAN));
    }
    if (queue.AsyncNext(&tag, &good, until) == grpc::CompletionQueue::GOT_EVENT) return good;
  }
}

Clock::time_point XdsClient::Impl::publish_at() const {
  return std::min(unpublished->last + kQuiet, unpublished->first + kLatest);
}

void XdsClient::Impl::publish() {
  unpublished.reset();
  on_snapshot(builder.build());
}

void XdsClient::Impl::describe_node(xds::Node& node) const {
  const std::string pod = "fairlead-agent." + endpoint.node_name;
  // Control planes tell ambient's node proxies by this type.
  node.set_id(fmt::format("ztunnel~{}~{}~fairlead-system.svc.cluster.local", endpoint.node_ip, pod));
  auto& fields = *node.mutable_metadata()->mutable_fields();
  fields["NAME"].set_string_value(pod);
  fields["NAMESPACE"].set_string_value("fairlead-system");
  fields["NODE_NAME"].set_string_value(endpoint.node_name);
}

void XdsClient::Impl::subscribe(Stream& stream, grpc::CompletionQueue& queue) {
  bool first = true;
  largest_told = 0;
  for (const std::string_view type : {kAddressType, kPolicyType}) {
    xds::DeltaDiscoveryRequest request;
    if (std::exchange(first, false)) describe_node(*request.mutable_node());
    request.set_type_url(std::string(type));  // no names: everything
    if (!everything_anew) {
      const auto& held = versions[request.type_url()];
      request.mutable_initial_resource_versions()->insert(held.begin(), held.end());
    }
    largest_told = std::max(largest_told, request.ByteSizeLong());
    stream.Write(request, nullptr);
    (void)outcome(queue);  // ignoring: a broken stream shows in Read()
  }
}

bool XdsClient::Impl::apply_resource(bool addresses, const xds::Resource& resource, std::string& broken) {
  Result<void> applied;
  istio::workload::Address address;
  istio::security::Authorization policy;
  if (addresses) {
    applied = resource.resource().UnpackTo(&address)
                  ? builder.set_address(resource.name(), address)
                  : Error(ErrorKind::kInvalidArgument, resource.name() + ": does not decode");
  } else if (resource.resource().UnpackTo(&policy)) {
    applied = builder.set_policy(resource.name(), policy);
  } else {
    builder.deny_unreadable_policy(resource.name());
    applied = Error(ErrorKind::kInvalidArgument, resource.name() + ": does not decode");
  }
  if (applied) return true;
  set_status([](XdsStatus& s) { ++s.rejected; });
  if (broken.size() < kMaxNackText) broken += (broken.empty() ? "" : "; ") + applied.error().text();
  return false;
}

void XdsClient::Impl::drop_unmentioned(bool addresses, const xds::DeltaDiscoveryResponse& response) {
  std::set<std::string> mentioned;
  for (const auto& resource : response.resources()) mentioned.insert(resource.name());
  addresses ? builder.keep_only_addresses(mentioned) : builder.keep_only_policies(mentioned);
  std::erase_if(versions[response.type_url()],
                [&](const auto& held) { return !mentioned.contains(held.first); });
}

Result<void> XdsClient::Impl::apply(const xds::DeltaDiscoveryResponse& response) {
  const bool addresses = response.type_url() == kAddressType;
  if (!addresses && response.type_url() != kPolicyType) {
    return Error(ErrorKind::kInvalidArgument, "unknown type " + response.type_url());
  }
  std::string broken;
  auto& held = versions[response.type_url()];
  if (everything_anew && !fresh_types.contains(response.type_url())) drop_unmentioned(addresses, response);
  for (const auto& resource : response.resources()) {
    if (apply_resource(addresses, resource, broken)) {
      held[resource.name()] = resource.version();
    } else {
      // The version that we still have, or none: the next stream is to bring it again. The name stays, so
      // that its removal is told to us, which ends what stands in for it.
      held.try_emplace(resource.name());
    }
  }
  for (const std::string& name : response.removed_resources()) {
    addresses ? builder.remove_address(name) : builder.remove_policy(name);
    held.erase(name);
  }
  const bool was_synced = synced_types.size() == 2;
  synced_types.insert(response.type_url());
  fresh_types.insert(response.type_url());
  const bool synced = synced_types.size() == 2;
  set_status([&](XdsStatus& s) {
    ++s.pushes;
    s.synced = synced;
    s.last_error = broken;
  });
  if (synced) {
    const auto now = Clock::now();
    unpublished = {unpublished ? unpublished->first : now, now};
    if (!was_synced) publish();  // pods wait for the first one
  }
  if (!broken.empty()) return Error(ErrorKind::kInvalidArgument, std::move(broken));
  return {};
}

}  // namespace fairlead::state
