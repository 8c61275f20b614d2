// The keys of every list's rows, in the order in which help, completion and the manual name them.
#include <array>

#include "cli/filter.h"

namespace fairlead::cli {
namespace {

using Kind = Key::Kind;

constexpr Key kPod[] = {{"namespace"},
                        {"name"},
                        {"serviceAccount"},
                        {"addresses"},
                        {"uid"},
                        {"cgroup"},
                        {"netns"},
                        {"netnsCookie", Kind::kNumber},
                        {"excludedInboundPorts", Kind::kNumber},
                        {"excludedOutboundPorts", Kind::kNumber},
                        {"excludedOutboundRanges"},
                        {"inboundPort", Kind::kNumber},
                        {"outboundPort", Kind::kNumber}};
constexpr Key kWorkload[] = {{"namespace"}, {"name"},     {"node"},     {"addresses"}, {"identity"},
                             {"tunnel"},    {"services"}, {"policies"}, {"network"}};
constexpr Key kService[] = {{"namespace"},
                            {"name"},
                            {"hostname"},
                            {"addresses"},
                            {"ports.servicePort", Kind::kNumber},
                            {"ports.targetPort", Kind::kNumber},
                            {"endpoints.workload"},
                            {"endpoints.addresses"}};
constexpr Key kPolicy[] = {{"namespace"},
                           {"name"},
                           {"action"},
                           {"scope"},
                           {"services"},
                           {"dryRun", Kind::kTruth},
                           {"rules", Kind::kNumber},
                           {"localWorkloads", Kind::kNumber},
                           {"notes"}};
constexpr Key kConnection[] = {{"namespace"},
                               {"pod"},
                               {"direction"},
                               {"state"},
                               {"peer"},
                               {"remoteAddress"},
                               {"remotePort", Kind::kNumber},
                               {"port", Kind::kNumber},
                               {"service"},
                               {"source"},
                               {"destination"},
                               {"endpoint"},
                               {"tunnel"},
                               {"tunnelId", Kind::kNumber},
                               {"bytes", Kind::kBytes},
                               {"bytesSent", Kind::kBytes},
                               {"bytesReceived", Kind::kBytes},
                               {"bytesSpliced", Kind::kBytes},
                               {"cipher"},
                               {"tlsSends"},
                               {"tlsReceives"},
                               {"ulp"},
                               {"recordsSent", Kind::kNumber},
                               {"recordsReceived", Kind::kNumber},
                               {"ageMs", Kind::kMilliseconds},
                               {"id"}};
constexpr Key kCert[] = {{"identity"},
                         {"ready", Kind::kTruth},
                         {"notAfter", Kind::kMoment},
                         {"notBefore", Kind::kMoment},
                         {"nextAttempt", Kind::kMoment},
                         {"serial"},
                         {"lastError"}};
constexpr Key kWhy[] = {{"namespace"},
                        {"pod"},
                        {"direction"},
                        {"allowed", Kind::kTruth},
                        {"principal"},
                        {"source"},
                        {"destination"},
                        {"endpoint"},
                        {"service"},
                        {"policy"},
                        {"rule", Kind::kNumber},
                        {"reason"},
                        {"detail"},
                        {"id"},
                        {"time", Kind::kMoment},
                        {"audits.policy"},
                        {"audits.rule", Kind::kNumber},
                        {"dryRun.allowed", Kind::kTruth},
                        {"dryRun.policy"},
                        {"dryRun.rule", Kind::kNumber},
                        {"dryRun.reason"}};
constexpr Key kProgs[] = {{"owner"},
                          {"name"},
                          {"type"},
                          {"tag"},
                          {"id", Kind::kNumber},
                          {"runCount", Kind::kNumber},
                          {"runTimeNs", Kind::kNanoseconds},
                          {"nsPerRun", Kind::kNanoseconds},
                          {"instructions", Kind::kNumber},
                          {"verifiedInstructions", Kind::kNumber}};
constexpr Key kMaps[] = {{"owner"},
                         {"name"},
                         {"type"},
                         {"id", Kind::kNumber},
                         {"entries", Kind::kNumber},
                         {"maxEntries", Kind::kNumber},
                         {"memoryBytes", Kind::kBytes}};
constexpr Key kLinks[] = {
    {"owner"},  {"pod"},        {"program"}, {"programId", Kind::kNumber}, {"attachType"}, {"type"},
    {"target"}, {"targetKind"}, {"pin"},     {"id", Kind::kNumber}};

constexpr Key kCheck[] = {{"check"}, {"state"}, {"found"}, {"remedy"}};

struct List {
  std::string_view noun;
  std::string_view verb;
  std::span<const Key> keys;
};
constexpr List kLists[] = {
    {"pod", "list", kPod},
    {"workload", "list", kWorkload},
    {"service", "list", kService},
    {"policy", "list", kPolicy},
    {"connection", "list", kConnection},
    {"cert", "list", kCert},
    {"why", "", kWhy},
    {"bpf", "progs", kProgs},
    {"bpf", "maps", kMaps},
    {"bpf", "links", kLinks},
    {"check", "", kCheck},
};

}  // namespace

std::span<const Key> keys_of(std::string_view noun, std::string_view verb) noexcept {
  for (const List& list : kLists) {
    if (list.noun == noun && list.verb == verb) return list.keys;
  }
  return {};
}

}  // namespace fairlead::cli
