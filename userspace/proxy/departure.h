// The two ends of a move inside a worker: what its objects add themselves to, and what they are made from.
// Thread: the worker's.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "net/splice.h"
#include "proxy/moving_codec.h"
#include "state/snapshot.h"

namespace fairlead::proxy {

class Worker;

struct Departure {
  std::unordered_map<uint64_t, Moved>
      tunnels;  // by their ids in the worker; first, so that streams find theirs
  std::vector<Moved> others;

  // Null: no tunnel of that kind and id moves.
  template <class State>
  State* tunnel(uint64_t id) {
    const auto found = tunnels.find(id);
    return found == tunnels.end() ? nullptr : std::get_if<State>(&found->second.what);
  }
};

class Arrival {
 public:
  explicit Arrival(Worker& worker) noexcept : worker_(worker) {}
  [[nodiscard]] Worker& worker() const noexcept { return worker_; }
  // Of the snapshot here; null when it is not there any more.
  [[nodiscard]] std::shared_ptr<const state::Service> service(const std::string& full_name);

 private:
  Worker& worker_;
  bool listed_ = false;
  std::unordered_map<std::string, std::shared_ptr<const state::Service>> services_;
};

Result<PipeState> state_of(const net::Pipe& pipe);
net::Pipe pipe_of(PipeState state) noexcept;

// From now until `deadline`, none when it has passed.
inline Milliseconds time_left(TimePoint deadline, TimePoint now) noexcept {
  return std::max(Milliseconds{0}, std::chrono::duration_cast<Milliseconds>(deadline - now));
}

}  // namespace fairlead::proxy
