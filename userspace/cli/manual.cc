// man: fairlead(1), made from the command table.
#include <cstdio>

#include "cli/output.h"

namespace fairlead::cli {
namespace {

// Text for roff: no letter of it is taken for a request.
std::string roff(std::string_view text) {
  std::string out;
  if (text.starts_with('.') || text.starts_with('\'')) out += "\\&";
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with("…")) {
      out += "...";
      i += std::string_view("…").size() - 1;
    } else if (text[i] == '\\') {
      out += "\\e";
    } else if (text[i] == '-') {
      out += "\\-";
    } else if (text[i] == '\'') {
      out += "\\(aq";
    } else if (text[i] == '~') {
      out += "\\(ti";
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string flag_lines(std::span<const Flag> flags) {
  std::string text;
  for (const Flag& flag : flags) {
    text += fmt::format(".TP\n\\fB{}\\fR", roff(flag.name));
    if (!flag.value.empty()) text += fmt::format(" \\fI{}\\fR", roff(flag.value));
    text += fmt::format("\n{}\n", roff(flag.help));
  }
  return text;
}

std::string_view kind_of(Key::Kind kind) {
  switch (kind) {
    case Key::Kind::kText: return "text";
    case Key::Kind::kNumber: return "number";
    case Key::Kind::kBytes: return "bytes";
    case Key::Kind::kMilliseconds: return "duration";
    case Key::Kind::kNanoseconds: return "duration";
    case Key::Kind::kMoment: return "moment";
    case Key::Kind::kTruth: return "true or false";
  }
  return "text";
}

std::string command_lines(const Command& command) {
  std::string text =
      fmt::format(".TP\n\\fB{}{}{}\\fR", command.noun, command.verb.empty() ? "" : " ", command.verb);
  if (!command.arguments.empty()) text += fmt::format(" \\fI{}\\fR", roff(command.arguments));
  text += fmt::format("\n{}.\n", roff(command.help));
  const auto keys = keys_of(command.noun, command.verb);
  std::string names;
  for (const Key& key : keys) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", roff(key.name));
    if (key.kind != Key::Kind::kText) names += fmt::format(" ({})", kind_of(key.kind));
  }
  if (!names.empty()) text += fmt::format(".br\nKeys of \\fB\\-\\-filter\\fR: {}.\n", names);
  if (!command.flags.empty()) text += fmt::format(".RS\n{}.RE\n", flag_lines(command.flags));
  return text;
}

constexpr std::string_view kFilters = R"(.SH FILTERS
\fIEXPR\fR is a list of conditions with commas between them, which must all hold: a key, an operator, a value.
Keys are those of the rows as \fB\-o json\fR shows them, nested ones by dot.
.TP
\fB=\fR, \fB!=\fR
is, is not.
.TP
\fB\(ti\fR, \fB!\(ti\fR
matches a glob, does not: \fB*\fR is any run of characters, \fB?\fR any one. Text only.
.TP
\fB<\fR, \fB<=\fR, \fB>\fR, \fB>=\fR
numbers; bytes (\fB10k\fR, \fB1.5MiB\fR); durations (\fB90s\fR, \fB1h30m\fR); moments
(\fB2026\-01\-31T12:00:00Z\fR, or from now on: \fB\-5m\fR, \fB24h\fR).
.PP
A list matches when one of its items does. What a row does not have is the empty text.
A value with a comma stands in double quotes.
)";

constexpr std::string_view kEnd = R"(.SH EXIT STATUS
.TP
0
ok
.TP
1
failure; of \fBauthz check\fR, denied; of \fBdump\fR, some sections did not answer
.TP
2
usage
.TP
3
the agent cannot be reached
.SH ENVIRONMENT
.TP
\fBFAIRLEAD_RUN_DIR\fR
where the agent's sockets are, unless \fB\-\-run\-dir\fR says it
.SH EXAMPLES
.nf
fairlead connection list \-\-filter \(aqnamespace=shop,peer\(ti*/ns/bank/*,bytes>1MiB\(aq
fairlead why \-\-watch \-\-denied
fairlead cert list \-\-filter \(aqnotAfter<6h\(aq
fairlead dump report.json
.fi
)";

}  // namespace

int run_man(const Options&) {
  std::string text =
      ".TH FAIRLEAD 1 \"\" \"Fairlead " FAIRLEAD_VERSION
      "\" \"Fairlead\"\n"
      ".nh\n.ad l\n"
      ".SH NAME\n"
      "fairlead \\- inspect the Fairlead agent of this node\n"
      ".SH SYNOPSIS\n"
      "\\fBfairlead\\fR [\\fIOPTIONS\\fR] \\fINOUN\\fR [\\fIVERB\\fR] [\\fIARGUMENTS\\fR]\n"
      ".SH DESCRIPTION\n"
      "Asks the agent of this node, and the kernel, what they hold: captured pods, connections, decisions,\n"
      "certificates, BPF programs. Data goes to standard output, everything else to standard error.\n"
      ".SH OPTIONS\n";
  text += flag_lines(common_flags());
  text += ".SH COMMANDS\n";
  for (const Command& command : commands()) text += command_lines(command);
  text += std::string(kFilters) + std::string(kEnd);
  std::fputs(text.c_str(), stdout);
  return kOk;
}

}  // namespace fairlead::cli
