// A controller in this process for the tests of its clients: it records what it is asked, and says what the
// test tells it to. Every wait has a deadline.
#pragma once

#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>

#include "base/unique_fd.h"
#include "certificate.grpc.pb.h"
#include "discovery.grpc.pb.h"
#include "support/cert_factory.h"

namespace fairlead::state {

namespace xds = envoy::service::discovery::v3;
inline constexpr std::chrono::seconds kPatience{20};

// What happened, in order, for one test thread to take.
template <class Event>
class Events {
 public:
  void put(Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    arrived_.notify_all();
  }
  // Nothing when none comes in time.
  std::optional<Event> take(std::chrono::milliseconds patience = kPatience) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, patience, [this] { return !events_.empty(); })) return std::nullopt;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Event> events_;
};

// A TCP port of loopback that is kept for one test, whether somebody listens on it or not.
class Port {
 public:
  Port() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), length) != 0) std::abort();
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length);
    number_ = ntohs(address.sin_port);
  }
  [[nodiscard]] std::string address() const { return "127.0.0.1:" + std::to_string(number_); }
  // From now on connections are taken by the kernel, and nobody answers them unless accept() is called.
  void listen() { ::listen(socket_.get(), 16); }
  UniqueFd accept() { return UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

 private:
  UniqueFd socket_;
  uint16_t number_ = 0;
};

using Metadata = std::multimap<std::string, std::string>;

inline Metadata metadata_of(const grpc::ServerContext& context) {
  Metadata metadata;
  for (const auto& [key, value] : context.client_metadata())
    metadata.emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
  return metadata;
}

class FakeController final : public xds::AggregatedDiscoveryService::Service,
                             public istio::v1::auth::IstioCertificateService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<xds::DeltaDiscoveryResponse, xds::DeltaDiscoveryRequest>;
  using Sign =
      std::function<grpc::Status(grpc::ServerContext&, const istio::v1::auth::IstioCertificateRequest&,
                                 istio::v1::auth::IstioCertificateResponse&)>;

  Events<Metadata> streams;  // opened
  Events<xds::DeltaDiscoveryRequest> requests;
  Sign sign;  // set before start()
  int max_receive = 64 * 1024 * 1024;

  ~FakeController() override { stop(); }

  void start(const std::string& address, const testing::Issued& identity) {
    grpc::SslServerCredentialsOptions tls;
    tls.pem_key_cert_pairs.push_back({identity.key_pem, identity.certificate_pem});
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::SslServerCredentials(tls));
    builder.SetMaxReceiveMessageSize(max_receive);
    builder.RegisterService(static_cast<xds::AggregatedDiscoveryService::Service*>(this));
    builder.RegisterService(static_cast<istio::v1::auth::IstioCertificateService::Service*>(this));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) std::abort();
  }
  void stop() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  // On the stream that is open; false when there is none.
  bool push(const xds::DeltaDiscoveryResponse& response) {
    const std::lock_guard lock(mutex_);
    return stream_ != nullptr && stream_->Write(response);
  }
  void break_stream() {
    const std::lock_guard lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }

 private:
  grpc::Status DeltaAggregatedResources(grpc::ServerContext* context, Stream* stream) override {
    {
      const std::lock_guard lock(mutex_);
      stream_ = stream;
      context_ = context;
    }
    streams.put(metadata_of(*context));
    xds::DeltaDiscoveryRequest request;
    while (stream->Read(&request)) requests.put(request);
    const std::lock_guard lock(mutex_);
    if (stream_ == stream) {
      stream_ = nullptr;
      context_ = nullptr;
    }
    return grpc::Status::OK;
  }
  grpc::Status CreateCertificate(grpc::ServerContext* context,
                                 const istio::v1::auth::IstioCertificateRequest* request,
                                 istio::v1::auth::IstioCertificateResponse* response) override {
    return sign(*context, *request, *response);
  }

  std::unique_ptr<grpc::Server> server_;
  std::mutex mutex_;
  Stream* stream_ = nullptr;
  grpc::ServerContext* context_ = nullptr;
};

}  // namespace fairlead::state
