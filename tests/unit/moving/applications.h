// The applications of both pods: every byte that they exchange is known in advance by its place, and whatever
// is lost, doubled, late or reset is told.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "unit/moving/nodes.h"

namespace fairlead::proxy::testing {

// What a client asks the server for with its first bytes.
enum class Kind : uint8_t {
  kEcho = 'E',        // what it says, until it ends
  kBulk = 'B',        // both talk at once
  kHalfClosed = 'H',  // it has said all; the server answers when finish() is called
  kLikeTls = 0x16,    // an echo whose first bytes could be those of a tunnel
  kSlow = 'S',        // the server talks, the client reads slowly
  kSlowEnd = 'Z',     // the same, and both have ended long before the client has read it
};

class Applications {
 public:
  Applications(Mesh& mesh, Node& front);
  ~Applications();
  // In a thread of its own each.
  void start(Kind kind, size_t bytes) { start(kind, bytes, mesh_.service); }
  void start(Kind kind, size_t bytes, const SocketAddress& to);
  // The same over and over, on new connections, until finish().
  void keep_starting(Kind kind, size_t bytes);
  void finish();  // idle ones and half-closed ones say the rest, and all end
  void expect_faults() { expects_faults_ = true; }
  std::vector<std::string> unexpected_faults();
  [[nodiscard]] int dialled() const { return dialled_; }
  [[nodiscard]] bool finished() const { return finishing_; }
  // A captured connection, as an application has it.
  UniqueFd dial() { return dial(mesh_.service, false); }
  UniqueFd dial(const SocketAddress& to, bool slow);
  // The whole of one client on a connection that is there.
  void talk(UniqueFd fd, Kind kind, size_t bytes, unsigned seed);
  void fault(std::string text);

 private:
  void accept_all();
  void serve(UniqueFd fd);
  void in_thread(std::function<void()> function);
  void wait_for_finish() const;
  bool say(BorrowedFd fd, unsigned seed, size_t bytes);
  bool hear(BorrowedFd fd, unsigned seed, size_t bytes, bool slowly = false);
  bool hear_end(BorrowedFd fd);

  Mesh& mesh_;
  Node& front_;
  std::atomic<bool> finishing_ = false, stopping_ = false;
  std::atomic<int> dialled_ = 0, running_ = 0;
  std::mutex mutex_;
  std::vector<std::string> faults_;
  bool expects_faults_ = false;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace fairlead::proxy::testing
