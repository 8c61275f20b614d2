#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "control/controller/status_file.h"

namespace fairlead::controller {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds kMinInterval{100};
constexpr size_t kMaxReports = 1000;

json to_json(const model::Report& report) {
  return {{"severity", model::to_string(report.severity)},
          {"file", report.at.file},
          {"line", report.at.line},
          {"object", report.object},
          {"field", report.field},
          {"message", report.message}};
}

json to_json(const serve::TypeStatus& type) {
  return {{"type", type.type},         {"pushes", type.pushes},      {"acknowledged", type.acknowledged},
          {"rejected", type.rejected}, {"inFlight", type.in_flight}, {"lastRejection", type.last_rejection}};
}

json to_json(const serve::AgentStatus& agent) {
  json types = json::array();
  for (const serve::TypeStatus& type : agent.types) types.push_back(to_json(type));
  return {{"node", agent.node}, {"peer", agent.peer}, {"types", std::move(types)}};
}

}  // namespace

std::string StatusFile::render(const SetStatus& status, const std::vector<serve::AgentStatus>& agents) {
  json problems = status.refusals;
  if (problems.is_null()) problems = json::array();
  json reports = json::array();
  for (const model::Report& report : status.reports) {
    if (reports.size() >= kMaxReports) break;
    reports.push_back(to_json(report));
    if (report.severity != model::Report::Severity::kInfo) problems.push_back(model::to_string(report));
  }
  json connected = json::array();
  for (const serve::AgentStatus& agent : agents) connected.push_back(to_json(agent));
  const json document{{"version", status.version},       {"good", status.good},
                      {"problems", std::move(problems)}, {"reports", std::move(reports)},
                      {"workloads", status.workloads},   {"services", status.services},
                      {"policies", status.policies},     {"identities", status.identities},
                      {"agents", std::move(connected)}};
  return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

void StatusFile::start(Agents agents) {
  agents_ = std::move(agents);
  thread_ = std::thread([this] { run(); });
}

void StatusFile::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dirty_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void StatusFile::set(SetStatus status) {
  {
    const std::lock_guard lock(mutex_);
    status_ = std::move(status);
    dirty_ = urgent_ = true;
  }
  wake_.notify_all();
}

void StatusFile::touch() {
  {
    const std::lock_guard lock(mutex_);
    dirty_ = true;
  }
  wake_.notify_all();
}

void StatusFile::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return dirty_; });
    dirty_ = urgent_ = false;
    const bool last = stopping_;
    const SetStatus status = status_;
    lock.unlock();
    write(status);
    lock.lock();
    if (last) return;
    // Agents that come and go are gathered; what is in force is told at once.
    wake_.wait_for(lock, kMinInterval, [this] { return stopping_ || urgent_; });
  }
}

void StatusFile::write(const SetStatus& status) const {
  auto agents = agents_();
  std::sort(agents.begin(), agents.end(), [](const auto& a, const auto& b) { return a.node < b.node; });
  const Result<void> written = write_file_atomically(path_, render(status, agents));
  if (!written) log::warn("controller", "{}, ignoring", written.error().text());
}

}  // namespace fairlead::controller
