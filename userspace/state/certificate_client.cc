#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "certificate.grpc.pb.h"
#include "state/channel.h"
#include "state/clients.h"

namespace fairlead::state {
namespace {

using SystemTime = std::chrono::system_clock::time_point;
using std::chrono::milliseconds;
using CredentialsPtr = std::shared_ptr<const tls::Credentials>;

constexpr milliseconds kFirstRetry{500};
constexpr milliseconds kMaxRetry{150000};
constexpr std::chrono::seconds kCallDeadline{10};
constexpr double kRetryJitter = 0.2;
constexpr double kRenewJitter = 0.1;

// A fetch that is under way.
struct Call {
  Call(SpiffeId whose, tls::KeyPair made) : id(std::move(whose)), key(std::move(made)) {}

  SpiffeId id;
  tls::KeyPair key;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<istio::v1::auth::IstioCertificateService::Stub> stub;
  grpc::ClientContext context;
  istio::v1::auth::IstioCertificateRequest request;
  istio::v1::auth::IstioCertificateResponse response;
  grpc::Status status;
};

Result<CredentialsPtr> credentials_of(Call& call) {
  if (!call.status.ok()) return error_of(call.status, "CreateCertificate");
  const auto& answer = call.response.cert_chain();
  if (answer.size() < 2)
    return Error(ErrorKind::kProtocol,
                 fmt::format("certificate answer of {} elements, want leaf and roots", answer.size()));
  const std::vector<std::string> chain(answer.begin(), answer.end() - 1);
  return tls::Credentials::create(std::move(call.key), chain, *answer.rbegin(), call.id);
}

}  // namespace

// One thread starts calls and takes their answers; gRPC's threads only say that a call is over.
struct CertificateClient::Impl {
  using CallId = uint64_t;  // 0: none
  struct Entry {
    Status status;
    milliseconds retry = kFirstRetry;
    CallId call = 0;
    bool asked = false;  // at least once
  };
  // Of those that no call is under way for, by next attempt.
  using Queue = std::set<std::pair<SystemTime, SpiffeId>>;

  ControllerEndpoint endpoint;
  std::chrono::seconds ttl;
  OnCredentials on_credentials;
  SharedChannel channel;  // of the thread
  std::minstd_rand random{std::random_device{}()};
  std::thread thread;
  mutable std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  std::map<SpiffeId, Entry> entries;
  Queue without;  // a valid certificate
  Queue renewals;
  std::map<CallId, std::unique_ptr<Call>> calls;
  std::vector<CallId> over;
  CallId last_call = 0;

  void run();
  std::optional<SpiffeId> due(SystemTime now) const;
  void wait(std::unique_lock<std::mutex>& lock, SystemTime now);
  void start(const SpiffeId& id);
  Result<std::unique_ptr<Call>> prepare(const SpiffeId& id);
  void finish(std::unique_ptr<Call> call, CallId number);
  void enqueue(const Entry& entry, SystemTime now);
  void dequeue(const Entry& entry);
  void settle(Entry& entry, const Result<CredentialsPtr>& result);
  void retry_later(Entry& entry, SystemTime now);
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
    for (auto& [number, call] : impl_->calls) call->context.TryCancel();
    impl_->wake.notify_all();
  }
  if (impl_->thread.joinable()) impl_->thread.join();
}

Result<void> CertificateClient::want(const SpiffeId& id) {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->entries.contains(id)) return {};
  if (impl_->entries.size() >= kMaxIdentities) {
    return Error(ErrorKind::kExhausted,
                 fmt::format("{}: no certificate, {} identities are held", id.uri(), kMaxIdentities));
  }
  Impl::Entry& entry = impl_->entries[id];
  entry.status.id = id;
  impl_->enqueue(entry, SystemTime());
  impl_->wake.notify_all();
  return {};
}

void CertificateClient::forget(const SpiffeId& id) {
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->entries.find(id);
  if (found == impl_->entries.end()) return;
  const auto call = impl_->calls.find(found->second.call);
  if (call != impl_->calls.end()) call->second->context.TryCancel();
  impl_->dequeue(found->second);
  impl_->entries.erase(found);
}

std::vector<CertificateClient::Status> CertificateClient::status() const {
  const std::lock_guard lock(impl_->mutex);
  const SystemTime now = std::chrono::system_clock::now();
  std::vector<Status> list;
  for (const auto& [id, entry] : impl_->entries) {
    list.push_back(entry.status);
    list.back().ready = entry.status.not_after > now;
  }
  return list;
}

// ---- the thread
// -------------------------------------------------------------------------------------------------------

void CertificateClient::Impl::run() {
  std::unique_lock lock(mutex);
  while (!stopping) {
    const SystemTime now = std::chrono::system_clock::now();
    if (!over.empty()) {
      auto node = calls.extract(over.back());
      over.pop_back();
      lock.unlock();
      finish(std::move(node.mapped()), node.key());
      lock.lock();
    } else if (const auto id = due(now)) {
      lock.unlock();
      start(*id);
      lock.lock();
    } else {
      wait(lock, now);
    }
  }
  // gRPC writes into a call until it says that it is over.
  wake.wait(lock, [this] { return over.size() == calls.size(); });
  over.clear();
  calls.clear();
}

