#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>

#include "base/file.h"
#include "control/source/source.h"

namespace fairlead::source {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr std::chrono::seconds kDeadline{10};
constexpr const char* kGood = "kind: Namespace\nmetadata: {name: %}\n";

std::string namespace_named(const std::string& name) {
  std::string text = kGood;
  return text.replace(text.find('%'), 1, name);
}

class Directory : public ::testing::Test {
 protected:
  Directory() {
    char pattern[] = "/tmp/fairlead-source-XXXXXX";
    path_ = ::mkdtemp(pattern);
  }
  ~Directory() override {
    if (source_) source_->stop();
    std::filesystem::remove_all(path_);
  }

  void write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(write_file_atomically(path_ + "/" + name, content));
  }
  void start() {
    source_ = watch_directory(path_);
    const Result<void> started = source_->start([this](Result<model::ObjectSet> set) {
      const std::lock_guard lock(mutex_);
      results_.push_back(std::move(set));
      wake_.notify_all();
    });
    ASSERT_TRUE(started) << started.error().text();
  }
  // The first result from now on that `fits`; nothing when none comes.
  template <class Fits>
  std::optional<Result<model::ObjectSet>> next(Fits fits) {
    std::unique_lock lock(mutex_);
    const auto latest = std::chrono::steady_clock::now() + kDeadline;
    for (;;) {
      while (!results_.empty()) {
        Result<model::ObjectSet> result = std::move(results_.front());
        results_.pop_front();
        if (fits(result)) return result;
      }
      if (wake_.wait_until(lock, latest) == std::cv_status::timeout) return std::nullopt;
    }
  }
  bool comes_with(size_t namespaces) {
    return next([&](const auto& r) { return r && r->namespaces.size() == namespaces; }).has_value();
  }
  std::string next_error() {
    const auto result = next([](const auto& r) { return !r; });
    return result ? result->error().text() : std::string();
  }

  std::string path_;
  std::unique_ptr<Source> source_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Result<model::ObjectSet>> results_;
};

TEST_F(Directory, ReadsManifestsInOrderAndNothingElse) {
  write("b.yaml", namespace_named("b"));
  write("a.yml", namespace_named("a"));
  write("notes.txt", "no: [yaml");
  write(".hidden.yaml", "no: [yaml");
  const auto objects = read_directory(path_);
  ASSERT_TRUE(objects) << objects.error().text();
  ASSERT_THAT(objects->namespaces, SizeIs(2));
  EXPECT_EQ(objects->namespaces[0].meta.name, "a");
}

TEST_F(Directory, TellsAllErrorsOfAllFiles) {
  write("a.yaml", "kind: Pod\nmetadata: {}\n");
  write("b.yaml", "kind: Pod\nmetadata: {}\n");
  const auto objects = read_directory(path_);
  ASSERT_FALSE(objects);
  EXPECT_THAT(objects.error().text(), HasSubstr("/a.yaml:1: "));
  EXPECT_THAT(objects.error().text(), HasSubstr("/b.yaml:1: "));
}

TEST_F(Directory, FollowsWritesAndRemovals) {
  write("a.yaml", namespace_named("a"));
  start();
  EXPECT_TRUE(comes_with(1)) << "what is there at the start";
  write("b.yaml", namespace_named("b"));
  EXPECT_TRUE(comes_with(2)) << "a new file";
  ASSERT_EQ(::unlink((path_ + "/a.yaml").c_str()), 0);
  EXPECT_TRUE(comes_with(1)) << "a removed file";
}

TEST_F(Directory, SeesLinks) {
  start();
  ASSERT_TRUE(comes_with(0));
  write("target.txt", namespace_named("a"));
  ASSERT_EQ(::symlink("target.txt", (path_ + "/a.yaml").c_str()), 0);
  EXPECT_TRUE(comes_with(1)) << "as mounted ConfigMaps have it";
}

TEST_F(Directory, ABrokenSetIsAnErrorUntilItIsMended) {
  write("a.yaml", namespace_named("a"));
  start();
  ASSERT_TRUE(comes_with(1));
  write("b.yaml", "kind: [\n");
  EXPECT_THAT(next_error(), HasSubstr("/b.yaml:"));
  ASSERT_EQ(::unlink((path_ + "/b.yaml").c_str()), 0);
  EXPECT_TRUE(comes_with(1));
}

TEST_F(Directory, ADirectoryThatGoesAndComesBack) {
  write("a.yaml", namespace_named("a"));
  start();
  ASSERT_TRUE(comes_with(1));
  std::filesystem::remove_all(path_);
  EXPECT_THAT(next_error(), HasSubstr("opendir " + path_)) << "gone is not the same as empty";
  ASSERT_EQ(::mkdir(path_.c_str(), 0755), 0);
  write("b.yaml", namespace_named("b"));
  EXPECT_TRUE(comes_with(1));
}

TEST_F(Directory, OneThatIsNotThereIsAnErrorAtOnce) {
  auto source = watch_directory(path_ + "/none");
  const Result<void> started = source->start([](Result<model::ObjectSet>) { FAIL() << "nothing to tell"; });
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ENOENT);
}

TEST_F(Directory, StopsAtOnceAndLeavesNoDescriptor) {
  const auto open_files = [] {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
    return count;
  };
  const size_t before = open_files();
  start();
  source_->stop();
  source_->stop();
  source_.reset();
  EXPECT_EQ(open_files(), before);
}

}  // namespace
}  // namespace fairlead::source
