// The way of bulk payload from an application into a tunnel whose records the kernel makes: by splice, with
// only frame headers in user space. The way back is hbone::StreamHandler::take_from(). Thread: the worker's.
#pragma once

#include "base/unique_fd.h"
#include "hbone/connection.h"
#include "proxy/connection.h"

namespace fairlead::proxy {

class BulkLane {
 public:
  enum class Sent : uint8_t {
    kNot,         // not by here: it is to be copied
    kMoved,       // some of it is on its way; there may be more
    kLater,       // on_writable() comes
    kWouldBlock,  // the application has said nothing
    kEnd,         // FIN
  };
  struct Step {
    Sent sent = Sent::kNot;
    size_t bytes = 0;
  };
  // Moves what the application's socket holds into a DATA frame of the stream. Errors: the application's.
  virtual Result<Step> send_from(BorrowedFd application, hbone::StreamId stream) = 0;
  [[nodiscard]] virtual TunnelRecords tunnel_records() const = 0;

 protected:
  ~BulkLane() = default;
};

}  // namespace fairlead::proxy
