// How a relay ends, and who hears of it.
#pragma once

namespace fairlead::proxy {

class RelayOwner {
 public:
  // Before the socket to the application is closed, in whatever way: its port may be another connection's at
  // once.
  virtual void on_relay_closing() noexcept = 0;
  // Once, when both directions are over. `orderly`: every byte was delivered and both ends closed; otherwise
  // the sockets have been reset. The relay is destroyed by its owner, at the end of the turn at the earliest.
  virtual void on_relay_end(bool orderly) noexcept = 0;

 protected:
  ~RelayOwner() = default;
};

}  // namespace fairlead::proxy
