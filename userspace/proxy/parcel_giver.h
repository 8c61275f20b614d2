// The old proxy's side of moving connections to a successor (contract/parcels.h): sends parcels, waits until
// they are built, says Commit. Thread: the control thread. Ownership: owns the socket and what is not sent
// yet.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "contract/parcels.h"
#include "event/reactor.h"
#include "proxy/moving.h"

namespace fairlead::proxy {

class ParcelGiver final : private IoHandler, public Deferred {
 public:
  class Owner {
   public:
    virtual void giving_failed(const std::string& why) = 0;  // the successor has touched nothing
    virtual void committed() = 0;                            // the connections are the successor's
    virtual void giving_done() = 0;                          // it has said so, or will not any more

   protected:
    ~Owner() = default;
  };
  // What one worker packed.
  struct Load {
    uint16_t worker = 0;
    std::vector<Parcel> parcels;
  };

  // From here on the successor may refuse, or vanish. The deadline runs.
  static Result<std::unique_ptr<ParcelGiver>> open(Reactor& reactor, UniqueFd socket, Owner& owner);
  ~ParcelGiver() override;
  void send(std::vector<Load> loads);
  void give_up(const std::string& why) { fail(why); }

 private:
  enum class State { kPacking, kSending, kWaiting, kCommitting, kCommitted, kDone };
  ParcelGiver(Reactor& reactor, UniqueFd socket, Owner& owner);
  void on_io(uint32_t events) noexcept override;
  void on_deadline() noexcept;
  void on_retry() noexcept { flush(); }
  bool heard(const contract::parcels::Message& message);
  void flush();
  Result<bool> send_next();
  Result<bool> send_part(Load& load);
  void commit();
  void fail(const std::string& why);
  void close() noexcept;

  Reactor& reactor_;
  UniqueFd socket_;
  Owner& owner_;
  State state_ = State::kPacking;
  bool begun_ = false;
  std::vector<Load> loads_;
  size_t load_ = 0;      // that is being sent
  size_t parcel_ = 0;    // of it
  size_t sent_ = 0;      // bytes of that
  size_t sent_fds_ = 0;  // and fds
  contract::parcels::End totals_;
  Alarm<ParcelGiver, &ParcelGiver::on_deadline> deadline_;
  Alarm<ParcelGiver, &ParcelGiver::on_retry> retry_;
};

}  // namespace fairlead::proxy
