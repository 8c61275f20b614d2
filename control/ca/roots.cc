#include "control/ca/roots.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/file.h"
#include "control/ca/certificate.h"
#include "control/ca/root_files.h"

namespace fairlead::ca {
namespace {

constexpr size_t kMaxRoots = 2;  // one, and its successor

Result<FileStamp> stamp_of(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return Error::from_errno(fmt::format("stat {}", path));
  const auto since =
      std::chrono::seconds(status.st_mtim.tv_sec) + std::chrono::nanoseconds(status.st_mtim.tv_nsec);
  return FileStamp{status.st_ino, status.st_size, SystemTime(since)};
}

Result<std::vector<X509Ptr>> certificates_of(const std::string& pem) {
  const BioPtr in = reading(pem);
  std::vector<X509Ptr> found;
  ERR_clear_error();
  while (in != nullptr && found.size() <= kMaxRoots) {
    X509* next = PEM_read_bio_X509(in.get(), nullptr, no_passphrase, nullptr);
    if (next == nullptr) break;
    found.emplace_back(next);
  }
  // Behind the last one there is nothing: anything else is a bundle that is only half understood.
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (found.empty() || found.size() > kMaxRoots || !at_end) return openssl_error("root certificates");
  ERR_clear_error();
  return found;
}

bool fits(const X509Ptr& certificate, const KeyPtr& key) {
  const bool same = X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  return same;
}

Result<KeyPtr> read_key(const std::string& path) {
  FL_TRY_ASSIGN(const std::string pem, read_file(path));
  auto key = key_of(pem);
  if (!key) return std::move(key).error().context(path);
  return key;
}

Result<std::string> fingerprint(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (X509_digest(certificate, EVP_sha256(), digest, &length) != 1) return openssl_error("fingerprint");
  std::string text;
  for (unsigned i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

Result<SystemTime> end_of(const X509* certificate) {
  tm end{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) return openssl_error("end of a root");
  return std::chrono::system_clock::from_time_t(::timegm(&end));
}

// Under the lock. A next key that is already the one in use is what a step that was cut short left behind.
Result<RootChange> change_of(const RootFiles& files, const Roots& roots, std::chrono::seconds longest) {
  RootChange change;
  if (roots.certificates.size() == 1) return change;
  const auto next = read_key(files.next_key);
  if (!next && next.error().code() != ENOENT) return next.error();
  const X509Ptr& other = roots.certificates[1 - roots.signer_at];
  if (next && fits(other, *next)) {
    change.phase = RootChange::Phase::kAdded;
    FL_TRY_ASSIGN(const FileStamp stamp, files.bundle_stamp());
    change.next_from = stamp.written + longest + kRootsNoticed;
    return change;
  }
  change.phase = RootChange::Phase::kInUse;
  FL_TRY_ASSIGN(const FileStamp stamp, files.key_stamp());
  change.next_from = stamp.written + longest + kRootsNoticed;
  return change;
}

// What stands before a step: the roots, if it is its turn and its time.
Result<Roots> before(const RootFiles& files, RootChange::Phase wanted, std::chrono::seconds longest,
                     bool at_once, const char* out_of_turn) {
  FL_TRY_ASSIGN(Roots roots, files.load());
  FL_TRY_ASSIGN(const RootChange change, change_of(files, roots, longest));
  if (change.phase != wanted) return Error(ErrorKind::kDenied, out_of_turn);
  const auto left =
      std::chrono::ceil<std::chrono::seconds>(change.next_from - std::chrono::system_clock::now());
  if (wanted != RootChange::Phase::kNone && !at_once && left.count() > 0) {
    return Error(
        ErrorKind::kDenied,
        fmt::format("certificates from before the last step are valid for {} s still", left.count()));
  }
  return roots;
}

Result<void> remove(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return Error::from_errno(fmt::format("remove {}", path));
}

struct MadeRoot {
  std::string key_pem;
  std::string certificate_pem;
};

Result<MadeRoot> make_root() {
  FL_TRY_ASSIGN(const KeyPtr key, make_p256_key());
  FL_TRY_ASSIGN(const X509Ptr root, make_certificate({"Fairlead development CA", "", true, kRootLife},
                                                     key.get(), nullptr, nullptr));
  MadeRoot made;
  FL_TRY_ASSIGN(made.certificate_pem, pem_of(root.get()));
  FL_TRY_ASSIGN(made.key_pem, pem_of(key.get()));
  return made;
}

}  // namespace

// ---- the files
// ------------------------------------------------------------------------------------------------------------

Result<FileStamp> RootFiles::bundle_stamp() const {
  return stamp_of(bundle);
}
Result<FileStamp> RootFiles::key_stamp() const {
  return stamp_of(key);
}

Result<Roots> RootFiles::load() const {
  Roots roots;
  FL_TRY_ASSIGN(roots.key, read_key(key));
  FL_TRY_ASSIGN(roots.pem, read_file(bundle));
  FL_TRY_ASSIGN(roots.certificates, certificates_of(roots.pem));
  const auto signer = std::find_if(roots.certificates.begin(), roots.certificates.end(),
                                   [&](const X509Ptr& root) { return fits(root, roots.key); });
  if (signer == roots.certificates.end()) {
    return Error(ErrorKind::kTls, fmt::format("{}: root certificate and key do not fit together", bundle));
  }
  roots.signer_at = static_cast<size_t>(signer - roots.certificates.begin());
  if (X509_cmp_current_time(X509_get0_notAfter(roots.signer())) <= 0) {
    return Error(ErrorKind::kTls, fmt::format("{}: root certificate has expired", bundle));
  }
  return roots;
}

Result<void> RootFiles::make() const {
  FL_TRY_ASSIGN(const MadeRoot made, make_root());
  // The key last: a root without its key is made anew, a key without its root is an error.
  FL_TRY(write_file_atomically(bundle, made.certificate_pem, 0644));
  return write_file_atomically(key, made.key_pem, 0600);
}

// ---- the steps
// ------------------------------------------------------------------------------------------------------------

Result<RootsReport> look_at_roots(const std::string& directory, std::chrono::seconds longest) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const RootFiles files(directory);
  FL_TRY_ASSIGN(const Roots roots, files.load());
  RootsReport report;
  for (size_t at = 0; at < roots.certificates.size(); ++at) {
    RootLine& line = report.roots.emplace_back();
    FL_TRY_ASSIGN(line.fingerprint, fingerprint(roots.certificates[at].get()));
    FL_TRY_ASSIGN(line.not_after, end_of(roots.certificates[at].get()));
    line.signs = at == roots.signer_at;
  }
  FL_TRY_ASSIGN(report.change, change_of(files, roots, longest));
  return report;
}

Result<void> add_root(const std::string& directory, std::chrono::seconds longest) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const RootFiles files(directory);
  FL_TRY_ASSIGN(const Roots roots, before(files, RootChange::Phase::kNone, longest, false,
                                          "there are two roots already: finish that change first"));
  FL_TRY_ASSIGN(const MadeRoot made, make_root());
  // The key first: one that nobody trusts is replaced by the next attempt, a root without a key would stay.
  FL_TRY(write_file_atomically(files.next_key, made.key_pem, 0600));
  return write_file_atomically(files.bundle, roots.pem + made.certificate_pem, 0644);
}

Result<void> use_root(const std::string& directory, std::chrono::seconds longest, bool at_once) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const RootFiles files(directory);
  FL_TRY(
      before(files, RootChange::Phase::kAdded, longest, at_once, "no root waits for its use: add one first"));
  FL_TRY_ASSIGN(const std::string next, read_file(files.next_key));
  FL_TRY(
      write_file_atomically(files.key, next, 0600));  // the old key is gone: from here there is no way back
  return remove(files.next_key);
}

Result<void> retire_root(const std::string& directory, std::chrono::seconds longest, bool at_once) {
  FL_TRY_ASSIGN(const StateLock lock, StateLock::acquire(directory));
  const RootFiles files(directory);
  FL_TRY_ASSIGN(const Roots roots, before(files, RootChange::Phase::kInUse, longest, at_once,
                                          "no root is to be retired: the one that signs has no predecessor"));
  FL_TRY_ASSIGN(const std::string alone, pem_of(roots.signer()));
  FL_TRY(remove(files.next_key));
  return write_file_atomically(files.bundle, alone, 0644);
}

}  // namespace fairlead::ca
