#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "control/source/source.h"

namespace fairlead::source {
namespace {

constexpr int kDebounceMs = 50;
constexpr size_t kMaxFiles = 10000;
constexpr size_t kMaxFileBytes = 64 << 20;

bool is_manifest(std::string_view name) {
  return !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"));
}

Result<std::vector<std::string>> list_manifests(const std::string& path) {
  const std::unique_ptr<DIR, decltype([](DIR* d) { ::closedir(d); })> directory(::opendir(path.c_str()));
  if (directory == nullptr) return Error::from_errno(fmt::format("opendir {}", path));
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (is_manifest(entry->d_name)) names.push_back(path + "/" + entry->d_name);
    if (names.size() > kMaxFiles) return Error(ErrorKind::kExhausted, fmt::format("{}: more than {} manifests", path, kMaxFiles));
  }
  std::sort(names.begin(), names.end());
  return names;
}

class DirectorySource final : public Source {
 public:
  explicit DirectorySource(std::string path) : path_(std::move(path)) {}
  ~DirectorySource() override { stop(); }

  Result<void> start(OnChange on_change) override {
    inotify_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!inotify_) return Error::from_errno("inotify_init1");
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) return Error::from_errno("eventfd");
    constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;
    if (::inotify_add_watch(inotify_.get(), path_.c_str(), kEvents) < 0) return Error::from_errno(fmt::format("watch {}", path_));
    on_change_ = std::move(on_change);
    thread_ = std::thread([this] { run(); });
    return {};
  }

  void stop() override {
    if (!thread_.joinable()) return;
    const uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);  // ignoring: a full counter wakes as well
    thread_.join();
  }

 private:
  // True: something changed; false: stop.
  bool wait(int timeout_ms, bool& changed) {
    std::array<pollfd, 2> fds = {pollfd{inotify_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
    changed = ::poll(fds.data(), fds.size(), timeout_ms) > 0 && (fds[0].revents & POLLIN) != 0;
    std::array<char, 8192> events;
    while (changed && ::read(inotify_.get(), events.data(), events.size()) > 0) {
    }
    return fds[1].revents == 0;
  }

  void run() {
    for (;;) {
      on_change_(read_directory(path_));
      bool changed = false;
      while (!changed) {
        if (!wait(-1, changed)) return;
      }
      while (changed) {  // more may follow: wait until it is quiet
        if (!wait(kDebounceMs, changed)) return;
      }
    }
  }

  std::string path_;
  OnChange on_change_;
  UniqueFd inotify_;
  UniqueFd wake_;
  std::thread thread_;
};

}  // namespace

Result<model::ObjectSet> read_directory(const std::string& path) {
  FL_TRY_ASSIGN(const auto files, list_manifests(path));
  model::ObjectSet objects;
  std::string errors;
  for (const std::string& file : files) {
    const auto content = read_file(file, kMaxFileBytes);
    if (!content && content.error().code() == ENOENT) continue;  // gone between listing and reading
    if (content) {
      read_manifests(file, *content, objects, errors);
    } else {
      errors += (errors.empty() ? "" : "\n") + content.error().text();
    }
  }
  if (!errors.empty()) return Error(ErrorKind::kInvalidArgument, std::move(errors));
  return objects;
}

std::unique_ptr<Source> watch_directory(std::string path) { return std::make_unique<DirectorySource>(std::move(path)); }

}  // namespace fairlead::source
