// The two gRPC clients of an agent: delta ADS (workloads, services, policies) and the certificate service.
// They are all of the agent that talks to the controller; the same protocol is served by istiod. Thread: each
// client has a thread of its own; callbacks come on it. Stop joins it. State is kept while disconnected:
// reconnect backs off 10 ms → 15 s doubling, and sends initial_resource_versions.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/spiffe_id.h"
#include "state/snapshot.h"
#include "tls/credentials.h"

namespace fairlead::state {

struct ControllerEndpoint {
  std::string address;      // "172.30.0.1:15012"
  std::string server_name;  // verified against the controller's certificate; empty: from address
  std::string roots_file;   // PEM, re-read on every connect
  std::string token_file;   // bearer token, re-read on every call
  std::string cluster_id = "Kubernetes";
  std::string network;  // that the node is on, as the controller names it
  std::string node_name;
  std::string node_ip = "1.1.1.1";
};

struct XdsStatus {
  bool connected = false;
  bool synced = false;  // a first push of every type was applied
  uint64_t pushes = 0;
  uint64_t rejected = 0;  // resources that did not decode, named in a NACK
  std::string last_error;
};

class XdsClient {
 public:
  // on_snapshot: as soon as all types have come once; from then on after pushes, one for all that come within
  // a moment.
  XdsClient(ControllerEndpoint endpoint, std::function<void(SnapshotPtr)> on_snapshot);
  ~XdsClient();
  void start();
  void stop();
  [[nodiscard]] XdsStatus status() const;  // any thread

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

constexpr size_t kMaxIdentities = 4096;  // four for every pod that a node may have
constexpr size_t kMaxFetches = 8;        // calls under way at once
constexpr size_t kFetchesForNew = 2;     // of these, left to identities that were never asked for

// Keeps a certificate for every wanted identity: fetched at once, renewed at half of its life with ±10 %
// jitter, the old one used until the new one works; failures retried 0.5 s → 150 s doubling ±20 %, and sooner
// when the old one runs out. Whoever has no certificate goes before renewals.
class CertificateClient {
 public:
  using OnCredentials = std::function<void(std::shared_ptr<const tls::Credentials>)>;
  CertificateClient(ControllerEndpoint endpoint, std::chrono::seconds ttl, OnCredentials on_credentials);
  ~CertificateClient();
  void start();
  void stop();
  // Any thread; idempotent. kExhausted when kMaxIdentities are held: to be wanted again when others were
  // forgotten.
  Result<void> want(const SpiffeId& id);
  void forget(const SpiffeId& id);  // any thread
  struct Status {
    SpiffeId id;
    bool ready = false;  // has a certificate that is valid now
    std::string serial;
    std::chrono::system_clock::time_point not_before, not_after, next_attempt;
    std::string last_error;
  };
  [[nodiscard]] std::vector<Status> status() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::state
