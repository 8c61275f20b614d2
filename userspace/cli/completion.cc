// completion bash|zsh|fish: scripts made from the command table, so that they know what this program knows.
#include <algorithm>
#include <cstdio>

#include "cli/output.h"

namespace fairlead::cli {
namespace {

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

// In single quotes, of bash and zsh; fish has the backslash in them.
std::string quoted(std::string_view text) {
  return "'" + replaced(std::string(text), "'", "'\\''") + "'";
}
std::string fish_quoted(std::string_view text) {
  return "'" + replaced(replaced(std::string(text), "\\", "\\\\"), "'", "\\'") + "'";
}

std::vector<std::string> nouns() {
  std::vector<std::string> list;
  for (const Command& command : commands()) {
    if (list.empty() || list.back() != command.noun) list.emplace_back(command.noun);
  }
  return list;
}

// What goes with every command; --filter is told of where it has keys.
std::vector<Flag> anywhere() {
  std::vector<Flag> flags;
  for (const Flag& flag : common_flags()) {
    if (flag.name != "--filter") flags.push_back(flag);
  }
  return flags;
}

// "a|b|c", as a flag's value or a command's argument.
std::string choices(std::string_view value) {
  if (value.find('|') == std::string_view::npos || value.find_first_of("[ -") != std::string_view::npos)
    return "";
  return replaced(std::string(value), "|", " ");
}

bool names_a_file(const Command& command) {
  return command.arguments.find("FILE") != std::string_view::npos;
}

// Every flag that takes a value: the same name means the same everywhere.
std::string flags_with_values(char separator) {
  std::vector<std::string> names;
  const auto add = [&](const Flag& flag) {
    if (!flag.value.empty()) names.emplace_back(flag.name);
  };
  for (const Flag& flag : common_flags()) add(flag);
  for (const Command& command : commands()) {
    for (const Flag& flag : flags_of(command)) add(flag);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : std::string(1, separator)) + name;
  return text;
}

std::string names_of(std::span<const Flag> flags) {
  std::string text;
  for (const Flag& flag : flags) text += fmt::format("{}{}", text.empty() ? "" : " ", flag.name);
  return text;
}

std::string key_names(std::span<const Key> keys) {
  std::string text;
  for (const Key& key : keys) text += fmt::format("{}{}", text.empty() ? "" : " ", key.name);
  return text;
}

// NOUN/VERB, as the scripts have it in their case statements.
std::string place(const Command& command) {
  return fmt::format("{}/{}", command.noun, command.verb.empty() ? "*" : command.verb);
}

// "    pod/list) keys='…' ;;" for each list.
std::string key_cases(std::string_view indent) {
  std::string text;
  for (const Command& command : commands()) {
    const auto keys = keys_of(command.noun, command.verb);
    if (!keys.empty()) text += fmt::format("{}{}) keys='{}' ;;\n", indent, place(command), key_names(keys));
  }
  return text;
}

// What bash and zsh agree on: reads the words before the current one.
std::string reader(std::string_view words) {
  return fmt::format(R"(  for word in {}; do
    if [[ -n $takes ]]; then takes=; continue; fi
    case $word in
      {}) takes=$word ;;
      -*) ;;
      *) if [[ -z $noun ]]; then noun=$word; elif [[ -z $verb ]]; then verb=$word; fi ;;
    esac
  done
)",
                     words, flags_with_values('|'));
}

// ---- bash

constexpr std::string_view kBashFilter = R"(  esac
  local typed=$2 quote=
  case $typed in [\"\']*) quote=1; typed=${typed:1} ;; esac
  local head=${typed%"${typed##*,}"} key
  typed=${typed##*,}
  case $typed in *[=~!\<\>]*) return ;; esac
  # readline replaces only what stands behind the last of these, outside of quotes.
  [[ -n $quote ]] || head=${head##*[=:\<\>]}
  for key in $keys; do
    [[ $key != "$typed"* ]] || COMPREPLY+=("$head$key=")
  done
  compopt -o nospace 2>/dev/null
}
)";

