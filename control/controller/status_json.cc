// <stateDirectory>/status.json: what is in force and what is wrong with the manifests, for people and for the lab.
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "control/controller/controller.h"

namespace fairlead::controller {

void Controller::write_status(const std::vector<std::string>& problems, const model::Mesh* mesh) {
  nlohmann::json document{{"version", version_}, {"good", mesh != nullptr}, {"problems", problems}};
  if (mesh != nullptr) {
    document["addresses"] = mesh->addresses.size();
    document["policies"] = mesh->policies.size();
  }
  const std::string text = document.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const Result<void> written = write_file_atomically(config_.state_directory + "/status.json", text);
  if (!written) log::warn("controller", "{}, ignoring", written.error().text());
}

}  // namespace fairlead::controller
