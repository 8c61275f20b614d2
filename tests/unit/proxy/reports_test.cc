#include <gtest/gtest.h>

#include "proxy/reports_json.h"
#include "state/snapshot_builder.h"

namespace fairlead::proxy {
namespace {

TEST(Reports, WorkloadsThatCannotBeReachedSayWhy) {
  const auto shown = [](int protocol, const char* network) {
    istio::workload::Address message;
    auto& workload = *message.mutable_workload();
    workload.set_uid("a");
    workload.set_namespace_("ns");
    workload.set_network(network);
    workload.set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(protocol));
    state::SnapshotBuilder builder;
    EXPECT_TRUE(builder.set_address("a", message));
    return workloads_json(*builder.build());
  };
  EXPECT_NE(shown(istio::workload::HBONE, "").find(R"("tunnel":"hbone")"), std::string::npos);
  EXPECT_NE(shown(99, "").find(R"("tunnel":"unsupported")"), std::string::npos);
  const std::string elsewhere = shown(istio::workload::HBONE, "n2");
  EXPECT_NE(elsewhere.find(R"("tunnel":"other-network")"), std::string::npos) << elsewhere;
  EXPECT_NE(elsewhere.find(R"("network":"n2")"), std::string::npos) << elsewhere;
}

}  // namespace
}  // namespace fairlead::proxy