std::string bash() {
  std::string text =
      "# bash completion of fairlead: source <(fairlead completion bash)\n"
      "_fairlead_filter() {  # NOUN/VERB, what is typed\n"
      "  local keys=\n"
      "  case $1 in\n" +
      key_cases("    ") + std::string(kBashFilter) +
      R"(_fairlead() {
  local line=${COMP_LINE:0:COMP_POINT} cur= takes= noun= verb= word choices=
  local -a words
  COMPREPLY=()
  read -ra words <<<"$line"
  if [[ $line != *[[:space:]] && ${#words[@]} -gt 0 ]]; then
    cur=${words[-1]}
    unset 'words[-1]'
  fi
)" + reader("\"${words[@]:1}\"") +
      R"(  case $cur in --*=*) takes=${cur%%=*}; cur=${cur#*=} ;; esac
  case $takes in
    '') ;;
    -o|--output) COMPREPLY=($(compgen -W 'table json yaml' -- "$cur")); return ;;
    --run-dir) COMPREPLY=($(compgen -d -- "$cur")); return ;;
    --filter) _fairlead_filter "$noun/$verb" "$cur"; return ;;
    *) return ;;
  esac
  case $noun/$verb in
)";
  std::string all;
  for (const std::string& noun : nouns()) all += (all.empty() ? "" : " ") + noun;
  text += fmt::format("    /) choices='{}' ;;\n", all);
  for (const std::string& noun : nouns()) {
    std::string verbs;
    for (const Command& command : commands()) {
      if (command.noun == noun && !command.verb.empty()) verbs += fmt::format(" {}", command.verb);
    }
    if (!verbs.empty()) text += fmt::format("    {}/) choices='{}' ;;\n", noun, verbs.substr(1));
  }
  for (const Command& command : commands()) {
    const std::string words = names_of(flags_of(command));
    const std::string plain = choices(command.arguments);
    text += fmt::format("    {}) choices='{}{}{}'", place(command), plain,
                        plain.empty() || words.empty() ? "" : " ", words);
    if (names_a_file(command)) text += "; [[ $cur == -* ]] || COMPREPLY=($(compgen -f -- \"$cur\"))";
    text += " ;;\n";
  }
  return text + fmt::format(R"(  esac
  case $cur in -*) choices+=' {}' ;; esac
  COMPREPLY+=($(compgen -W "$choices" -- "$cur"))
}}
complete -F _fairlead fairlead
)",
                            names_of(anywhere()));
}

// ---- zsh

std::string described(std::string_view name, std::string_view help) {
  return quoted(fmt::format("{}:{}", name, help));
}

std::string zsh() {
  std::string text =
      "#compdef fairlead\n"
      "# zsh completion of fairlead: source <(fairlead completion zsh), or as _fairlead in a directory of "
      "fpath\n"
      "_fairlead() {\n"
      "  local noun= verb= takes= word keys=\n"
      "  local -a choices common\n" +
      reader("\"${(@)words[2,CURRENT-1]}\"") +
      R"(  case $takes in
    '') ;;
    -o|--output) compadd -- table json yaml; return ;;
    --run-dir) _directories; return ;;
    --filter)
      case $noun/$verb in
)" + key_cases("        ") +
      R"(      esac
      compset -P '*,'
      compadd -S '=' -- ${=keys}
      return ;;
    *) return ;;
  esac
  common=()";
  for (const Flag& flag : anywhere()) text += " " + described(flag.name, flag.help);
  text += ")\n  case $noun/$verb in\n    /) choices=(";
  std::string before;
  for (const Command& command : commands()) {
    if (command.noun != before)
      text += " " + described(command.noun, command.verb.empty() ? command.help : "");
    before = command.noun;
  }
  text += ") ;;\n";
  for (const std::string& noun : nouns()) {
    std::string verbs;
    for (const Command& command : commands()) {
      if (command.noun == noun && !command.verb.empty()) verbs += " " + described(command.verb, command.help);
    }
    if (!verbs.empty()) text += fmt::format("    {}/) choices=({}) ;;\n", noun, verbs);
  }
  for (const Command& command : commands()) {
    std::string words = choices(command.arguments);
    for (const Flag& flag : flags_of(command)) words += " " + described(flag.name, flag.help);
    text += fmt::format("    {}) choices=({}){} ;;\n", place(command), words,
                        names_a_file(command) ? "; _files" : "");
  }
  return text + R"(  esac
  _describe fairlead choices
  [[ $PREFIX != -* ]] || _describe option common
}
if [[ ${funcstack[1]} == _fairlead ]]; then _fairlead "$@"; else compdef _fairlead fairlead; fi
)";
}

