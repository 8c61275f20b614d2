// What `bpf`, `check` and `dump` share: the inventory of the node, seen from the agent that --run-dir names.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "cli/command.h"
#include "ebpf/inventory.h"

namespace fairlead::cli {

Result<ebpf::Inventory> read_inventory(const Options& options);
nlohmann::json program_rows(const ebpf::Inventory& inventory);
nlohmann::json map_rows(const ebpf::Inventory& inventory);
nlohmann::json check_rows(const Options& options);
nlohmann::json link_rows(const Options& options, const ebpf::Inventory& inventory);
// Of the agent, if it runs: empty otherwise, and nothing is said about it.
nlohmann::json net_pods(const Options& options);
nlohmann::json agent_status(const Options& options);
std::string bpf_directory(const Options& options);

}  // namespace fairlead::cli
