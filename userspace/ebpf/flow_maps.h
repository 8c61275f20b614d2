// The maps that the proxy reads and writes for connections, each behind a type. Only bpf(2) element commands
// are used: a process without any capability may call them on fds it was handed (Linux 5.19 and later, also
// with kernel.unprivileged_bpf_disabled set).
//
// Thread: the classes hold an fd and no other state; any number of threads may share one (the kernel's maps
// are concurrent). Destinations::replace alone must not run twice at once. Ownership: each owns its fd.
// Errors: ErrorKind::kBpf with the saved errno. Ports in this API are host order; keys and values are
// bpf/abi/types.h.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ebpf {

// fl_origdst: where a captured connection meant to go.
class OriginalDestinations {
 public:
  explicit OriginalDestinations(UniqueFd map) noexcept : map_(std::move(map)) {}

  // `cookie`: the pod's netns cookie; `local`: the captured socket's own address, which is the peer address
  // of the accepted one; `agent`: the accepted one's own address, one of many on loopback. Takes the entry
  // away: a second call finds nothing. nullopt: that connection was not captured (an application connected to
  // the listener itself), or its entry is contested: it is to be refused.
  [[nodiscard]] Result<std::optional<SocketAddress>> take(uint64_t cookie, const SocketAddress& local,
                                                          const SocketAddress& agent) const;

 private:
  UniqueFd map_;
};

// fl_clients: the true client of a connection that the agent makes to an application over loopback.
class ClientNames {
 public:
  explicit ClientNames(UniqueFd map) noexcept : map_(std::move(map)) {}

  // Before connect(): the application's accept() already shows `client`. `local`: the address that the
  // agent's socket is bound to. Overwrites. Fails with E2BIG when FL_MAX_CLIENTS are published.
  [[nodiscard]] Result<void> publish(uint64_t cookie, const SocketAddress& local,
                                     const SocketAddress& client) const;
  // When the connection is over. Not found is success.
  [[nodiscard]] Result<void> forget(uint64_t cookie, const SocketAddress& local) const;
  // What a proxy that was killed left behind: the map outlives it, its connections do not.
  [[nodiscard]] Result<void> forget_all() const;

 private:
  UniqueFd map_;
};

// fl_dests: what connect() of a captured pod gets, by destination address. Values: FL_DEST_CAPTURE,
// FL_DEST_REFUSE.
class Destinations {
 public:
  explicit Destinations(UniqueFd map) noexcept : map_(std::move(map)) {}

  // Makes the map hold exactly `wanted`: compares with what it holds, adds and changes first, deletes last,
  // so that an address in both is captured all the time. kExhausted above FL_MAX_DESTS, before anything
  // changes. After an error the map holds a mixture in which every address is as it was or as wanted: call
  // again.
  [[nodiscard]] Result<void> replace(const std::unordered_map<IpAddress, uint32_t>& wanted) const;
  [[nodiscard]] Result<std::unordered_map<IpAddress, uint32_t>> read() const;

 private:
  UniqueFd map_;
};

}  // namespace fairlead::ebpf
