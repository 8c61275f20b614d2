// Golden files: what a test says must be what tests/golden says. FAIRLEAD_UPDATE_GOLDEN=1 records it anew;
// the change is then seen in review.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace fairlead::test {

inline std::string golden_path(const std::string& name) {
  return std::string(FAIRLEAD_GOLDEN_DIR) + "/" + name;
}

inline std::string read_golden(const std::string& name) {
  std::ifstream file(golden_path(name));
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void expect_golden(const std::string& name, const std::string& text) {
  if (std::getenv("FAIRLEAD_UPDATE_GOLDEN") != nullptr) {
    std::filesystem::create_directories(std::filesystem::path(golden_path(name)).parent_path());
    std::ofstream(golden_path(name)) << text;
  }
  EXPECT_EQ(text, read_golden(name)) << name << ": if this is meant, FAIRLEAD_UPDATE_GOLDEN=1 records it";
}

}  // namespace fairlead::test
