#include "control/controller/controller.h"

#include <signal.h>

#include "base/net_types.h"
#include "base/scope.h"

namespace fairlead::controller {
namespace {

using model::Report;

constexpr timespec kRootsInterval{1, 0};

std::vector<std::string> server_ips(const std::string& listen) {
  std::vector<std::string> ips = {"127.0.0.1", "::1"};
  const auto address = SocketAddress::parse(listen);
  if (address && !address->ip.is_unspecified() && !address->ip.is_loopback())
    ips.push_back(address->ip.to_string());
  return ips;
}

model::MeshSettings settings_of(const ControllerConfig& config) {
  return {config.trust_domain, config.cluster_domain, config.cluster_id, config.root_namespace};
}

// The reports of a set that must not come into force; empty: it may.
std::vector<std::string> errors_of(const std::vector<Report>& reports) {
  std::vector<std::string> lines;
  for (const Report& report : reports) {
    if (report.severity == Report::Severity::kError) lines.push_back(model::to_string(report));
  }
  return lines;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += (text.empty() ? "" : "\n") + line;
  return text;
}

void log_report(const Report& report) {
  switch (report.severity) {
    case Report::Severity::kInfo: return log::info("model", "{}", model::to_string(report));
    case Report::Severity::kWarning: return log::warn("model", "{}", model::to_string(report));
    case Report::Severity::kError: return log::error("model", "{}", model::to_string(report));
  }
}

void count(const model::Mesh& mesh, SetStatus& status) {
  status.workloads = 0;
  for (const auto& [name, address] : mesh.addresses) status.workloads += address.has_workload() ? 1 : 0;
  status.services = mesh.addresses.size() - status.workloads;
  status.policies = mesh.policies.size();
  status.identities = 0;
  for (const auto& [node, identities] : mesh.identities_by_node) status.identities += identities.size();
}

}  // namespace

serve::Backend Controller::backend() {
  serve::Backend backend;
  backend.node_of = [this](std::string_view token) -> Result<std::string> {
    FL_TRY_ASSIGN(ca::Caller caller, tokens_->authenticate(token));
    return std::move(caller.node);
  };
  backend.sign = [this](const std::string& csr, const SpiffeId& id,
                        std::chrono::seconds ttl) -> Result<serve::Backend::Certificate> {
    FL_TRY_ASSIGN(ca::IssuedCertificate issued, issuer_->sign(csr, id, ttl));
    log::info("ca", "issued {} serial {}", id.uri(), issued.serial);
    return serve::Backend::Certificate{std::move(issued.leaf_pem), std::move(issued.roots_pem)};
  };
  backend.notice = [](log::Level level, const std::string& text) { log::line(level, "serve", "{}", text); };
  backend.agents_changed = [this] { status_.touch(); };
  return backend;
}

Result<void> Controller::start() {
  FL_TRY_ASSIGN(issuer_, ca::DevelopmentCa::open(config_.state_directory, config_.certificates.max_ttl));
  FL_TRY_ASSIGN(tokens_, ca::NodeTokens::open(config_.state_directory));
  FL_TRY_ASSIGN(const serve::ServerTls own, own_certificate());
  FL_TRY_ASSIGN(server_, serve::Server::start(config_.listen, own, backend()));
  status_.start([this] { return server_->agents(); });
  source_ = source::watch_directory(config_.source.directory);
  return source_->start([this](Result<model::ObjectSet> objects) { on_objects(std::move(objects)); });
}

Result<serve::ServerTls> Controller::own_certificate() {
  FL_TRY_ASSIGN(ca::ServerCertificate own,
                issuer_->server_certificate(
                    {"fairlead-controller", "fairlead-controller.fairlead-system.svc", "localhost"},
                    server_ips(config_.listen)));
  return serve::ServerTls{std::move(own.chain_pem), std::move(own.key_pem)};
}

// What `fairlead-controller root` has done meanwhile. On an error the roots stay as they are.
void Controller::look_at_roots() {
  const auto changed = issuer_->refresh();
  const std::string error = changed ? std::string() : changed.error().text();
  if (error != std::exchange(roots_error_, error) && !error.empty())
    log::error("ca", "the roots stay as they are: {}", error);
  if (!changed) return;
  if (*changed == ca::RootsChanged::kTrusted) log::info("ca", "other roots are trusted");
  if (*changed == ca::RootsChanged::kSigner) log::info("ca", "another root signs");
  own_certificate_stale_ = own_certificate_stale_ || *changed == ca::RootsChanged::kSigner;
  if (!own_certificate_stale_) return;
  const auto own = own_certificate();
  const Result<void> served = own ? server_->change_certificate(*own) : Result<void>(own.error());
  own_certificate_stale_ = !served;
  if (!served) log::error("ca", "own certificate: {}, trying again", served.error().text());
}

void Controller::on_objects(Result<model::ObjectSet> objects) {
  if (!objects) return refuse(lines_of(objects.error().text()));
  std::vector<Report> remarks = model::validate(*objects, settings_of(config_));
  std::vector<std::string> errors = errors_of(remarks);
  if (!errors.empty()) return refuse(std::move(errors));
  apply(*objects, std::move(remarks));
}

void Controller::refuse(std::vector<std::string> why) {
  log::error("source", "the manifests are refused, {}:\n{}",
             newest_.version == 0 ? "nothing is in force yet" : "the last good state stays in force",
             joined(why));
  newest_.good = false;
  newest_.refusals = std::move(why);
  status_.set(newest_);
}

void Controller::apply(const model::ObjectSet& objects, std::vector<Report> remarks) {
  const model::Mesh mesh = model::translate(objects, settings_of(config_));
  newest_.reports = std::move(remarks);
  newest_.reports.insert(newest_.reports.end(), mesh.reports.begin(), mesh.reports.end());
  newest_.good = true;
  newest_.refusals.clear();
  ++newest_.version;
  count(mesh, newest_);
  for (const Report& report : newest_.reports) log_report(report);
  server_->publish(mesh);
  log::info("controller",
            "version {} is in force: {} workloads, {} services, {} policies, {} identities, {} reports",
            newest_.version, newest_.workloads, newest_.services, newest_.policies, newest_.identities,
            newest_.reports.size());
  status_.set(newest_);
}

Result<void> Controller::run() {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGTERM);
  ::sigaddset(&wanted, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &wanted, nullptr);  // before any thread is made
  (void)::signal(SIGPIPE, SIG_IGN);
  const ScopeExit end([this] {
    if (source_) source_->stop();
    if (server_) server_->stop();
    status_.stop();
  });
  FL_TRY(start());
  log::info("controller", "serving on {}, trust domain {}", config_.listen, config_.trust_domain);
  int received = 0;
  while ((received = ::sigtimedwait(&wanted, nullptr, &kRootsInterval)) < 0) look_at_roots();
  log::info("controller", "{}, ending", received == SIGTERM ? "SIGTERM" : "SIGINT");
  return {};
}

Result<std::vector<std::string>> check_manifests(const ControllerConfig& config) {
  FL_TRY_ASSIGN(const model::ObjectSet objects, source::read_directory(config.source.directory));
  std::vector<Report> reports = model::validate(objects, settings_of(config));
  const std::vector<std::string> errors = errors_of(reports);
  if (!errors.empty()) return Error(ErrorKind::kInvalidArgument, joined(errors));
  std::vector<std::string> lines;
  for (const Report& report : reports) lines.push_back(model::to_string(report));
  for (const Report& report : model::translate(objects, settings_of(config)).reports)
    lines.push_back(model::to_string(report));
  return lines;
}

}  // namespace fairlead::controller
