// Where objects come from. One interface; a directory of manifests here, a Kubernetes API beside it later.
// Thread: the callback runs on the source's own thread, one call at a time; stop() joins.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "control/model/objects.h"

namespace fairlead::source {

class Source {
 public:
  // A whole new state, or why there is none: then the last good one stays in force.
  using OnChange = std::function<void(Result<model::ObjectSet>)>;
  virtual ~Source() = default;
  virtual Result<void> start(OnChange on_change) = 0;
  virtual void stop() = 0;
};

// Watches *.yaml and *.yml of one directory (inotify; it is read once it has been quiet for 50 ms). Whoever
// writes there should rename finished files into place: half a manifest may parse. A directory that goes is
// an error, looked for again.
std::unique_ptr<Source> watch_directory(std::string path);

// All manifests of a directory, in the order of their names. kInvalidArgument with one line `file:line: what:
// got …, want …` for every error.
Result<model::ObjectSet> read_directory(const std::string& path);
// One file's documents added to `objects`.
void read_manifests(const std::string& file, const std::string& content, model::ObjectSet& objects,
                    std::string& errors);

}  // namespace fairlead::source