// ---- fish

// "-l name" or "-s n", and what it takes.
std::string fish_flag(const Flag& flag) {
  std::string text = flag.name.starts_with("--") ? fmt::format("-l {}", flag.name.substr(2))
                                                 : fmt::format("-s {}", flag.name.substr(1));
  if (!flag.value.empty()) text += " -x";
  if (const std::string list = choices(flag.value); !list.empty()) text += " -a " + fish_quoted(list);
  if (flag.value == "DIR") text += " -a '(__fish_complete_directories)'";
  return text + " -d " + fish_quoted(flag.help);
}

std::string fish() {
  std::string text =
      "# fish completion of fairlead: fairlead completion fish | source\n"
      "function __fairlead_words  # noun and verb, as far as they are typed\n"
      "  set -l takes 0\n"
      "  for word in (commandline -opc)[2..-1]\n"
      "    if test $takes = 1\n"
      "      set takes 0\n"
      "      continue\n"
      "    end\n"
      "    switch $word\n" +
      fmt::format("      case {}\n", flags_with_values(' ')) +
      R"(        set takes 1
      case '-*'
      case '*'
        echo $word
    end
  end
end
function __fairlead_exact
  set -l seen (__fairlead_words)
  test "$seen" = "$argv"
end
function __fairlead_behind
  set -l seen (__fairlead_words)
  string match -q -- "$argv *" "$seen "
end
function __fairlead_keys  # behind the conditions that are complete
  set -l head (string replace -r -- '[^,]*$' '' (commandline -ct | string replace -r -- "^(--filter=)?['\"]?" ''))
  for key in $argv
    echo $head$key=
  end
end
complete -c fairlead -f
)";
  for (const Flag& flag : anywhere()) text += fmt::format("complete -c fairlead {}\n", fish_flag(flag));
  std::string before;
  for (const Command& command : commands()) {
    const std::string words =
        fmt::format("{}{}{}", command.noun, command.verb.empty() ? "" : " ", command.verb);
    if (command.noun != before) {
      text += fmt::format("complete -c fairlead -n __fairlead_exact -a {} -d {}\n", command.noun,
                          fish_quoted(command.verb.empty() ? command.help : ""));
    }
    before = command.noun;
    if (!command.verb.empty()) {
      text += fmt::format("complete -c fairlead -n '__fairlead_exact {}' -a {} -d {}\n", command.noun,
                          command.verb, fish_quoted(command.help));
    }
    const std::string behind = fmt::format("complete -c fairlead -n '__fairlead_behind {}' ", words);
    for (const Flag& flag : flags_of(command)) {
      if (flag.name == "--filter") {
        text += fmt::format("{}-l filter -x -a '(__fairlead_keys {})' -d {}\n", behind,
                            key_names(keys_of(command.noun, command.verb)), fish_quoted(flag.help));
      } else {
        text += behind + fish_flag(flag) + "\n";
      }
    }
    if (const std::string plain = choices(command.arguments); !plain.empty())
      text += fmt::format("{}-a {}\n", behind, fish_quoted(plain));
    if (names_a_file(command)) text += behind + "-F\n";
  }
  return text;
}

}  // namespace

int run_completion(const Options& options) {
  const std::string shell = options.arguments.size() == 1 ? options.arguments[0] : "";
  std::string script;
  if (shell == "bash") script = bash();
  if (shell == "zsh") script = zsh();
  if (shell == "fish") script = fish();
  if (script.empty()) {
    return complain(kUsage, "completion: want bash, zsh or fish\n  Try: source <(fairlead completion bash)");
  }
  std::fputs(script.c_str(), stdout);
  return kOk;
}

}  // namespace fairlead::cli
