// The successor's side of moving connections from an old proxy (contract/parcels.h): gathers parcels, has
// them built, waits for Commit. Nothing of a connection is touched before it. Whether Commit was said is
// never a guess: on the way out the socket is shut first, and what lies in it then decides – behind that the
// old proxy cannot say it any more. Thread: the control thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "contract/parcels.h"
#include "event/reactor.h"
#include "proxy/moving.h"

namespace fairlead::proxy {

class ParcelTaker final : private IoHandler, public Deferred {
 public:
  class Owner {
   public:
    // All are there, by worker of the old proxy; unpacked() is the answer.
    virtual void unpack(std::vector<std::vector<Parcel>> by_worker) = 0;
    virtual void taken() = 0;                                // Commit was said
    virtual void taking_failed(const std::string& why) = 0;  // it never was

   protected:
    ~Owner() = default;
  };
  static Result<std::unique_ptr<ParcelTaker>> open(Reactor& reactor, UniqueFd socket, Owner& owner);
  ~ParcelTaker() override;
  void unpacked(const Result<void>& result);

 private:
  enum class State { kBegin, kParts, kUnpacking, kPrepared, kDone };
  static constexpr size_t kMaxWorkers = 1024;
  ParcelTaker(Reactor& reactor, UniqueFd socket, Owner& owner);
  void on_io(uint32_t events) noexcept override;
  void on_deadline() noexcept { fail("the old proxy did not finish in time"); }
  void heard(contract::parcels::Received received);
  Result<void> part(const contract::parcels::Part& part, std::vector<UniqueFd> fds);
  void all(const contract::parcels::End& end);
  void take();
  void fail(const std::string& why);
  bool committed_after_all();
  void close() noexcept;

  Reactor& reactor_;
  UniqueFd socket_;
  Owner& owner_;
  State state_ = State::kBegin;
  std::vector<std::vector<Parcel>> by_worker_;
  Parcel open_;  // whose last part has not come yet
  bool in_parcel_ = false;
  uint16_t open_worker_ = 0;
  contract::parcels::End got_;
  Alarm<ParcelTaker, &ParcelTaker::on_deadline> deadline_;
};

}  // namespace fairlead::proxy
