// One end of `handover.sock`: messages out in order, as fast as the other side reads, and in until something
// is wrong. Bounded: kMaxQueuedMessages. Thread: the keeper's.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "contract/hand_over.h"
#include "event/reactor.h"

namespace fairlead::keeper {

class HandOverLine final : public IoHandler, public Deferred {
 public:
  static constexpr size_t kMaxQueuedMessages = 4096;  // kMaxPods and what happens to them meanwhile

  using Heard = std::function<void(contract::hand_over::Received)>;
  using Lost = std::function<void(const std::string& why)>;  // once; nothing is heard after it
  // Refuses a peer of another user. Neither callback runs before the caller is back in the reactor.
  static Result<std::unique_ptr<HandOverLine>> open(Reactor& reactor, UniqueFd socket, Heard heard,
                                                    Lost lost);
  ~HandOverLine() override;

  void send(contract::hand_over::Message message, std::vector<UniqueFd> fds = {});
  void hang_up() noexcept;  // nothing is heard any more
  [[nodiscard]] bool is_open() const noexcept { return static_cast<bool>(socket_); }
  [[nodiscard]] pid_t peer() const noexcept { return peer_; }

 private:
  struct Outgoing {
    Buffer bytes;
    std::vector<UniqueFd> fds;
  };
  HandOverLine(Reactor& reactor, UniqueFd socket, pid_t peer, Heard heard, Lost lost);
  void on_io(uint32_t events) noexcept override;
  void on_retry() noexcept { flush(); }
  void flush();
  void lose(const std::string& why);

  Reactor& reactor_;
  UniqueFd socket_;
  pid_t peer_;
  Heard heard_;
  Lost lost_;
  std::deque<Outgoing> outgoing_;
  Alarm<HandOverLine, &HandOverLine::on_retry> retry_;
};

}  // namespace fairlead::keeper
