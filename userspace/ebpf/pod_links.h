// The links of one pod: made, taken over in place, or made anew. Internal to ebpf/.
#pragma once

#include "base/result.h"
#include "ebpf/datapath.h"
#include "ebpf/objects.h"
#include "ebpf/pins.h"

namespace fairlead::ebpf {

// Whether the pod's connect hook is pinned and alive: the pod is being captured.
bool is_captured(const PinPaths& paths, const std::string& uid);

// In kAttachOrder. On an error the hooks done so far stay: the caller knows whether the pod was new.
Result<void> attach_hooks(const PinPaths& paths, const Programs& programs, const PodAttachment& attachment);

}  // namespace fairlead::ebpf
