#include "proxy/parcel_giver.h"

#include <string.h>

#include <algorithm>

#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

namespace parcels = contract::parcels;

constexpr std::chrono::milliseconds kRetry{20};  // where no event tells that the socket takes more

}  // namespace

Result<std::unique_ptr<ParcelGiver>> ParcelGiver::open(Reactor& reactor, UniqueFd socket, Owner& owner) {
  std::unique_ptr<ParcelGiver> giver(new ParcelGiver(reactor, std::move(socket), owner));
  FL_TRY(reactor.watch(giver->socket_, *giver));
  reactor.timers().arm(giver->deadline_, reactor.now() + kMoveDeadline);
  return giver;
}

ParcelGiver::ParcelGiver(Reactor& reactor, UniqueFd socket, Owner& owner)
    : reactor_(reactor), socket_(std::move(socket)), owner_(owner), deadline_(*this), retry_(*this) {}

ParcelGiver::~ParcelGiver() {
  close();
}

void ParcelGiver::close() noexcept {
  deadline_.cancel();
  retry_.cancel();
  if (socket_) reactor_.unwatch(socket_);
  socket_.reset();
  for (Load& load : loads_) {
    for (Parcel& parcel : load.parcels) {
      if (!parcel.bytes.empty()) ::explicit_bzero(parcel.bytes.data(), parcel.bytes.size());
    }
  }
  loads_.clear();
}

void ParcelGiver::send(std::vector<Load> loads) {
  if (state_ != State::kPacking) return;
  loads_ = std::move(loads);
  for (const Load& load : loads_) {
    for (const Parcel& parcel : load.parcels) {
      if (parcel.bytes.size() > parcels::kMaxParcel || parcel.fds.size() > parcels::kMaxParcelFds)
        return fail("a connection has more state than a hand-over carries");
      ++totals_.parcels;
      totals_.bytes += parcel.bytes.size();
      totals_.fds += static_cast<uint32_t>(parcel.fds.size());
    }
  }
  if (totals_.parcels > parcels::kMaxParcels || totals_.bytes > parcels::kMaxTotal)
    return fail("there are more connections than a hand-over carries");
  state_ = State::kSending;
  flush();
}

void ParcelGiver::on_io(uint32_t) noexcept {
  while (socket_) {
    auto received = parcels::receive(socket_);
    if (!received) return fail(received.error().text());
    if (received->state == contract::ReceiveState::kWouldBlock) break;
    if (received->state == contract::ReceiveState::kClosed) return fail("the new proxy is gone");
    if (!heard(received->message)) return fail("the new proxy breaks the protocol");
  }
  flush();
}

bool ParcelGiver::heard(const parcels::Message& message) {
  if (const auto* refused = std::get_if<parcels::Refused>(&message)) {
    fail("the new proxy refuses: " + refused->reason);
    return true;
  }
  if (const auto* prepared = std::get_if<parcels::Prepared>(&message)) {
    if (state_ != State::kWaiting || prepared->parcels != totals_.parcels) return false;
    state_ = State::kCommitting;
    return true;  // flush() says Commit
  }
  if (!std::holds_alternative<parcels::Taken>(message) || state_ != State::kCommitted) return false;
  state_ = State::kDone;
  close();
  owner_.giving_done();
  return true;
}

void ParcelGiver::flush() {
  while (socket_ && (state_ == State::kSending || state_ == State::kCommitting)) {
    const auto sent = state_ == State::kSending ? send_next() : parcels::send(socket_, parcels::Commit{});
    if (!sent) return fail(sent.error().text());
    if (!*sent) return reactor_.timers().arm(retry_, reactor_.now() + kRetry);
    if (state_ == State::kCommitting) return commit();
  }
}

// Begin, the parts of all parcels of all loads, End.
Result<bool> ParcelGiver::send_next() {
  if (!begun_) {
    FL_TRY_ASSIGN(begun_, parcels::send(socket_, parcels::Begin{kParcelVersion}));
    return begun_;
  }
  while (load_ < loads_.size() && parcel_ == loads_[load_].parcels.size()) {
    ++load_;
    parcel_ = 0;
  }
  if (load_ < loads_.size()) return send_part(loads_[load_]);
  FL_TRY_ASSIGN(const bool sent, parcels::send(socket_, totals_));
  if (sent) state_ = State::kWaiting;
  return sent;
}

Result<bool> ParcelGiver::send_part(Load& load) {
  const Parcel& parcel = load.parcels[parcel_];
  const size_t bytes = std::min(parcel.bytes.size() - sent_, parcels::kMaxPart);
  const size_t count = std::min(parcel.fds.size() - sent_fds_, contract::kMaxFds);
  std::vector<BorrowedFd> fds;
  for (size_t i = 0; i < count; ++i) fds.emplace_back(parcel.fds[sent_fds_ + i]);
  parcels::Part part;
  part.worker = load.worker;
  part.last = sent_ + bytes == parcel.bytes.size() && sent_fds_ + count == parcel.fds.size();
  part.fds = static_cast<uint8_t>(count);
  part.bytes = parcel.bytes.span().subspan(sent_, bytes);
  FL_TRY_ASSIGN(const bool sent, parcels::send(socket_, part, fds));
  if (!sent) return false;
  sent_ += bytes;
  sent_fds_ += count;
  if (!part.last) return true;
  ++parcel_;
  sent_ = sent_fds_ = 0;
  return true;
}

// It lies in the successor's queue: whatever happens now, nothing here may touch a connection again.
void ParcelGiver::commit() {
  state_ = State::kCommitted;
  reactor_.timers().arm(deadline_, reactor_.now() + kTakenDeadline);
  owner_.committed();
}

void ParcelGiver::fail(const std::string& why) {
  if (state_ == State::kDone) return;
  const bool committed = state_ == State::kCommitted;
  state_ = State::kDone;
  close();
  committed ? owner_.giving_done() : owner_.giving_failed(why);
}

void ParcelGiver::on_deadline() noexcept {
  fail("the new proxy did not take the connections in time");
}

}  // namespace fairlead::proxy
