#include "ebpf/tracer.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "base/file.h"
#include "bpf/abi/maps.h"
#include "bpf/abi/trace.h"
#include "ebpf/abi_convert.h"
#include "ebpf/map.h"
#include "ebpf/objects.h"
#include "ebpf/pins.h"

namespace fairlead::ebpf {
namespace {

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

struct End {
  std::string_view hook, reason;
};

End end_of(uint16_t end) {
  switch (end) {
#define FL_END_CASE(id, verdict, hook, name) \
  case abi::FL_END_##id: return {#hook, #name};
    FL_ENDS(FL_END_CASE)
#undef FL_END_CASE
    default: return {"unknown", "unknown"};  // of a newer agent's programs
  }
}

std::string_view verdict_name(uint16_t end) {
  switch (end >> 8) {
#define FL_VERDICT_CASE(id, name) \
  case abi::FL_VERDICT_##id: return #name;
    FL_VERDICTS(FL_VERDICT_CASE)
#undef FL_VERDICT_CASE
    default: return "unknown";
  }
}

SocketAddress from_endpoint(const abi::fl_endpoint& endpoint) {
  return {from_abi(endpoint.address), ntohs(endpoint.port)};
}

TraceEvent from_event(const abi::fl_event& event) {
  const End end = end_of(event.end);
  TraceEvent result;
  result.time_ns = event.time;
  result.netns_cookie = event.netns_cookie;
  result.cgroup_id = event.cgroup_id;
  result.socket_cookie = event.socket_cookie;
  result.pid = event.pid;
  const auto* name = reinterpret_cast<const char*>(event.comm);
  result.process.assign(name, ::strnlen(name, sizeof event.comm));
  result.hook = end.hook;
  result.verdict = verdict_name(event.end);
  result.reason = end.reason;
  result.protocol = event.protocol;
  result.source = from_endpoint(event.source);
  result.destination = from_endpoint(event.destination);
  result.loopback = from_endpoint(event.loopback);
  return result;
}

Result<uint32_t> map_id(BorrowedFd map) {
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(map.get(), &info, &size) != 0) return bpf_error("read map", errno);
  return uint32_t{info.id};
}

// The page of fl_tracer, shared with the programs.
class Shared {
 public:
  ~Shared() {
    if (page_ != nullptr) ::munmap(page_, size());
  }
  Result<void> map(BorrowedFd fd) {
    void* page = ::mmap(nullptr, size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (page == MAP_FAILED) return Error::from_errno("map fl_tracer");
    page_ = page;
    return {};
  }
  [[nodiscard]] abi::fl_tracer& value() const noexcept { return *static_cast<abi::fl_tracer*>(page_); }

 private:
  static size_t size() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }
  void* page_ = nullptr;
};

template <class T>
std::atomic_ref<T> shared(T& field) {
  return std::atomic_ref<T>(field);
}

constexpr int kEnough = -ECANCELED;  // what the callback tells libbpf to stop

}  // namespace

struct Tracer::Impl {
  PinPaths paths;
  UniqueFd lock, tracer_map, events_map;
  Shared page;
  ring_buffer* ring = nullptr;
  uint32_t id = 0;
  uint64_t lost_before = 0;
  bool on = false;
  const Take* take = nullptr;
  size_t taken = 0;

  ~Impl() {
    if (on) shared(page.value().until).store(0);
    ::ring_buffer__free(ring);
  }
  [[nodiscard]] Result<void> open();
  [[nodiscard]] Result<void> open_maps();
  static int on_event(void* self, void* data, size_t size);
};

int Tracer::Impl::on_event(void* self, void* data, size_t size) {
  auto& impl = *static_cast<Impl*>(self);
  if (impl.take == nullptr || size != sizeof(abi::fl_event)) return 0;  // a killed one's, left in the ring
  abi::fl_event event{};
  std::memcpy(&event, data, sizeof event);
  const bool more = (*impl.take)(from_event(event));
  return more && ++impl.taken < kMaxTraceBatch ? 0 : kEnough;
}

