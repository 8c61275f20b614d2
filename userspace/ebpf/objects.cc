#include "ebpf/objects.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <memory>

#include "bpf/abi/maps.h"
#include "connect_bpf.skel.h"
#include "ebpf/map.h"
#include "lookup_bpf.skel.h"
#include "names_bpf.skel.h"
#include "sockops_bpf.skel.h"

namespace fairlead::ebpf {
namespace {

constexpr size_t kMaxLoaderText =
    4096;  // octets kept of what libbpf said last; a verifier log may have a megabyte

thread_local std::string loader_text;

int keep_line(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  std::array<char, 2048> line{};
  const int length = std::vsnprintf(line.data(), line.size(), format, arguments);
  if (length <= 0) return 0;
  loader_text += line.data();
  if (loader_text.size() > kMaxLoaderText) loader_text.erase(0, loader_text.size() - kMaxLoaderText);
  return length;
}

Error load_error(std::string_view object, int code) {
  std::string said = std::move(loader_text);
  loader_text.clear();
  for (char& character : said) {
    if (character == '\n') character = ' ';
  }
  return bpf_error(fmt::format("load {} programs: {}", object, said), code);
}

template <class Skeleton>
struct Destroy {
  void operator()(Skeleton* skeleton) const { Skeleton::destroy(skeleton); }
};

// Every map of the object by its pin: libbpf creates and pins it, or reuses the pin if it is of the same
// shape.
Result<void> share_maps(bpf_object* object, const PinPaths& paths) {
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__is_internal(map)) continue;  // .rodata belongs to the object
    if (const int error = bpf_map__set_pin_path(map, paths.map(bpf_map__name(map)).c_str())) {
      return bpf_error("set map pin", -error);
    }
  }
  return {};
}

// `prepare` sets the object's constants between opening and loading.
template <class Skeleton, class Prepare>
Result<std::unique_ptr<Skeleton, Destroy<Skeleton>>> load_object(std::string_view name, const PinPaths& paths,
                                                                 Prepare prepare) {
  silence_libbpf();
  loader_text.clear();
  std::unique_ptr<Skeleton, Destroy<Skeleton>> skeleton(Skeleton::open());
  if (!skeleton) return load_error(name, errno);
  FL_TRY(share_maps(skeleton->obj, paths));
  prepare(*skeleton);
  if (const int error = Skeleton::load(skeleton.get())) return load_error(name, -error);
  return skeleton;
}

// A reference of our own: the object may go, with its dozen map fds.
Result<UniqueFd> keep_program(const bpf_program* program) {
  UniqueFd fd(::fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 0));
  if (!fd) return Error::from_errno("duplicate program fd");
  return fd;
}

// Kernels without CONFIG_MPTCP have neither such sockets nor the helper that looks behind them.
bool kernel_has_mptcp() {
  return ::access("/proc/sys/net/mptcp/enabled", F_OK) == 0;
}

}  // namespace

void silence_libbpf() noexcept {
  libbpf_set_print(keep_line);
}

Result<Programs> Programs::load(const PinPaths& paths) {
  FL_TRY_ASSIGN(const auto connect, load_object<connect_bpf>("connect", paths, [](connect_bpf& object) {
                  object.rodata->with_mptcp = kernel_has_mptcp() ? 1 : 0;
                }));
  FL_TRY_ASSIGN(const auto sockops, load_object<sockops_bpf>("sockops", paths, [](sockops_bpf& object) {
                  object.rodata->with_mptcp = kernel_has_mptcp() ? 1 : 0;
                }));
  FL_TRY_ASSIGN(const auto names, load_object<names_bpf>("names", paths, [](names_bpf&) {}));
  Programs result;
  size_t next = 0;
  const auto add = [&](const Hook& hook, const bpf_program* program) -> Result<void> {
    FL_TRY_ASSIGN(UniqueFd fd, keep_program(program));
    result.programs_.at(next++) = {hook.type, std::move(fd)};
    return {};
  };
  FL_TRY(add(kConnect4, connect->progs.fl_connect4));
  FL_TRY(add(kConnect6, connect->progs.fl_connect6));
  FL_TRY(add(kSockops, sockops->progs.fl_sockops));
  FL_TRY(add(kGetpeername4, names->progs.fl_getpeername4));
  FL_TRY(add(kGetpeername6, names->progs.fl_getpeername6));
  FL_TRY(add(kGetsockname4, names->progs.fl_getsockname4));
  FL_TRY(add(kGetsockname6, names->progs.fl_getsockname6));
  return result;
}

std::optional<BorrowedFd> Programs::of(const Hook& hook) const noexcept {
  for (const Loaded& program : programs_) {
    if (program.type == hook.type && program.fd) return BorrowedFd(program.fd);
  }
  return std::nullopt;
}

Result<UniqueFd> load_lookup_program(const PinPaths& paths, uint64_t netns_cookie) {
  FL_TRY_ASSIGN(const auto lookup, load_object<lookup_bpf>("lookup", paths, [&](lookup_bpf& object) {
                  object.rodata->netns_cookie = netns_cookie;
                }));
  return keep_program(lookup->progs.fl_lookup);
}

}  // namespace fairlead::ebpf
