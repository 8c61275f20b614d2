// What every test of a client has: a controller that is not started yet, its certificate, and files with
// roots and token for the agent.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "base/file.h"
#include "state/clients.h"
#include "unit/state/fake_controller.h"

namespace fairlead::state {

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    char pattern[] = "/tmp/fairlead-clients-XXXXXX";
    directory_ = ::mkdtemp(pattern);
    write("roots.pem", authority_.certificate_pem());
    write("token", "secret-1\n");
  }
  ~ClientTest() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(write_file_atomically(directory_ + "/" + name, content));
  }
  void start_controller() {
    testing::CertificateShape shape;
    shape.dns = {"controller.test"};
    controller_.start(port_.address(), authority_.issue(shape));
  }
  [[nodiscard]] ControllerEndpoint endpoint() const {
    ControllerEndpoint endpoint;
    endpoint.address = port_.address();
    endpoint.server_name = "controller.test";
    endpoint.roots_file = directory_ + "/roots.pem";
    endpoint.token_file = directory_ + "/token";
    endpoint.cluster_id = "Kubernetes";
    endpoint.node_name = "node1";
    endpoint.node_ip = "192.0.2.1";
    return endpoint;
  }

  testing::Authority authority_ = testing::Authority::root("controller root");
  std::string directory_;
  Port port_;
  FakeController controller_;
};

// Stopping must not wait for anything that the other side owes.
template <class Client>
void expect_prompt_stop(Client& client) {
  const auto start = std::chrono::steady_clock::now();
  client.stop();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

}  // namespace fairlead::state