Result<void> Tracer::Impl::open_maps() {
  for (const auto& [fd, name] : {std::pair(&tracer_map, FL_MAP_TRACER), {&events_map, FL_MAP_EVENTS}}) {
    auto opened = open_pin(paths.map(name));
    if (!opened && opened.error().code() == ENOENT)
      return Error(ErrorKind::kNotFound,
                   fmt::format("{}: no agent of this version has been here", paths.root));
    if (!opened) return std::move(opened).error();
    *fd = std::move(*opened);
  }
  return {};
}

Result<void> Tracer::Impl::open() {
  auto directory = open_file(paths.maps(), O_RDONLY | O_DIRECTORY);
  if (!directory && directory.error().code() == ENOENT)
    return Error(ErrorKind::kNotFound, fmt::format("{}: no agent has been here", paths.root));
  if (!directory) return std::move(directory).error();
  lock = std::move(*directory);
  FL_TRY(open_maps());
  FL_TRY(page.map(tracer_map));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Error::from_errno(fmt::format("lock {}", paths.maps()));
    return Error(ErrorKind::kExhausted, fmt::format("process {} traces here already: one at a time",
                                                    shared(page.value().pid).load()));
  }
  FL_TRY_ASSIGN(id, map_id(events_map));
  ring = ::ring_buffer__new(events_map.get(), on_event, this, nullptr);
  if (ring == nullptr) return bpf_error("map fl_events", errno);
  // A killed one's lease may still run: its events are not for us.
  shared(page.value().until).store(0);
  shared(page.value().pid).store(static_cast<uint32_t>(::getpid()));
  const int drained = ::ring_buffer__consume(ring);
  if (drained < 0) return bpf_error("empty fl_events", -drained);
  lost_before = shared(page.value().lost).load();
  return {};
}

uint32_t verdict_bit(std::string_view wanted) {
#define FL_VERDICT_BIT(id, name) \
  if (wanted == #name) return 1u << abi::FL_VERDICT_##id;
  FL_VERDICTS(FL_VERDICT_BIT)
#undef FL_VERDICT_BIT
  return 0;
}

std::string verdict_names() {
  std::string names;
#define FL_VERDICT_NAME(id, name) names += std::string(names.empty() ? "" : ", ") + #name;
  FL_VERDICTS(FL_VERDICT_NAME)
#undef FL_VERDICT_NAME
  return names;
}

Tracer::Tracer(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Tracer::~Tracer() = default;

Result<std::unique_ptr<Tracer>> Tracer::open(const std::string& pin_directory) {
  silence_libbpf();
  auto impl = std::make_unique<Impl>();
  impl->paths.root = pin_directory;
  FL_TRY(impl->open());
  return std::unique_ptr<Tracer>(new Tracer(std::move(impl)));
}

void Tracer::wish(const TraceWish& wish) noexcept {
  abi::fl_tracer& value = impl_->page.value();
  shared(value.netns_cookie).store(wish.netns_cookie);
  shared(value.verdicts).store(wish.verdicts);
  impl_->on = true;
  shared(value.until).store(now_ns() + static_cast<uint64_t>(std::chrono::nanoseconds(kTraceLease).count()));
}

bool Tracer::renew() noexcept {
  const uint64_t now = now_ns();
  const uint64_t until = now + static_cast<uint64_t>(std::chrono::nanoseconds(kTraceLease).count());
  return shared(impl_->page.value().until).exchange(until) >= now;
}

BorrowedFd Tracer::events() const noexcept {
  return BorrowedFd(::ring_buffer__epoll_fd(impl_->ring));
}

Result<bool> Tracer::read(const Take& take) {
  impl_->take = &take;
  impl_->taken = 0;
  const int count = ::ring_buffer__consume(impl_->ring);
  impl_->take = nullptr;
  if (count == kEnough) return true;
  if (count < 0) return bpf_error("read fl_events", -count);
  return false;
}

uint64_t Tracer::lost() const noexcept {
  return shared(impl_->page.value().lost).load() - impl_->lost_before;
}

bool Tracer::is_current() const {
  const auto pinned = open_pin(impl_->paths.map(FL_MAP_EVENTS));
  const auto id = pinned ? map_id(*pinned) : Result<uint32_t>(bpf_error("open", ENOENT));
  return id && *id == impl_->id;
}

}  // namespace fairlead::ebpf
