#include "proxy/parcel_taker.h"

#include <string.h>
#include <sys/socket.h>

#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

namespace parcels = contract::parcels;

// A buffer that grows by itself leaves copies behind.
void append_wiping(Buffer& to, std::span<const uint8_t> bytes) {
  if (to.size() + bytes.size() > to.capacity() && !to.empty()) {
    Buffer larger;
    (void)larger.prepare(2 * (to.size() + bytes.size()));
    larger.append(to.span());
    ::explicit_bzero(to.data(), to.size());
    to = std::move(larger);
  }
  to.append(bytes);
}

}  // namespace

Result<std::unique_ptr<ParcelTaker>> ParcelTaker::open(Reactor& reactor, UniqueFd socket, Owner& owner) {
  std::unique_ptr<ParcelTaker> taker(new ParcelTaker(reactor, std::move(socket), owner));
  FL_TRY(reactor.watch(taker->socket_, *taker));
  reactor.timers().arm(taker->deadline_, reactor.now() + kMoveDeadline);
  return taker;
}

ParcelTaker::ParcelTaker(Reactor& reactor, UniqueFd socket, Owner& owner)
    : reactor_(reactor), socket_(std::move(socket)), owner_(owner), deadline_(*this) {}

ParcelTaker::~ParcelTaker() {
  close();
}

void ParcelTaker::close() noexcept {
  deadline_.cancel();
  if (socket_) reactor_.unwatch(socket_);
  socket_.reset();
}

void ParcelTaker::on_io(uint32_t) noexcept {
  while (socket_) {
    auto received = parcels::receive(socket_);
    if (!received) return fail(received.error().text());
    if (received->state == contract::ReceiveState::kWouldBlock) return;
    if (received->state == contract::ReceiveState::kClosed) return fail("the old proxy has taken it back");
    heard(std::move(*received));
  }
}

void ParcelTaker::heard(parcels::Received received) {
  const auto& message = received.message;
  if (const auto* begin = std::get_if<parcels::Begin>(&message);
      begin != nullptr && state_ == State::kBegin) {
    if (begin->version < kOldestParcelVersion || begin->version > kParcelVersion)
      return fail(fmt::format("connections of version {} are unknown", begin->version));
    state_ = State::kParts;
    return;
  }
  if (const auto* piece = std::get_if<parcels::Part>(&message); piece != nullptr && state_ == State::kParts) {
    const Result<void> kept = part(*piece, std::move(received.fds));
    if (!kept) fail(kept.error().text());
    return;
  }
  if (const auto* end = std::get_if<parcels::End>(&message); end != nullptr && state_ == State::kParts)
    return all(*end);
  if (std::holds_alternative<parcels::Commit>(message) && state_ == State::kPrepared) return take();
  fail("the old proxy breaks the protocol");
}

Result<void> ParcelTaker::part(const parcels::Part& part, std::vector<UniqueFd> fds) {
  const auto broken = [](const char* what) { return Error(ErrorKind::kProtocol, what); };
  if (part.worker >= kMaxWorkers || (in_parcel_ && part.worker != open_worker_))
    return broken("a parcel of no worker");
  in_parcel_ = true;
  open_worker_ = part.worker;
  got_.bytes += part.bytes.size();
  got_.fds += static_cast<uint32_t>(fds.size());
  if (open_.bytes.size() + part.bytes.size() > parcels::kMaxParcel || got_.bytes > parcels::kMaxTotal ||
      open_.fds.size() + fds.size() > parcels::kMaxParcelFds || got_.parcels >= parcels::kMaxParcels)
    return broken("more than a hand-over carries");
  append_wiping(open_.bytes, part.bytes);
  for (UniqueFd& fd : fds) open_.fds.push_back(std::move(fd));
  if (!part.last) return {};
  if (by_worker_.size() <= part.worker) by_worker_.resize(part.worker + size_t{1});
  by_worker_[part.worker].push_back(std::exchange(open_, Parcel()));
  in_parcel_ = false;
  ++got_.parcels;
  return {};
}

void ParcelTaker::all(const parcels::End& end) {
  if (in_parcel_ || end.parcels != got_.parcels || end.bytes != got_.bytes || end.fds != got_.fds)
    return fail("something of the connections was lost");
  state_ = State::kUnpacking;
  owner_.unpack(std::move(by_worker_));
}

void ParcelTaker::unpacked(const Result<void>& result) {
  if (state_ != State::kUnpacking) return;
  if (!result) return fail(result.error().text());
  state_ = State::kPrepared;
  const auto sent = parcels::send(socket_, parcels::Prepared{got_.parcels});
  if (!sent || !*sent) fail("the old proxy cannot be told");
}

void ParcelTaker::take() {
  state_ = State::kDone;
  owner_.taken();
  (void)!parcels::send(socket_, parcels::Taken{}).has_value();  // ignoring: it ends by itself soon
  close();
}

bool ParcelTaker::committed_after_all() {
  (void)::shutdown(socket_.get(), SHUT_RDWR);  // what was sent before can still be read, nothing can be sent
  if (state_ != State::kPrepared) return false;
  for (;;) {
    const auto received = parcels::receive(socket_);
    if (!received || received->state != contract::ReceiveState::kMessage) return false;
    if (std::holds_alternative<parcels::Commit>(received->message)) return true;
  }
}

void ParcelTaker::fail(const std::string& why) {
  if (state_ == State::kDone) return;
  if (state_ != State::kPrepared) (void)!parcels::send(socket_, parcels::Refused{why}).has_value();
  if (committed_after_all()) return take();
  state_ = State::kDone;
  close();
  owner_.taking_failed(why);
}

}  // namespace fairlead::proxy
