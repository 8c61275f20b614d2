#include "proxy/record_socket.h"

#include <sys/socket.h>

#include <array>

namespace fairlead::proxy {
namespace {

constexpr std::array<uint8_t, 5> kKeyUpdate = {24, 0, 0, 1, 0};  // update_not_requested (RFC 8446 §4.6.3)
constexpr std::array<uint8_t, 2> kCloseNotify = {1, 0};

const tls::KernelTls& kernel() noexcept {
  static const tls::KernelTls kernel;
  return kernel;
}

}  // namespace

RecordSocket::Place RecordSocket::hand_over(tls::Direction direction,
                                            const tls::RecordState& state) noexcept {
  const bool taken = kernel().prepare(fd_) && kernel().hand_over(fd_, direction, state);
  return taken ? Place::kKernel : Place::kRefused;
}

uint64_t RecordSocket::records(tls::Direction direction) const {
  const bool sending = direction == tls::Direction::kTransmit;
  const uint64_t ours = sending ? sealer_.records() : opener_.records();
  if ((sending ? transmits_ : receives_) != Place::kKernel) return ours;
  const auto next = kernel().sequence(fd_, direction);
  const uint64_t taken_over = (sending ? sealer_.state() : opener_.state()).sequence;
  return next && *next >= taken_over ? ours + *next - taken_over : ours;
}

// ---- receiving
// --------------------------------------------------------------------------------------------------------

Result<net::IoResult> RecordSocket::read(size_t maximum) {
  if (receives_ == Place::kMoving && received_.empty() && opener_.movable())
    receives_ = hand_over(tls::Direction::kReceive, opener_.state());
  if (receives_ == Place::kKernel) return read_kernel(maximum);
  auto room = received_.prepare(kReadChunk);
  // On its way to the kernel: to the end of the record, and not a byte further.
  if (receives_ == Place::kMoving) {
    const size_t missing = tls::missing_of_record(received_.span());
    room = room.first(std::min(room.size(), std::max<size_t>(missing, 1)));
  }
  FL_TRY_ASSIGN(const net::IoResult got, net::receive(fd_, room));
  received_.commit(got.bytes);
  read_all_ =
      got.state == net::IoState::kWouldBlock || (got.bytes < room.size() && receives_ != Place::kMoving);
  return got;
}

// Records end where they end: only a would-block says that there is nothing.
Result<net::IoResult> RecordSocket::read_kernel(size_t maximum) {
  const auto room = received_.prepare(maximum);
  FL_TRY_ASSIGN(const auto got, kernel().receive(fd_, room.first(std::min(room.size(), maximum))));
  received_.commit(got.bytes);
  type_ = got.type;
  pending_record_ = got.state == net::IoState::kDone;
  read_all_ = got.state == net::IoState::kWouldBlock;
  return net::IoResult{got.state, got.bytes};
}

Result<tls::RecordOpener::Opened> RecordSocket::next() {
  if (receives_ != Place::kKernel) {
    FL_TRY_ASSIGN(const tls::RecordOpener::Opened opened, opener_.open(received_.span()));
    received_.consume(opened.consumed);
    return opened;
  }
  if (!pending_record_) return tls::RecordOpener::Opened{};
  pending_record_ = false;
  FL_TRY_ASSIGN(const tls::RecordOpener::Opened opened, opener_.opened_by_kernel(type_, received_.span()));
  received_.consume(received_.size());
  if (opened.event == tls::RecordOpener::Event::kKeyUpdate) FL_TRY(follow_key_update());
  return opened;
}

// Up to Linux 6.13 a key stays for good, and every record behind this one is unreadable.
Result<void> RecordSocket::follow_key_update() {
  return kernel().hand_over(fd_, tls::Direction::kReceive, opener_.state());
}

void RecordSocket::rest() noexcept {
  if (received_.empty()) received_.release();
}

// ---- sending
// ----------------------------------------------------------------------------------------------------------

// What is sealed stays in order before what is not; while the socket is full plaintext waits with the caller,
// whose limit on it holds back the readers of all streams.
Result<size_t> RecordSocket::write(std::span<const uint8_t> plaintext, bool more) {
  FL_TRY(flush());
  if (waits()) return size_t{0};
  if (transmits_ == Place::kMoving) transmits_ = hand_over(tls::Direction::kTransmit, sealer_.state());
  if (plaintext.empty()) return size_t{0};
  if (transmits_ == Place::kKernel) return write_kernel(plaintext, more);
  if (sealer_.wants_key_update()) FL_TRY(sealer_.update_key(sealed_));
  FL_TRY(sealer_.seal(tls::ContentType::kApplicationData, plaintext, sealed_));
  FL_TRY(flush());
  return plaintext.size();
}

Result<size_t> RecordSocket::write_kernel(std::span<const uint8_t> plaintext, bool more) {
  size_t taken = 0;
  while (taken < plaintext.size()) {
    FL_TRY_ASSIGN(const net::IoResult sent, net::send(fd_, plaintext.subspan(taken), more));
    if (sent.state == net::IoState::kWouldBlock) break;
    taken += sent.bytes;
    FL_TRY(count_sent(sent.bytes));
  }
  return taken;
}

Result<net::IoResult> RecordSocket::drain(net::Pipe& pipe) {
  FL_TRY_ASSIGN(const net::IoResult sent, pipe.drain(fd_));
  FL_TRY(count_sent(sent.bytes));
  return sent;
}

// Nobody else looks at the limit of AES-GCM (RFC 8446 §5.5) where the kernel seals.
Result<void> RecordSocket::count_sent(size_t bytes) {
  sent_at_most_ += bytes / tls::kMaxPlaintext + 1;
  if (sent_at_most_ < tls::kWantKeyUpdate || owes_update_) return {};
  FL_TRY_ASSIGN(const uint64_t next, kernel().sequence(fd_, tls::Direction::kTransmit));
  sent_at_most_ = next;
  if (next >= tls::kMaxRecordsPerKey - tls::kWantKeyUpdate / 2)
    return Error(ErrorKind::kExhausted, "TLS record: AES-GCM limit");
  if (next >= tls::kWantKeyUpdate) (rekeys_ ? owes_update_ : worn_) = true;
  return {};
}

Result<void> RecordSocket::flush() {
  while (!sealed_.empty()) {
    FL_TRY_ASSIGN(const net::IoResult sent, net::send(fd_, sealed_.span()));
    if (sent.state == net::IoState::kWouldBlock) return {};
    sealed_.consume(sent.bytes);
  }
  sealed_.release();
  return owes_update_ || owes_close_ ? flush_owed() : Result<void>();
}

Result<void> RecordSocket::flush_owed() {
  using State = net::IoState;
  if (owes_update_) {
    FL_TRY_ASSIGN(const State sent, kernel().send(fd_, tls::ContentType::kHandshake, kKeyUpdate));
    if (sent == State::kWouldBlock) return {};
    FL_TRY_ASSIGN(const tls::RecordState next, sealer_.next_state());
    FL_TRY(kernel().hand_over(fd_, tls::Direction::kTransmit, next));
    owes_update_ = worn_ = false;
    sent_at_most_ = 0;
  }
  if (owes_close_) {
    FL_TRY_ASSIGN(const State sent, kernel().send(fd_, tls::ContentType::kAlert, kCloseNotify));
    owes_close_ = sent == State::kWouldBlock;
  }
  return {};
}

Result<void> RecordSocket::update_key() {
  if (transmits_ != Place::kKernel) return sealer_.update_key(sealed_);
  owes_update_ = true;
  return {};
}

Result<void> RecordSocket::close_notify() {
  if (transmits_ == Place::kKernel) {
    owes_close_ = true;
  } else {
    FL_TRY(sealer_.close_notify(sealed_));
  }
  return flush();
}

bool RecordSocket::all_left() const noexcept {
  return !waits() && (transmits_ != Place::kKernel || net::all_acknowledged(fd_));
}

void RecordSocket::fatal(tls::Alert alert) noexcept {
  if (transmits_ == Place::kKernel) {
    const std::array<uint8_t, 2> body = {2, static_cast<uint8_t>(alert)};
    (void)kernel().send(fd_, tls::ContentType::kAlert, body);  // ignoring: see the header
  } else if (sealer_.fatal(alert, sealed_)) {
    (void)flush();  // ignoring: see the header
  }
}

}  // namespace fairlead::proxy