// Whose turn it is. The first of `without` is one that was never asked for, if there is any: its next attempt
// is the beginning of time.
std::optional<SpiffeId> CertificateClient::Impl::due(SystemTime now) const {
  if (calls.size() >= kMaxFetches) return std::nullopt;
  const bool only_new = calls.size() >= kMaxFetches - kFetchesForNew;
  for (const Queue* queue : {&without, &renewals}) {
    if (queue->empty() || queue->begin()->first > now) continue;
    const SpiffeId& id = queue->begin()->second;
    if (!only_new || !entries.at(id).asked) return id;
  }
  return std::nullopt;
}

// Until something happens or is due. What is due already waits for a call to end, not for a time.
void CertificateClient::Impl::wait(std::unique_lock<std::mutex>& lock, SystemTime now) {
  std::optional<SystemTime> next;
  for (const Queue* queue : {&without, &renewals}) {
    if (queue->empty() || queue->begin()->first <= now) continue;
    if (!next || queue->begin()->first < *next) next = queue->begin()->first;
  }
  if (next) {
    wake.wait_until(lock, *next);
  } else {
    wake.wait(lock);
  }
}

Result<std::unique_ptr<Call>> CertificateClient::Impl::prepare(const SpiffeId& id) {
  FL_TRY_ASSIGN(tls::KeyPair key, tls::KeyPair::generate());
  auto call = std::make_unique<Call>(id, std::move(key));
  FL_TRY_ASSIGN(const std::string csr, call->key.csr_pem(id));
  FL_TRY_ASSIGN(call->channel, channel.get(endpoint));
  FL_TRY(add_metadata(endpoint, call->context));
  call->context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
  call->request.set_csr(csr);
  call->request.set_validity_duration(ttl.count());
  (*call->request.mutable_metadata()->mutable_fields())["ImpersonatedIdentity"].set_string_value(id.uri());
  call->stub = istio::v1::auth::IstioCertificateService::NewStub(call->channel);
  return call;
}

void CertificateClient::Impl::start(const SpiffeId& id) {
  auto prepared = prepare(id);
  const std::lock_guard lock(mutex);
  const auto found = entries.find(id);
  if (stopping || found == entries.end()) return;
  Entry& entry = found->second;
  dequeue(entry);
  entry.asked = true;
  if (!prepared) return settle(entry, Error(std::move(prepared).error()));
  const CallId number = entry.call = ++last_call;
  Call& call = *(calls[number] = std::move(*prepared));
  // Under the lock: whoever cancels finds a call that has begun. gRPC never calls back from here.
  call.stub->async()->CreateCertificate(&call.context, &call.request, &call.response,
                                        [this, number, &call](grpc::Status status) {
                                          const std::lock_guard told(mutex);
                                          call.status = std::move(status);
                                          over.push_back(number);
                                          wake.notify_all();
                                        });
}

void CertificateClient::Impl::finish(std::unique_ptr<Call> call, CallId number) {
  channel.note(call->channel, call->status);
  const Result<CredentialsPtr> result = credentials_of(*call);
  {
    const std::lock_guard lock(mutex);
    const auto found = entries.find(call->id);
    // Forgotten meanwhile; perhaps wanted again since, and then another call is its own.
    if (found == entries.end() || found->second.call != number) return;
    settle(found->second, result);
  }
  if (result) on_credentials(*result);
}

void CertificateClient::Impl::enqueue(const Entry& entry, SystemTime now) {
  Queue& queue = entry.status.not_after > now ? renewals : without;
  queue.emplace(entry.status.next_attempt, entry.status.id);
}

void CertificateClient::Impl::dequeue(const Entry& entry) {
  for (Queue* queue : {&without, &renewals}) queue->erase({entry.status.next_attempt, entry.status.id});
}

// Never past half of what the certificate has left: several attempts come before its end, however short its
// life is.
void CertificateClient::Impl::retry_later(Entry& entry, SystemTime now) {
  const auto left = std::chrono::duration_cast<milliseconds>(entry.status.not_after - now);
  const milliseconds pause =
      left.count() > 0 ? std::min(entry.retry, std::max(left / 2, kFirstRetry)) : entry.retry;
  entry.status.next_attempt = now + std::chrono::duration_cast<milliseconds>(pause * jitter(kRetryJitter));
  entry.retry = std::min(entry.retry * 2, kMaxRetry);
}

void CertificateClient::Impl::settle(Entry& entry, const Result<CredentialsPtr>& result) {
  const SystemTime now = std::chrono::system_clock::now();
  entry.call = 0;
  if (!result) {
    entry.status.last_error = result.error().text();
    retry_later(entry, now);
    return enqueue(entry, now);
  }
  const tls::Credentials& credentials = **result;
  const auto half =
      std::chrono::duration_cast<milliseconds>(credentials.not_after() - credentials.not_before()) / 2;
  const auto renew_at =
      credentials.not_before() + std::chrono::duration_cast<milliseconds>(half * jitter(kRenewJitter));
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
    retry_later(entry, now);
  }
  enqueue(entry, now);
}

}  // namespace fairlead::state
