#include <algorithm>
#include <mutex>

#include "control/ca/certificate.h"
#include "control/ca/csr.h"
#include "control/ca/issuer.h"
#include "control/ca/root_files.h"

namespace fairlead::ca {

struct DevelopmentCa::Impl {
  std::string directory;
  std::chrono::seconds longest{};
  FileStamp bundle_stamp, key_stamp;  // of refresh()'s thread
  mutable std::mutex mutex;
  std::shared_ptr<const Roots> roots;  // swapped whole

  [[nodiscard]] std::shared_ptr<const Roots> now() const {
    const std::lock_guard lock(mutex);
    return roots;
  }
  Result<void> load(const RootFiles& files);
};

// Under the lock of the directory.
Result<void> DevelopmentCa::Impl::load(const RootFiles& files) {
  FL_TRY_ASSIGN(const FileStamp bundle, files.bundle_stamp());
  FL_TRY_ASSIGN(const FileStamp key, files.key_stamp());
  FL_TRY_ASSIGN(Roots loaded, files.load());
  bundle_stamp = bundle;
  key_stamp = key;
  const std::lock_guard lock(mutex);
  roots = std::make_shared<const Roots>(std::move(loaded));
  return {};
}

DevelopmentCa::DevelopmentCa(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
DevelopmentCa::~DevelopmentCa() = default;
std::string DevelopmentCa::roots_pem() const {
  return impl_->now()->pem;
}

Result<std::unique_ptr<DevelopmentCa>> DevelopmentCa::open(const std::string& directory,
                                                           std::chrono::seconds longest) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const RootFiles files(directory);
  const auto key = files.key_stamp();
  if (!key && key.error().code() != ENOENT) return key.error();
  if (!key) FL_TRY(files.make());
  auto impl = std::make_unique<Impl>();
  impl->directory = directory;
  impl->longest = longest;
  FL_TRY(impl->load(files));
  return std::unique_ptr<DevelopmentCa>(new DevelopmentCa(std::move(impl)));
}

Result<RootsChanged> DevelopmentCa::refresh() {
  const RootFiles files(impl_->directory);
  FL_TRY_ASSIGN(const FileStamp bundle, files.bundle_stamp());
  FL_TRY_ASSIGN(const FileStamp key, files.key_stamp());
  if (bundle == impl_->bundle_stamp && key == impl_->key_stamp) return RootsChanged::kNo;
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(impl_->directory));
  const auto before = impl_->now();
  FL_TRY(impl_->load(files));
  const auto after = impl_->now();
  if (X509_cmp(before->signer(), after->signer()) != 0) return RootsChanged::kSigner;
  return before->pem == after->pem ? RootsChanged::kNo : RootsChanged::kTrusted;
}

Result<IssuedCertificate> DevelopmentCa::sign(const std::string& csr_pem, const SpiffeId& identity,
                                              std::chrono::seconds ttl) {
  FL_TRY_ASSIGN(const RequestPtr request, check_csr(csr_pem, identity));
  const auto roots = impl_->now();
  if (ttl.count() <= 0) ttl = impl_->longest;
  ttl = std::clamp(ttl, kMinTtl, impl_->longest);
  // The subject is empty, so the name is critical (RFC 5280 §4.2.1.6).
  FL_TRY_ASSIGN(const X509Ptr leaf,
                make_certificate({"", "critical,URI:" + identity.uri(), false, ttl},
                                 X509_REQ_get0_pubkey(request.get()), roots->signer(), roots->key.get()));
  FL_TRY_ASSIGN(std::string pem, pem_of(leaf.get()));
  return IssuedCertificate{std::move(pem), hex_serial(leaf.get()), roots->pem};
}

Result<ServerCertificate> DevelopmentCa::server_certificate(const std::vector<std::string>& dns,
                                                            const std::vector<std::string>& ips) {
  const auto roots = impl_->now();
  FL_TRY_ASSIGN(const KeyPtr key, make_p256_key());
  std::string names;
  for (const std::string& name : dns) names += (names.empty() ? "DNS:" : ",DNS:") + name;
  for (const std::string& ip : ips) names += (names.empty() ? "IP:" : ",IP:") + ip;
  // Made anew with every start and every new root, kept in memory only: it may last as long as the root.
  FL_TRY_ASSIGN(const X509Ptr leaf, make_certificate({"fairlead-controller", names, false, kRootLife},
                                                     key.get(), roots->signer(), roots->key.get()));
  FL_TRY_ASSIGN(std::string chain, pem_of(leaf.get()));
  FL_TRY_ASSIGN(std::string key_pem, pem_of(key.get()));
  return ServerCertificate{std::move(chain), std::move(key_pem)};
}

}  // namespace fairlead::ca
