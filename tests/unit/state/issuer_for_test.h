// The signing side of a fake controller: tells the test of every request, and does for each identity what the
// test says. A request that the test holds back is answered when it lets go, or ends when the client does.
#pragma once

#include <gtest/gtest.h>

#include <set>

#include "unit/state/fake_controller.h"

namespace fairlead::state {

using CertificateRequest = istio::v1::auth::IstioCertificateRequest;
using CertificateResponse = istio::v1::auth::IstioCertificateResponse;

class Issuer {
 public:
  struct Seen {
    std::string identity;
    std::string peer;  // of the TCP connection
    Metadata metadata;
    CertificateRequest request;
    std::chrono::system_clock::time_point when;
  };
  // `attempt` counts an identity's requests from 1.
  using Answer =
      std::function<grpc::Status(const std::string& identity, int attempt, const CertificateRequest& request,
                                 CertificateResponse& response)>;

  Events<Seen> seen;
  Events<std::string> cancelled;  // identities whose held request was given up by the client
  testing::Authority authority = testing::Authority::root("mesh root");
  Answer answer;  // null: a good certificate of two hours; set before the controller starts

  ~Issuer() { release_all(); }

  grpc::Status operator()(grpc::ServerContext& context, const CertificateRequest& request,
                          CertificateResponse& response) {
    const std::string identity = request.metadata().fields().at("ImpersonatedIdentity").string_value();
    int attempt = 0;
    {
      const std::lock_guard lock(mutex_);
      attempt = ++attempts_[identity];
      most_ = std::max(most_, ++live_);
    }
    seen.put({identity, context.peer(), metadata_of(context), request, std::chrono::system_clock::now()});
    const bool stayed = wait_while_held(context, identity, attempt);
    {
      const std::lock_guard lock(mutex_);
      --live_;
    }
    if (!stayed) return grpc::Status::CANCELLED;
    return answer ? answer(identity, attempt, request, response)
                  : good(identity, request, response, std::chrono::hours(2));
  }

  grpc::Status good(const std::string& identity, const CertificateRequest& request,
                    CertificateResponse& response, std::chrono::seconds lifetime,
                    std::chrono::seconds age = std::chrono::seconds(0)) const {
    testing::CertificateShape shape = testing::workload(identity);
    shape.starts_in = -age;
    shape.ends_in = lifetime - age;
    response.add_cert_chain(authority.sign(request.csr(), shape));
    response.add_cert_chain(authority.certificate_pem());
    return grpc::Status::OK;
  }

  // Requests of which `which` says so are not answered until release_all().
  void hold(std::function<bool(const std::string& identity, int attempt)> which) {
    const std::lock_guard lock(mutex_);
    held_ = std::move(which);
  }
  void release_all() {
    const std::lock_guard lock(mutex_);
    held_ = nullptr;
    released_.notify_all();
  }
  [[nodiscard]] size_t most_at_once() const {
    const std::lock_guard lock(mutex_);
    return most_;
  }

 private:
  bool wait_while_held(grpc::ServerContext& context, const std::string& identity, int attempt) {
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    std::unique_lock lock(mutex_);
    while (held_ && held_(identity, attempt)) {
      if (context.IsCancelled() || std::chrono::steady_clock::now() > give_up) {
        cancelled.put(identity);
        return false;
      }
      released_.wait_for(lock, std::chrono::milliseconds(5));  // IsCancelled() tells nobody
    }
    return true;
  }

  mutable std::mutex mutex_;
  std::condition_variable released_;
  std::function<bool(const std::string&, int)> held_;
  std::map<std::string, int> attempts_;
  size_t live_ = 0;
  size_t most_ = 0;
};

}  // namespace fairlead::state
