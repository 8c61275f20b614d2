#include "proxy/record_socket.h"

#include "proxy/limits.h"

namespace fairlead::proxy {

// ---- receiving
// --------------------------------------------------------------------------------------------------------

Result<net::IoResult> RecordSocket::read() {
  const auto room = received_.prepare(kReadChunk);
  FL_TRY_ASSIGN(const net::IoResult got, net::receive(fd_, room));
  received_.commit(got.bytes);
  read_all_ = got.state == net::IoState::kWouldBlock || got.bytes < room.size();
  return got;
}

Result<tls::RecordOpener::Opened> RecordSocket::next() {
  FL_TRY_ASSIGN(tls::RecordOpener::Opened opened, opener_.open(received_.span()));
  received_.consume(opened.consumed);
  return opened;
}

void RecordSocket::rest() noexcept {
  if (received_.empty()) received_.release();
}

// ---- sending
// ----------------------------------------------------------------------------------------------------------

// What is sealed stays in order before what is not; while the socket is full plaintext waits with the caller,
// whose limit on it holds back the readers of all streams.
Result<size_t> RecordSocket::write(std::span<const uint8_t> plaintext) {
  FL_TRY(flush());
  if (waits() || plaintext.empty()) return size_t{0};
  if (sealer_.wants_key_update()) FL_TRY(sealer_.update_key(sealed_));
  FL_TRY(sealer_.seal(tls::ContentType::kApplicationData, plaintext, sealed_));
  FL_TRY(flush());
  return plaintext.size();
}

Result<void> RecordSocket::flush() {
  while (!sealed_.empty()) {
    FL_TRY_ASSIGN(const net::IoResult sent, net::send(fd_, sealed_.span()));
    if (sent.state == net::IoState::kWouldBlock) return {};
    sealed_.consume(sent.bytes);
  }
  sealed_.release();
  return {};
}

Result<void> RecordSocket::update_key() {
  return sealer_.update_key(sealed_);
}

Result<void> RecordSocket::close_notify() {
  FL_TRY(sealer_.close_notify(sealed_));
  return flush();
}

void RecordSocket::fatal(tls::Alert alert) noexcept {
  if (sealer_.fatal(alert, sealed_)) (void)flush();  // ignoring: see the header
}

}  // namespace fairlead::proxy
