#include "proxy/moving.h"

#include <cstring>

namespace fairlead::proxy {

Parcel& Parcel::operator=(Parcel&& other) noexcept {
  bytes.swap(other.bytes);  // `other` wipes
  fds.swap(other.fds);
  return *this;
}

Parcel::~Parcel() {
  // explicit_bzero: the compiler must not see that nobody reads it.
  if (!bytes.empty()) ::explicit_bzero(bytes.data(), bytes.size());
}

}  // namespace fairlead::proxy
