// Local questions to a running process over an AF_UNIX stream socket: the client sends one line "VERB[ SPACE
// JSON]\n", the server answers one document and closes. Bounded: kMaxQueryLine in, kMaxQueryAnswer out,
// kMaxQueryClients at once, and a client that does not finish its line within kQueryDeadline is dropped.
// Thread: the server lives on a reactor; query() blocks its caller and belongs into the CLI and tests.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "event/reactor.h"

namespace fairlead::net {

constexpr size_t kMaxQueryLine = 256 * 1024;
constexpr size_t kMaxQueryAnswer = 256 * 1024 * 1024;
constexpr size_t kMaxQueryClients = 32;
constexpr std::chrono::seconds kQueryDeadline{5};

struct QueryPeer {
  pid_t pid = 0;
  uid_t uid = 0;  // SO_PEERCRED
};

class QueryServer {
 public:
  // Gets verb and argument (may be empty), returns the document. `{"error":"…"}` is the handler's to write.
  using Handler =
      std::function<std::string(std::string_view verb, std::string_view argument, const QueryPeer& peer)>;
  // Replaces a stale socket file at `path`; removed again on destruction.
  static Result<std::unique_ptr<QueryServer>> listen(Reactor& reactor, const std::string& path, unsigned mode,
                                                     Handler handler);
  ~QueryServer();

  // Another name for the same socket: who connects meanwhile finds one of the two, never none.
  Result<void> rename(const std::string& path);
  void renamed(const std::string& path);  // somebody else has done so
  void let_go() noexcept;                 // the name is another process's: it stays at the end

 private:
  struct Impl;
  explicit QueryServer(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

// kUnavailable when nobody listens, kTimeout when the answer does not come in time.
Result<std::string> query(const std::string& path, std::string_view line, std::chrono::milliseconds timeout);

}  // namespace fairlead::net
