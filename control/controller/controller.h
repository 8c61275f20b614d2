// Wires source, model, CA and services together. Thread: run() blocks its caller until SIGTERM or SIGINT; it
// must be called before any other thread is made, so that none of them takes the signals.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "control/ca/issuer.h"
#include "control/ca/node_token.h"
#include "control/controller/config.h"
#include "control/controller/status_file.h"
#include "control/serve/server.h"
#include "control/source/source.h"

namespace fairlead::controller {

class Controller {
 public:
  explicit Controller(ControllerConfig config)
      : config_(std::move(config)), status_(config_.state_directory + "/status.json") {}
  Result<void> run();

 private:
  Result<void> start();
  void look_at_roots();
  Result<serve::ServerTls> own_certificate();
  serve::Backend backend();
  void on_objects(Result<model::ObjectSet> objects);
  void refuse(std::vector<std::string> why);
  void apply(const model::ObjectSet& objects, std::vector<model::Report> remarks);

  const ControllerConfig config_;
  std::unique_ptr<ca::DevelopmentCa> issuer_;
  std::unique_ptr<ca::NodeTokens> tokens_;
  StatusFile status_;
  std::unique_ptr<serve::Server> server_;
  std::unique_ptr<source::Source> source_;
  SetStatus newest_;  // of the source's thread
  bool own_certificate_stale_ = false;
  std::string roots_error_;  // as it was told, once
};

// Everything wrong with the manifests of a configuration, one line each; kInvalidArgument when they would be
// refused.
Result<std::vector<std::string>> check_manifests(const ControllerConfig& config);

}  // namespace fairlead::controller
