// The scripts for shells and the manual, by the programs that read them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "cli/command.h"

namespace fairlead::cli {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

// What a command prints; its status is checked.
std::string output(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  std::string text;
  for (int c = 0; (c = std::fgetc(pipe)) != EOF;) text += static_cast<char>(c);
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return text;
}

// As readline asks: the line up to the cursor, split into words.
std::set<std::string> completed(const std::string& line) {
  const std::string script = "source <(" FAIRLEAD_PROGRAM
                             " completion bash) || exit 3\n"
                             "COMP_LINE=" +
                             quoted(line) +
                             "; COMP_POINT=${#COMP_LINE}\n"
                             "read -ra COMP_WORDS <<<\"$COMP_LINE\"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                             "_fairlead fairlead '' ''\n"
                             "for word in \"${COMPREPLY[@]}\"; do echo \"$word\"; done";
  std::set<std::string> words;
  std::string word;
  for (const char c : output("bash --noprofile --norc -c " + quoted(script))) {
    if (c == '\n')
      words.insert(std::exchange(word, ""));
    else
      word += c;
  }
  return words;
}

using Words = std::set<std::string>;

TEST(BashCompletion, NounsAndVerbs) {
  Words nouns;
  for (const Command& command : commands()) nouns.emplace(command.noun);
  EXPECT_EQ(completed("fairlead "), nouns);
  EXPECT_EQ(completed("fairlead conn"), Words{"connection"});
  EXPECT_EQ(completed("fairlead -o json --run-dir /tmp conn"), Words{"connection"}) << "values are no nouns";
  EXPECT_EQ(completed("fairlead pod "), (Words{"list", "add", "remove"}));
  EXPECT_EQ(completed("fairlead pod l"), Words{"list"});
  EXPECT_EQ(completed("fairlead nonsense "), Words{});
  EXPECT_EQ(completed("fairlead completion z"), Words{"zsh"});
}

TEST(BashCompletion, FlagsAndTheirValues) {
  EXPECT_EQ(completed("fairlead why --w"), Words{"--watch"});
  EXPECT_EQ(completed("fairlead why --denied --wa"), Words{"--watch"});
  EXPECT_EQ(completed("fairlead authz check --f"), Words{"--from"});
  EXPECT_EQ(completed("fairlead pod list --f"), Words{"--filter"});
  EXPECT_EQ(completed("fairlead status --f"), Words{}) << "it is no list";
  EXPECT_EQ(completed("fairlead --run"), Words{"--run-dir"});
  EXPECT_EQ(completed("fairlead -o "), (Words{"table", "json", "yaml"}));
  EXPECT_EQ(completed("fairlead status --output=j"), Words{"json"});
  EXPECT_EQ(completed("fairlead why -n 1"), Words{}) << "a number";
  EXPECT_EQ(completed("fairlead --run-dir /pro"), Words{"/proc"});
  EXPECT_EQ(completed("fairlead dump /proc/self/cmdl"), Words{"/proc/self/cmdline"});
}

TEST(BashCompletion, KeysOfFilters) {
  for (const Command& command : commands()) {
    Words keys;
    for (const Key& key : keys_of(command.noun, command.verb)) keys.insert(std::string(key.name) + "=");
    const std::string words = fmt::format("fairlead {} {} --filter ", command.noun, command.verb);
    EXPECT_EQ(completed(words), keys) << words;
  }
  EXPECT_EQ(completed("fairlead connection list --filter na"), Words{"namespace="});
  EXPECT_EQ(completed("fairlead connection list --filter=bytesSe"), Words{"bytesSent="});
  EXPECT_EQ(completed("fairlead connection list --filter namespace=x,pe"), Words{"x,peer="})
      << "readline keeps what stands before the last =";
  EXPECT_EQ(completed("fairlead connection list --filter 'namespace=x,pe"), Words{"namespace=x,peer="})
      << "between quotes it does not";
  EXPECT_EQ(completed("fairlead connection list --filter namespace=x"), Words{}) << "a value";
}

void check_syntax(const std::string& shell, const std::string& option) {
  if (::system(("command -v " + shell + " >/dev/null 2>&1").c_str()) != 0)
    GTEST_SKIP() << shell << " is not installed";
  const std::string path = ::testing::TempDir() + "/completion-" + std::to_string(::getpid());
  std::ofstream(path) << output(FAIRLEAD_PROGRAM " completion " + shell);
  EXPECT_EQ(output(shell + " " + option + " " + path + " 2>&1"), "");
  ::unlink(path.c_str());
}

TEST(ZshCompletion, IsAScript) {
  check_syntax("zsh", "-n");
}
TEST(FishCompletion, IsAScript) {
  check_syntax("fish", "-n");
}

TEST(OtherShells, AreUsage) {
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"completion"}, {"completion", "tcsh"}, {"completion", "bash", "zsh"}})
    EXPECT_EQ(run(words, nullptr), kUsage);
}

TEST(Manual, IsRoffWithoutAWarning) {
  EXPECT_EQ(output(FAIRLEAD_PROGRAM " man | groff -man -Tascii -ww -z 2>&1"), "");
  const std::string text = output(FAIRLEAD_PROGRAM " man | groff -man -Tascii -P-cbou -rLL=400n");
  for (const Command& command : commands()) {
    EXPECT_NE(text.find(fmt::format("{}{}{}", command.noun, command.verb.empty() ? "" : " ", command.verb)),
              std::string::npos)
        << command.noun;
    for (const Flag& flag : flags_of(command))
      EXPECT_NE(text.find(flag.name), std::string::npos) << flag.name;
    for (const Key& key : keys_of(command.noun, command.verb))
      EXPECT_NE(text.find(key.name), std::string::npos) << key.name;
  }
}

// Usage, completion and manual tell the same.
TEST(Table, OfCommandsNamesTheFlagsOfEach) {
  for (const Command& command : commands()) {
    for (const Flag& flag : command.flags)
      EXPECT_NE(command.arguments.find(flag.name), std::string_view::npos)
          << command.noun << " " << flag.name;
    const Command bare{command.noun, command.verb, command.arguments, command.help, command.run};
    if (!command.flags.empty()) EXPECT_EQ(flags_of(bare).size(), flags_of(command).size()) << command.noun;
  }
}

TEST(Table, FlagsWithoutHelpAreReadFromTheArguments) {
  const Command command{"bpf", "none",
                        "[--pod NAMESPACE/NAME] [--verdict NAME[,NAME…]] [--all] [-n COUNT] [FILE]", "",
                        nullptr};
  std::string found;
  for (const Flag& flag : flags_of(command)) found += fmt::format("{}={};", flag.name, flag.value);
  EXPECT_EQ(found, "--pod=NAMESPACE/NAME;--verdict=NAME[,NAME…;--all=;-n=COUNT;");
}

}  // namespace
}  // namespace fairlead::cli
