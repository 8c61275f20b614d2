#include "control/controller/controller.h"

#include <signal.h>

#include "base/net_types.h"

namespace fairlead::controller {
namespace {

std::vector<std::string> server_ips(const std::string& listen) {
  std::vector<std::string> ips = {"127.0.0.1"};
  const auto address = SocketAddress::parse(listen);
  if (address && !address->ip.is_unspecified() && !address->ip.is_loopback()) ips.push_back(address->ip.to_string());
  return ips;
}

std::string_view name_of(model::Report::Severity severity) {
  switch (severity) {
    case model::Report::Severity::kInfo: return "info";
    case model::Report::Severity::kWarning: return "warning";
    case model::Report::Severity::kError: return "error";
  }
  return "error";
}

}  // namespace

Result<void> Controller::start() {
  FL_TRY_ASSIGN(issuer_, ca::DevelopmentCa::open(config_.state_directory));
  FL_TRY_ASSIGN(tokens_, ca::NodeTokens::open(config_.state_directory));
  FL_TRY_ASSIGN(ca::ServerCertificate own,
                issuer_->server_certificate({"fairlead-controller", "fairlead-controller.fairlead-system.svc", "localhost"},
                                            server_ips(config_.listen)));
  serve::Backend backend;
  backend.node_of = [this](std::string_view token) -> Result<std::string> {
    FL_TRY_ASSIGN(ca::Caller caller, tokens_->authenticate(token));
    return std::move(caller.node);
  };
  backend.sign = [this](const std::string& csr, const SpiffeId& id, std::chrono::seconds ttl) -> Result<serve::Backend::Certificate> {
    FL_TRY_ASSIGN(ca::IssuedCertificate issued, issuer_->sign(csr, id, ttl));
    log::info("ca", "issued {} serial {}", id.uri(), issued.serial);
    return serve::Backend::Certificate{std::move(issued.leaf_pem), issuer_->roots_pem()};
  };
  FL_TRY_ASSIGN(server_, serve::Server::start(config_.listen, {std::move(own.chain_pem), std::move(own.key_pem)}, std::move(backend)));
  source_ = source::watch_directory(config_.source.directory);
  return source_->start([this](Result<model::ObjectSet> objects) { on_objects(std::move(objects)); });
}

void Controller::on_objects(Result<model::ObjectSet> objects) {
  if (!objects) {
    log::error("source", "the last good state stays in force:\n{}", objects.error().text());
    return write_status({objects.error().text()}, nullptr);
  }
  model::MeshSettings settings{config_.trust_domain, config_.cluster_domain, config_.cluster_id, config_.root_namespace};
  model::Mesh mesh = model::translate(*objects, settings);
  ++version_;
  std::vector<std::string> problems;
  for (const model::Report& report : mesh.reports) {
    problems.push_back(fmt::format("{}:{}: {}: {}: {}", report.at.file, report.at.line, name_of(report.severity), report.object, report.message));
    log::warn("model", "{}", problems.back());
  }
  log::info("controller", "version {}: {} addresses, {} policies", version_, mesh.addresses.size(), mesh.policies.size());
  write_status(problems, &mesh);
  server_->publish(std::move(mesh));
}

Result<void> Controller::run() {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGTERM);
  ::sigaddset(&wanted, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &wanted, nullptr);  // before any thread is made
  (void)::signal(SIGPIPE, SIG_IGN);
  FL_TRY(start());
  log::info("controller", "serving on {}, trust domain {}", config_.listen, config_.trust_domain);
  int received = 0;
  ::sigwait(&wanted, &received);
  source_->stop();
  server_->stop();
  return {};
}

}  // namespace fairlead::controller
