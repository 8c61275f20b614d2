#include "cli/output.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fairlead::cli {
namespace {

using nlohmann::json;

TEST(Table, AlignsAndShowsNothingAsADash) {
  const json rows = json::parse(R"([{"a":"x","b":[1,2]},{"a":"longer","b":[]},{"b":null}])");
  EXPECT_EQ(table(rows, {column("A", "a"), column("B", "b")}),
            "A       B\nx       1,2\nlonger  -\n-       -\n");
}

TEST(Table, ControlCharactersDoNotReachTheTerminal) {
  EXPECT_EQ(cell(json("a\x1b[31mb\n")), "a\\x1b[31mb\\x0a");
}

TEST(Yaml, IsBlockStyleWithQuotedStrings) {
  const json document =
      json::parse(R"({"name":"a: b","list":[{"x":1,"y":[true]},"z"],"empty":{},"none":null})");
  EXPECT_EQ(yaml(document),
            "empty: {}\nlist:\n  - x: 1\n    y:\n      - true\n  - \"z\"\nname: \"a: b\"\nnone: null\n");
}

TEST(Durations, AreShort) {
  EXPECT_EQ(duration(999), "999ms");
  EXPECT_EQ(duration(192000), "3m12s");
  EXPECT_EQ(duration(86400000), "24h0m");
  EXPECT_EQ(duration(200000000), "2d7h");
  EXPECT_EQ(duration(-5000), "-5s");
}

TEST(Bytes, HaveUnits) {
  EXPECT_EQ(bytes(0), "0B");
  EXPECT_EQ(bytes(1023), "1023B");
  EXPECT_EQ(bytes(1258291), "1.2MiB");
}

int run_words(std::vector<const char*> words) {
  return run(words, nullptr);
}

TEST(Command, ExitStatusTellsUsageFromUnreachable) {
  EXPECT_EQ(run_words({}), kUsage);
  EXPECT_EQ(run_words({"nonsense"}), kUsage);
  EXPECT_EQ(run_words({"workload", "list", "extra"}), kUsage);
  EXPECT_EQ(run_words({"-o", "xml", "status"}), kUsage);
  for (const char* option : {"--timeout", "-o", "--output", "--filter", "--run-dir"})
    EXPECT_EQ(run_words({"pod", "list", option}), kUsage) << option;
  EXPECT_EQ(run_words({"--run-dir", "/nonexistent", "workload", "list"}), kUnreachable);
  EXPECT_EQ(run_words({"workload", "list", "--run-dir", "/nonexistent"}), kUnreachable);
  EXPECT_EQ(run_words({"--help"}), kOk);
}

}  // namespace
}  // namespace fairlead::cli
