#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "fuzz/targets.h"

namespace fairlead::fuzz {
namespace {

class Corpus : public ::testing::TestWithParam<Target> {};

// A broken promise or a sanitizer ends the program, and names the input before.
TEST_P(Corpus, KeepsItsPromises) {
  const Target& target = GetParam();
  size_t inputs = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(FAIRLEAD_CORPUS) / target.name)) {
    SCOPED_TRACE(entry.path());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    std::fprintf(stderr, "%s\n", entry.path().c_str());
    target.run({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    ++inputs;
  }
  EXPECT_GT(inputs, 0u) << "a target without a corpus";
}

INSTANTIATE_TEST_SUITE_P(Every, Corpus, ::testing::ValuesIn(kTargets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fairlead::fuzz
