// What roots.h and the CA share: the files, read and made. Private to the folder; the caller holds the
// StateLock.
#pragma once

#include <sys/types.h>

#include <compare>
#include <string>
#include <vector>

#include "control/ca/openssl.h"
#include "control/ca/roots.h"

namespace fairlead::ca {

struct Roots {
  std::string pem;  // the bundle
  std::vector<X509Ptr> certificates;
  size_t signer_at = 0;
  KeyPtr key;
  [[nodiscard]] X509* signer() const { return certificates[signer_at].get(); }
};

// Another file, or the same one written anew.
struct FileStamp {
  ino_t inode = 0;
  off_t size = 0;
  SystemTime written;
  auto operator<=>(const FileStamp&) const = default;
};

struct RootFiles {
  explicit RootFiles(const std::string& directory)
      : bundle(directory + "/root-cert.pem"),
        key(directory + "/root-key.pem"),
        next_key(directory + "/next-root-key.pem") {}
  std::string bundle, key, next_key;

  Result<Roots> load() const;
  Result<void> make() const;  // the first root
  // kNotFound: there is no key, and with it no CA.
  Result<FileStamp> bundle_stamp() const;
  Result<FileStamp> key_stamp() const;
};

}  // namespace fairlead::ca
