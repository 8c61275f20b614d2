#include "base/net_types.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace fairlead {
namespace {

constexpr std::array<uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

std::optional<uint64_t> parse_number(std::string_view text, uint64_t maximum) noexcept {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.empty() || value > maximum) return std::nullopt;
  return value;
}

bool is_subdomain(std::string_view text) noexcept {
  constexpr size_t kMaxSubdomain = 253;
  const auto alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !text.empty() && text.size() <= kMaxSubdomain && alphanumeric(text.front()) &&
         alphanumeric(text.back()) && std::all_of(text.begin(), text.end(), [&](char c) {
           return alphanumeric(c) || c == '-' || c == '.';
         });
}

IpAddress IpAddress::v4(in_addr address) noexcept {
  IpAddress result;
  std::copy(kMappedPrefix.begin(), kMappedPrefix.end(), result.octets_.begin());
  std::memcpy(&result.octets_[12], &address, 4);
  return result;
}

IpAddress IpAddress::v6(const in6_addr& address) noexcept {
  IpAddress result;
  std::memcpy(result.octets_.data(), &address, 16);
  return result;
}

Result<IpAddress> IpAddress::from_octets(std::string_view octets) {
  if (octets.size() == 4) {
    in_addr address{};
    std::memcpy(&address, octets.data(), 4);
    return v4(address);
  }
  if (octets.size() == 16) {
    in6_addr address{};
    std::memcpy(&address, octets.data(), 16);
    return v6(address);
  }
  return Error(ErrorKind::kInvalidArgument, fmt::format("address of {} octets, want 4 or 16", octets.size()));
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
  const std::string copy(text);  // inet_pton wants a terminated string
  in_addr address4{};
  if (inet_pton(AF_INET, copy.c_str(), &address4) == 1) return v4(address4);
  in6_addr address6{};
  if (inet_pton(AF_INET6, copy.c_str(), &address6) == 1) return v6(address6);
  return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not an IP address", text));
}

bool IpAddress::is_v4() const noexcept {
  return std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), octets_.begin());
}

bool IpAddress::is_loopback() const noexcept {
  if (is_v4()) return octets_[12] == 127;
  const in6_addr address = to_v6();
  return IN6_IS_ADDR_LOOPBACK(&address);
}

bool IpAddress::is_unspecified() const noexcept {
  const auto from = is_v4() ? octets_.begin() + 12 : octets_.begin();
  return std::all_of(from, octets_.end(), [](uint8_t octet) { return octet == 0; });
}

in_addr IpAddress::to_v4() const noexcept {
  in_addr address{};
  std::memcpy(&address, &octets_[12], 4);
  return address;
}

in6_addr IpAddress::to_v6() const noexcept {
  in6_addr address{};
  std::memcpy(&address, octets_.data(), 16);
  return address;
}

std::string IpAddress::to_octets() const {
  const size_t skip = is_v4() ? 12 : 0;
  return {reinterpret_cast<const char*>(octets_.data()) + skip, 16 - skip};
}

std::string IpAddress::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* source = is_v4() ? static_cast<const void*>(&octets_[12]) : octets_.data();
  inet_ntop(is_v4() ? AF_INET : AF_INET6, source, text.data(), text.size());
  return text.data();
}

SocketAddress SocketAddress::from(const sockaddr_storage& storage) noexcept {
  if (storage.ss_family == AF_INET) {
    sockaddr_in address{};
    std::memcpy(&address, &storage, sizeof address);
    return {IpAddress::v4(address.sin_addr), ntohs(address.sin_port)};
  }
  sockaddr_in6 address{};
  std::memcpy(&address, &storage, sizeof address);
  return {IpAddress::v6(address.sin6_addr), ntohs(address.sin6_port)};
}

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
  const auto invalid = [&] {
    return Error(ErrorKind::kInvalidArgument, fmt::format("'{}' is not ADDRESS:PORT", text));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return invalid();
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  auto ip = IpAddress::parse(host);
  const auto port = parse_number(text.substr(colon + 1), 65535);
  if (!ip || !port || ip->is_v4() == bracketed) return invalid();
  return SocketAddress{*ip, static_cast<uint16_t>(*port)};
}

socklen_t SocketAddress::to(sockaddr_storage& storage, int family) const noexcept {
  std::memset(&storage, 0, sizeof storage);
  if (family == AF_INET) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr = ip.to_v4();
    address.sin_port = htons(port);
    std::memcpy(&storage, &address, sizeof address);
    return sizeof address;
  }
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = ip.to_v6();
  address.sin6_port = htons(port);
  std::memcpy(&storage, &address, sizeof address);
  return sizeof address;
}

std::string SocketAddress::to_string() const {
  return ip.is_v4() ? fmt::format("{}:{}", ip.to_string(), port)
                    : fmt::format("[{}]:{}", ip.to_string(), port);
}

Result<Cidr> Cidr::parse(std::string_view text) {
  const size_t slash = text.find('/');
  FL_TRY_ASSIGN(const IpAddress base, IpAddress::parse(text.substr(0, slash)));
  const uint64_t width = base.is_v4() ? 32 : 128;
  uint64_t length = width;
  if (slash != std::string_view::npos) {
    const auto given = parse_number(text.substr(slash + 1), width);
    if (!given)
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("'{}': prefix length must be 0 to {}", text, width));
    length = *given;
  }
  return Cidr{base, static_cast<uint8_t>(128 - width + length)};
}

bool Cidr::contains(const IpAddress& address) const noexcept {
  const size_t whole = length / 8;
  const auto& mine = base.octets();
  const auto& theirs = address.octets();
  if (!std::equal(mine.begin(), mine.begin() + static_cast<ptrdiff_t>(whole), theirs.begin())) return false;
  const int rest = length % 8;
  if (rest == 0) return true;
  const int mask = 0xff << (8 - rest) & 0xff;
  return (mine[whole] & mask) == (theirs[whole] & mask);
}

std::string Cidr::to_string() const {
  return fmt::format("{}/{}", base.to_string(), base.is_v4() ? length - 96 : length);
}

}  // namespace fairlead
