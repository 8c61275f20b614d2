// Wires source, model, CA and services together. Thread: run() blocks its caller until SIGTERM or SIGINT.
#pragma once

#include <memory>
#include <mutex>

#include "control/ca/issuer.h"
#include "control/ca/node_token.h"
#include "control/controller/config.h"
#include "control/serve/server.h"
#include "control/source/source.h"

namespace fairlead::controller {

class Controller {
 public:
  explicit Controller(ControllerConfig config) : config_(std::move(config)) {}
  Result<void> run();

 private:
  Result<void> start();
  void on_objects(Result<model::ObjectSet> objects);
  void write_status(const std::vector<std::string>& problems, const model::Mesh* mesh);

  ControllerConfig config_;
  std::unique_ptr<ca::DevelopmentCa> issuer_;
  std::unique_ptr<ca::NodeTokens> tokens_;
  std::unique_ptr<serve::Server> server_;
  std::unique_ptr<source::Source> source_;
  uint64_t version_ = 0;
};

}  // namespace fairlead::controller
