// Addresses as values. IpAddress holds 16 octets: IPv4 is kept in v4-mapped form (::ffff:a.b.c.d), so that a
// v4 peer seen through a dual-stack socket and the same peer seen through a v4 socket are equal and hash
// alike. The same form is the key of the BPF maps (bpf/abi/types.h). Ports are host order here.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fairlead {

class IpAddress {
 public:
  constexpr IpAddress() noexcept = default;  // "::"
  static IpAddress v4(in_addr address) noexcept;
  static IpAddress v6(const in6_addr& address) noexcept;
  // 4 or 16 octets, as istio.workload carries them.
  static Result<IpAddress> from_octets(std::string_view octets);
  static Result<IpAddress> parse(std::string_view text);

  [[nodiscard]] bool is_v4() const noexcept;
  [[nodiscard]] bool is_loopback() const noexcept;
  [[nodiscard]] bool is_unspecified() const noexcept;
  [[nodiscard]] in_addr to_v4() const noexcept;  // only where is_v4()
  [[nodiscard]] in6_addr to_v6() const noexcept;
  [[nodiscard]] const std::array<uint8_t, 16>& octets() const noexcept { return octets_; }
  [[nodiscard]] std::string to_octets() const;  // 4 or 16, the inverse of from_octets
  [[nodiscard]] std::string to_string() const;

  auto operator<=>(const IpAddress&) const noexcept = default;

 private:
  std::array<uint8_t, 16> octets_{};
};

struct SocketAddress {
  IpAddress ip;
  uint16_t port = 0;

  static SocketAddress from(const sockaddr_storage& storage) noexcept;
  // "10.0.0.1:80" or "[fd00::1]:80".
  static Result<SocketAddress> parse(std::string_view text);
  // Fills `storage` for a socket of `family`; a v4 address on an AF_INET6 socket goes in mapped form.
  socklen_t to(sockaddr_storage& storage, int family) const noexcept;
  [[nodiscard]] int family() const noexcept { return ip.is_v4() ? AF_INET : AF_INET6; }
  [[nodiscard]] std::string to_string() const;
  auto operator<=>(const SocketAddress&) const noexcept = default;
};

struct Cidr {
  IpAddress base;
  uint8_t length = 128;  // counted in the 128-bit form: an IPv4 /24 is 96 + 24

  static Result<Cidr> parse(std::string_view text);  // a bare address is a host
  [[nodiscard]] bool contains(const IpAddress& address) const noexcept;
  [[nodiscard]] std::string to_string() const;
  auto operator<=>(const Cidr&) const noexcept = default;
};

// Whole-string decimal numbers only: no sign, no space, no leading "+".
std::optional<uint64_t> parse_number(std::string_view text, uint64_t maximum) noexcept;

// A DNS subdomain as Kubernetes has it (RFC 1123): at most 253 of a-z, 0-9, '-' and '.', with a letter or
// digit first and last.
[[nodiscard]] bool is_subdomain(std::string_view text) noexcept;

}  // namespace fairlead

template <>
struct std::hash<fairlead::IpAddress> {
  size_t operator()(const fairlead::IpAddress& address) const noexcept {
    return std::hash<std::string_view>{}({reinterpret_cast<const char*>(address.octets().data()), 16});
  }
};
template <>
struct std::hash<fairlead::SocketAddress> {
  size_t operator()(const fairlead::SocketAddress& address) const noexcept {
    return std::hash<fairlead::IpAddress>{}(address.ip) * 31 + address.port;
  }
};
