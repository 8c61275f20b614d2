// Drives a TLS handshake over a non-blocking socket: the one place where tls::Handshake meets a file
// descriptor. Thread: the worker's.
#pragma once

#include "base/buffer.h"
#include "event/task.h"
#include "event/wait.h"
#include "tls/handshake.h"

namespace fairlead::proxy {

// `received` may hold bytes that came before; afterwards it holds what came behind the handshake. On failure
// the alert was sent, best effort. `client`: this side speaks first.
Task<Result<tls::Established>> drive_handshake(FdWaiter& waiter, BorrowedFd fd, tls::Handshake& handshake,
                                               bool client, Buffer& received, TimePoint deadline);

// Appends at least one byte to `in`; kClosed at the peer's FIN, kTimeout.
Task<Result<void>> receive_some(FdWaiter& waiter, BorrowedFd fd, Buffer& in, TimePoint deadline);

// Waits for a started connect() and reports how it ended.
Task<Result<void>> finish_connect(Reactor& reactor, BorrowedFd fd, TimePoint deadline);

}  // namespace fairlead::proxy
