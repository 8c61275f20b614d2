#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "certificate.grpc.pb.h"
#include "state/channel.h"
#include "state/clients.h"

namespace fairlead::state {
namespace {

using SystemTime = std::chrono::system_clock::time_point;
using std::chrono::milliseconds;

constexpr size_t kMaxIdentities = 4096;
constexpr milliseconds kFirstRetry{500};
constexpr milliseconds kMaxRetry{150000};
constexpr std::chrono::seconds kCallDeadline{10};
constexpr double kRetryJitter = 0.2;
constexpr double kRenewJitter = 0.1;

}  // namespace

struct CertificateClient::Impl {
  struct Entry {
    Status status;
    milliseconds retry = kFirstRetry;
  };

  ControllerEndpoint endpoint;
  std::chrono::seconds ttl;
  OnCredentials on_credentials;
  std::map<SpiffeId, Entry> entries;
  std::minstd_rand random{std::random_device{}()};
  std::thread thread;
  mutable std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  grpc::ClientContext* live = nullptr;

  void run();
  std::optional<SpiffeId> due(std::unique_lock<std::mutex>& lock);
  Result<std::shared_ptr<const tls::Credentials>> fetch(const SpiffeId& id);
  Result<istio::v1::auth::IstioCertificateResponse> call(const SpiffeId& id, const std::string& csr);
  // False when nobody wants the identity any more.
  bool settle(const SpiffeId& id, const Result<std::shared_ptr<const tls::Credentials>>& result);
  double jitter(double share) { return 1.0 + std::uniform_real_distribution<double>(-share, share)(random); }
};

CertificateClient::CertificateClient(ControllerEndpoint endpoint, std::chrono::seconds ttl,
                                     OnCredentials on_credentials)
    : impl_(std::make_unique<Impl>()) {
  impl_->endpoint = std::move(endpoint);
  impl_->ttl = ttl;
  impl_->on_credentials = std::move(on_credentials);
}

CertificateClient::~CertificateClient() {
  stop();
}

void CertificateClient::start() {
  impl_->thread = std::thread([this] { impl_->run(); });
}

void CertificateClient::stop() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    if (impl_->live != nullptr) impl_->live->TryCancel();
  }
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

void CertificateClient::want(const SpiffeId& id) {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->entries.size() >= kMaxIdentities) return;
    auto [entry, added] = impl_->entries.try_emplace(id);
    if (!added) return;
    entry->second.status.id = id;
  }
  impl_->wake.notify_all();
}

void CertificateClient::forget(const SpiffeId& id) {
  const std::lock_guard lock(impl_->mutex);
  impl_->entries.erase(id);
}

std::vector<CertificateClient::Status> CertificateClient::status() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<Status> list;
  for (const auto& [id, entry] : impl_->entries) list.push_back(entry.status);
  return list;
}

// The identity whose time has come; waits for one. Nothing when stopping.
std::optional<SpiffeId> CertificateClient::Impl::due(std::unique_lock<std::mutex>& lock) {
  while (!stopping) {
    const auto first = std::min_element(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
      return a.second.status.next_attempt < b.second.status.next_attempt;
    });
    if (first == entries.end()) {
      wake.wait(lock);
    } else if (first->second.status.next_attempt <= std::chrono::system_clock::now()) {
      return first->first;
    } else {
      const SystemTime until = first->second.status.next_attempt;  // a copy: the entry may go while we wait
      wake.wait_until(lock, until);
    }
  }
  return std::nullopt;
}

void CertificateClient::Impl::run() {
  for (;;) {
    std::optional<SpiffeId> id;
    {
      std::unique_lock lock(mutex);
      id = due(lock);
    }
    if (!id) return;
    const auto result = fetch(*id);
    if (settle(*id, result) && result) on_credentials(*result);
  }
}

bool CertificateClient::Impl::settle(const SpiffeId& id,
                                     const Result<std::shared_ptr<const tls::Credentials>>& result) {
  const std::lock_guard lock(mutex);
  const auto found = entries.find(id);
  if (found == entries.end()) return false;
  Entry& entry = found->second;
  const SystemTime now = std::chrono::system_clock::now();
  if (!result) {
    entry.status.last_error = result.error().text();
    entry.status.next_attempt =
        now + std::chrono::duration_cast<milliseconds>(entry.retry * jitter(kRetryJitter));
    entry.retry = std::min(entry.retry * 2, kMaxRetry);
    return true;
  }
  const tls::Credentials& credentials = **result;
  const auto half =
      std::chrono::duration_cast<milliseconds>(credentials.not_after() - credentials.not_before()) / 2;
  const auto renew_at =
      credentials.not_before() + std::chrono::duration_cast<milliseconds>(half * jitter(kRenewJitter));
  entry.status.ready = true;
  entry.status.serial = credentials.serial();
  entry.status.not_before = credentials.not_before();
  entry.status.not_after = credentials.not_after();
  entry.status.last_error.clear();
  if (renew_at > now + kFirstRetry) {
    entry.status.next_attempt = renew_at;
    entry.retry = kFirstRetry;
  } else {
    // Born past its half life: the signer has no longer one to give, and asking it at once and again does not
    // help.
    entry.status.next_attempt =
        now + std::chrono::duration_cast<milliseconds>(entry.retry * jitter(kRetryJitter));
    entry.retry = std::min(entry.retry * 2, kMaxRetry);
  }
  return true;
}

Result<istio::v1::auth::IstioCertificateResponse> CertificateClient::Impl::call(const SpiffeId& id,
                                                                                const std::string& csr) {
  FL_TRY_ASSIGN(const auto channel, open_channel(endpoint));
  grpc::ClientContext context;
  FL_TRY(add_metadata(endpoint, context));
  context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
  {
    const std::lock_guard lock(mutex);
    if (stopping) return Error(ErrorKind::kCancelled, "stopping");
    live = &context;
  }
  istio::v1::auth::IstioCertificateRequest request;
  request.set_csr(csr);
  request.set_validity_duration(ttl.count());
  (*request.mutable_metadata()->mutable_fields())["ImpersonatedIdentity"].set_string_value(id.uri());
  istio::v1::auth::IstioCertificateResponse response;
  const auto stub = istio::v1::auth::IstioCertificateService::NewStub(channel);
  const grpc::Status status = stub->CreateCertificate(&context, request, &response);
  {
    const std::lock_guard lock(mutex);
    live = nullptr;
  }
  if (!status.ok()) return error_of(status, "CreateCertificate");
  return response;
}

Result<std::shared_ptr<const tls::Credentials>> CertificateClient::Impl::fetch(const SpiffeId& id) {
  FL_TRY_ASSIGN(tls::KeyPair key, tls::KeyPair::generate());
  FL_TRY_ASSIGN(const std::string csr, key.csr_pem(id));
  FL_TRY_ASSIGN(const auto response, call(id, csr));
  const int count = response.cert_chain_size();
  if (count < 2)
    return Error(ErrorKind::kProtocol,
                 fmt::format("certificate answer of {} elements, want leaf and roots", count));
  const std::vector<std::string> chain(response.cert_chain().begin(), response.cert_chain().end() - 1);
  return tls::Credentials::create(std::move(key), chain, response.cert_chain(count - 1), id);
}

}  // namespace fairlead::state
