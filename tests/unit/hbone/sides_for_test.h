// What tests see of the two ends of a connection, and frames made by hand.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "hbone/connection.h"
#include "hbone/frame.h"
#include "hbone/limits.h"

namespace fairlead::hbone {

// One end of a stream, as a test sees it.
struct Recorder final : StreamHandler {
  void on_response(int code) override { status = code; }
  void on_data(Pieces pieces) override {
    ++batches;
    for (const auto& piece : pieces) {
      data.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      if (auto_consume) connection->consume(id, piece.size());
    }
  }
  void on_end() override { ended = true; }
  void on_reset(ErrorCode code) override { reset = static_cast<int>(code); }
  void on_writable() override {
    ++writable;
    if (asks_again) (void)connection->writable(id);
  }
  Connection* connection = nullptr;
  StreamId id = 0;
  std::string data;
  int status = 0;
  bool ended = false;
  int reset = -1;
  int writable = 0;
  int batches = 0;
  bool asks_again = false;
  bool auto_consume = true;
};

struct Side final : ConnectionHandler {
  Side(Connection::Role role, const Settings& settings) : connection(role, settings, *this) {}
  StreamHandler* on_connect(StreamId id, const ConnectRequest& request) override {
    requests.push_back(request);
    if (!accept) return nullptr;
    auto& stream = streams[id];
    stream.connection = &connection;
    stream.id = id;
    stream.auto_consume = auto_consume;
    return &stream;
  }
  void on_goaway(ErrorCode code) override { goaway = static_cast<int>(code); }
  void on_fault(Fault fault) override { faults.push_back(fault); }
  void on_output() override {}
  void on_stream_closed(StreamId id) override { closed.push_back(id); }
  std::map<StreamId, Recorder> streams;
  std::vector<ConnectRequest> requests;
  std::vector<StreamId> closed;
  std::vector<Fault> faults;
  int goaway = -1;
  bool accept = true;
  bool auto_consume = true;
  Connection connection;
};

}  // namespace fairlead::hbone
