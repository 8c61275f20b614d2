#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "control/source/source.h"

namespace fairlead::source {
namespace {

constexpr int kDebounceMs = 50;
constexpr int kRetryMs = 1000;                        // until a directory that is gone is looked for again
constexpr std::chrono::milliseconds kMaxDelay{1000};  // a directory that never rests is read all the same
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
    if (names.size() > kMaxFiles)
      return Error(ErrorKind::kExhausted, fmt::format("{}: more than {} manifests", path, kMaxFiles));
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
    FL_TRY(watch());
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
  Result<void> watch() {
    constexpr uint32_t kEvents = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                                 IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
    const int number = ::inotify_add_watch(inotify_.get(), path_.c_str(), kEvents);
    if (number < 0) return Error::from_errno(fmt::format("watch {}", path_));
    watch_ = number;
    return {};
  }

  // A file that was only just created is still being written, its IN_CLOSE_WRITE will come; a link is
  // complete at once.
  bool is_complete(const char* name) const {
    struct stat status{};
    return ::lstat((path_ + "/" + name).c_str(), &status) == 0 &&
           (S_ISLNK(status.st_mode) || status.st_nlink > 1);
  }

  // True when what was read concerns the manifests. Events of a watch that was replaced still tell of a
  // change.
  bool drain() {
    alignas(inotify_event) std::array<char, 16384> buffer;
    bool changed = false;
    for (;;) {
      const ssize_t size = ::read(inotify_.get(), buffer.data(), buffer.size());
      if (size <= 0) return changed;
      for (size_t at = 0; at < static_cast<size_t>(size);) {
        const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
        at += sizeof *event + event->len;
        if ((event->mask & IN_CREATE) != 0 && !is_complete(event->name)) continue;
        changed = true;
        // The directory is another one now, or none.
        if (event->wd == watch_ && (event->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED)) != 0)
          unwatch();
      }
    }
  }

  void unwatch() {
    if (watch_ >= 0) (void)::inotify_rm_watch(inotify_.get(), watch_);  // ignoring: gone with its directory
    watch_ = -1;
  }

  // False: stop. `changed`: within the time a manifest did. `active`: something happened in the directory.
  bool wait(int timeout_ms, bool& changed, bool& active) {
    std::array<pollfd, 2> fds = {pollfd{inotify_.get(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
    const int ready = ::poll(fds.data(), fds.size(), timeout_ms);
    active = ready > 0 && (fds[0].revents & POLLIN) != 0;
    changed = active && drain();
    return ready <= 0 || fds[1].revents == 0;
  }

  // False: stop. Returns once something has changed and then nothing for kDebounceMs; kMaxDelay bounds the
  // latter.
  bool wait_for_change() {
    bool changed = false;
    bool active = true;
    while (!changed) {
      if (!wait(watch_ >= 0 ? -1 : kRetryMs, changed, active)) return false;
      if (watch_ < 0 && watch()) changed = true;
    }
    const auto latest = std::chrono::steady_clock::now() + kMaxDelay;
    active = true;
    // Any event keeps it waiting: a temporary file that is being written announces a change that is not there
    // yet.
    while (active && std::chrono::steady_clock::now() < latest) {
      if (!wait(kDebounceMs, changed, active)) return false;
    }
    return true;
  }

  void run() {
    do {
      on_change_(read_directory(path_));
    } while (wait_for_change());
  }

  std::string path_;
  OnChange on_change_;
  UniqueFd inotify_;
  UniqueFd wake_;
  int watch_ = -1;  // none: the directory is gone
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

std::unique_ptr<Source> watch_directory(std::string path) {
  return std::make_unique<DirectorySource>(std::move(path));
}

}  // namespace fairlead::source
