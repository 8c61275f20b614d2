// The BPF objects, loaded: programs for the cgroup hooks (one set for all pods) and the sk_lookup program
// (one per pod, which carries the pod's netns cookie). Internal to ebpf/. Thread: one. Errors: kBpf with
// libbpf's and the verifier's last words in the text.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "ebpf/hooks.h"
#include "ebpf/pins.h"

namespace fairlead::ebpf {

// libbpf prints to stderr unless told otherwise: its lines are kept for the error text instead.
void silence_libbpf() noexcept;

class Programs {
 public:
  // Loads; maps are created and pinned, or reused where pinned.
  static Result<Programs> load(const PinPaths& paths);

  // nullopt for sk_lookup.
  [[nodiscard]] std::optional<BorrowedFd> of(const Hook& hook) const noexcept;

 private:
  struct Loaded {
    bpf_attach_type type;
    UniqueFd fd;
  };
  std::array<Loaded, 7> programs_{};
};

Result<UniqueFd> load_lookup_program(const PinPaths& paths, uint64_t netns_cookie);

}  // namespace fairlead::ebpf
