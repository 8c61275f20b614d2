#include "proxy/stream_relay.h"

#include <algorithm>
#include <array>

#include "hbone/limits.h"
#include "net/socket.h"
#include "proxy/limits.h"

namespace fairlead::proxy {

StreamRelay::~StreamRelay() {
  abort();
}

Result<void> StreamRelay::open(hbone::Connection& connection, const hbone::ConnectRequest& request) {
  FL_TRY_ASSIGN(stream_, connection.open(request, *this));
  connection_ = &connection;
  return {};
}

void StreamRelay::adopt(hbone::Connection& connection, hbone::StreamId stream) noexcept {
  connection_ = &connection;
  stream_ = stream;
}

void StreamRelay::refuse(int status) noexcept {
  if (connection_ != nullptr) std::exchange(connection_, nullptr)->respond(stream_, status);
}

Result<void> StreamRelay::take(UniqueFd application, Buffer said) {
  application_ = std::move(application);
  said_ = std::move(said);
  sent_ = said_.size();
  return reactor_.watch(application_, *this);  // reports at once what is ready already
}

Result<void> StreamRelay::speak_early(UniqueFd application, Buffer said) {
  FL_TRY(take(std::move(application), std::move(said)));
  readable_ = true;  // often the first words are there already, and leave together with the request
  read_application();
  return {};
}

UniqueFd StreamRelay::take_back(Buffer& said) noexcept {
  if (application_) reactor_.unwatch(application_);
  said = std::move(said_);
  said_again_ = 0;
  UniqueFd application = std::move(application_);
  abort();
  return application;
}

Result<void> StreamRelay::start(UniqueFd application, Buffer said) {
  FL_TRY(take(std::move(application), std::move(said)));
  return start();
}

Result<void> StreamRelay::start() {
  if (state_ != State::kOpening) return Error(ErrorKind::kClosed, "the application is gone");
  state_ = State::kRelaying;
  if (said_again_ == said_.size()) said_.release();
  writable_ = true;  // a connected socket with nothing in it
  if (has_kept()) {
    flush_pending();
  } else if (peer_ended_) {
    finish_write_side();
  }
  if (state_ == State::kRelaying && has_to_say()) read_application();
  return {};
}

void StreamRelay::abort() noexcept {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  if (connection_ != nullptr) std::exchange(connection_, nullptr)->reset(stream_, hbone::ErrorCode::kCancel);
  release_application(true);
  said_.release();
  answer_.notify_all();
}

void StreamRelay::release_application(bool reset) noexcept {
  if (!application_) return;
  owner_.on_relay_closing();
  reactor_.unwatch(application_);
  if (!reset) net::set_end_on_close(application_);
  application_.reset();
  pending_.release();
  pipe_ = net::Pipe();
}

// The stream or the application broke: what the other side has not got is lost, so it must see a reset.
void StreamRelay::fail(hbone::ErrorCode code) noexcept {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  if (connection_ != nullptr) std::exchange(connection_, nullptr)->reset(stream_, code);
  release_application(true);
  owner_.on_relay_end(false);
}

void StreamRelay::check_over() noexcept {
  if (state_ != State::kRelaying || !write_side_closed_ || !read_side_closed_) return;
  state_ = State::kOver;
  connection_ = nullptr;
  release_application(false);
  owner_.on_relay_end(true);
}

// ---- application → stream
// -------------------------------------------------------------------------------------------

void StreamRelay::on_io(uint32_t events) noexcept {
  if (state_ == State::kOver) return;
  if ((events & EPOLLERR) != 0) return fail(hbone::ErrorCode::kConnectError);
  if ((events & EPOLLOUT) != 0 && state_ == State::kRelaying) {
    writable_ = true;
    if (has_kept()) flush_pending();
  }
  if (state_ != State::kOver && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0) {
    readable_ = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) fin_seen_ = true;
    read_application();
  }
}

void StreamRelay::on_writable() {
  if (application_ && has_to_say()) read_application();
}

// Sends what was said on another stream. False: on_writable() goes on.
bool StreamRelay::say_again() {
  while (said_again_ < said_.size()) {
    const size_t room = std::min(connection_->writable(stream_), said_.size() - said_again_);
    if (room == 0) return false;
    const auto into = connection_->prepare_data(stream_, room);
    std::ranges::copy(said_.span().subspan(said_again_, room), into.begin());
    connection_->commit_data(stream_, room, false);
    said_again_ += room;
  }
  if (state_ == State::kRelaying) said_.release();
  return true;
}

size_t StreamRelay::room() const noexcept {
  if (state_ == State::kOpening && said_.size() >= kMaxEarlyBytes) return 0;
  const size_t room = std::min(connection_->writable(stream_), kReadChunk);
  return state_ == State::kOpening ? std::min(room, kMaxEarlyBytes - said_.size()) : room;
}

void StreamRelay::read_application() {
  const bool early = state_ == State::kOpening;
  if (connection_ == nullptr || !say_again()) return;
  while (readable_ && !read_side_closed_) {
    if (!early && lane_ != nullptr && copies_ == 0) {
      if (send_bulk()) continue;
      if (copies_ == 0) return;
    }
    if (copies_ > 0) --copies_;
    const size_t room = this->room();
    if (room == 0) return;  // on_writable() or start() goes on
    const auto into = connection_->prepare_data(stream_, room);
    auto got = net::receive(application_, into.first(room));
    if (!got) {
      connection_->commit_data(stream_, 0, false);
      return fail(hbone::ErrorCode::kConnectError);
    }
    if (early) {
      said_.append(into.first(got->bytes));
      said_again_ += got->bytes;
    }
    connection_->commit_data(stream_, got->bytes, false);
    if (got->state == net::IoState::kWouldBlock) {
      readable_ = false;
      return;
    }
    if (got->state == net::IoState::kEnd) {
      if (!early) end_stream();  // else start() meets the FIN again
      return;
    }
    sent_ += got->bytes;
    counters_.bytes_from_applications += got->bytes;
    // A short read emptied the socket, and what comes later raises a new edge; a FIN that came with it does
    // not.
    if (got->bytes < room && !fin_seen_) readable_ = false;
  }
}

// True: the loop goes on with this stream. False: copies_ says for how many reads it is to be copied, or it
// is over for now.
bool StreamRelay::send_bulk() {
  using Sent = BulkLane::Sent;
  const auto step = lane_->send_from(application_, stream_);
  if (!step) return fail(hbone::ErrorCode::kConnectError), false;
  switch (step->sent) {
    case Sent::kNot: copies_ = kCopiesBetween; return false;
    case Sent::kLater: return false;
    case Sent::kWouldBlock: readable_ = false; return false;
    case Sent::kEnd: end_stream(); return false;
    case Sent::kMoved: break;
  }
  sent_ += step->bytes;
  counters_.bytes_from_applications += step->bytes;
  counters_.bytes_spliced += step->bytes;
  spliced_ += step->bytes;
  if (step->bytes < kSpliceWorth) copies_ = kCopiesBetween;
  return true;
}

void StreamRelay::end_stream() {
  read_side_closed_ = true;
  connection_->end(stream_);
  leave_tunnel_if_through();
  check_over();
}

// ---- stream → application
// -------------------------------------------------------------------------------------------

void StreamRelay::on_response(int status) {
  status_ = status;
  answer_.notify_all();
}

// Keeps what the application has not taken.
void StreamRelay::keep(hbone::Pieces pieces, size_t written) {
  for (const auto& piece : pieces) {
    const size_t skip = std::min(written, piece.size());
    written -= skip;
    pending_.append(piece.subspan(skip));
  }
}

void StreamRelay::on_data(hbone::Pieces pieces) {
  if (state_ == State::kOver) return;
  std::array<iovec, hbone::kMaxPieces> vector;
  size_t total = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    vector[i] = {const_cast<uint8_t*>(pieces[i].data()), pieces[i].size()};
    total += pieces[i].size();
  }
  received_ += total;
  counters_.bytes_to_applications += total;
  size_t written = 0;
  if (state_ == State::kRelaying && writable_ && !has_kept()) {
    auto sent = net::send(application_, std::span(vector).first(pieces.size()));
    if (!sent) return fail(hbone::ErrorCode::kConnectError);
    if (sent->state == net::IoState::kWouldBlock) writable_ = false;
    written = sent->bytes;
    if (written > 0) connection_->consume(stream_, written);
  }
  if (written == total) return;
  keep(pieces, written);
  // A full socket raises an edge when it has room again, but only if it was found full.
  if (written > 0) flush_pending();
}

// Payload by way of a pipe, as long as the application takes it all: what waits in the pipe is before what
// comes.
Result<net::IoResult> StreamRelay::take_from(BorrowedFd transport, size_t maximum) {
  constexpr net::IoResult kNo{net::IoState::kDone, 0};
  if (state_ != State::kRelaying || !writable_ || has_kept()) return kNo;
  if (!pipe_) {
    auto made = net::Pipe::create(kPipeSize);
    if (!made) return kNo;  // out of file descriptors: copying goes on
    pipe_ = std::move(*made);
  }
  FL_TRY_ASSIGN(net::IoResult taken, pipe_.fill(transport, maximum));
  if (taken.state == net::IoState::kDone) {
    // The kernel gives a record at a time: what there is of them leaves together, which is most of the gain.
    while (taken.bytes < std::min(maximum, kPipeSize)) {
      const auto more = pipe_.fill(transport, maximum - taken.bytes);
      if (!more && more.error().code() != EINVAL) return Error(more.error());
      if (!more || more->state != net::IoState::kDone) break;  // the next call tells why
      taken.bytes += more->bytes;
    }
    received_ += taken.bytes;
    counters_.bytes_to_applications += taken.bytes;
    counters_.bytes_spliced += taken.bytes;
    spliced_ += taken.bytes;
    flush_pipe();
  }
  return taken;
}

void StreamRelay::flush_pipe() {
  auto sent = pipe_.drain(application_);
  if (!sent) return fail(hbone::ErrorCode::kConnectError);
  if (!pipe_.empty()) writable_ = false;
  if (sent->bytes > 0 && connection_ != nullptr) connection_->consume(stream_, sent->bytes);
}

void StreamRelay::flush_pending() {
  if (!pipe_.empty()) flush_pipe();
  if (state_ != State::kRelaying || !pipe_.empty()) return;
  size_t written = 0;
  while (written < pending_.size()) {
    auto sent = net::send(application_, pending_.span().subspan(written));
    if (!sent) return fail(hbone::ErrorCode::kConnectError);
    if (sent->state == net::IoState::kWouldBlock) {
      writable_ = false;
      break;
    }
    written += sent->bytes;
  }
  pending_.consume(written);
  if (pending_.empty()) pending_.release();
  if (written > 0 && connection_ != nullptr) connection_->consume(stream_, written);
  if (state_ == State::kRelaying && pending_.empty() && peer_ended_) finish_write_side();
}

// Both directions carry END_STREAM: the connection has forgotten the stream, and its tunnel may go while the
// application still reads what waits for it.
void StreamRelay::leave_tunnel_if_through() noexcept {
  if (peer_ended_ && read_side_closed_) connection_ = nullptr;
}

void StreamRelay::on_end() {
  peer_ended_ = true;
  leave_tunnel_if_through();
  if (state_ == State::kRelaying && !has_kept()) finish_write_side();
}

void StreamRelay::finish_write_side() {
  if (write_side_closed_) return;
  write_side_closed_ = true;
  if (!read_side_closed_) net::shutdown_write(application_);  // else close() sends the FIN
  check_over();
}

void StreamRelay::on_reset(hbone::ErrorCode code) {
  connection_ = nullptr;
  refused_ = code == hbone::ErrorCode::kRefusedStream && status_ == 0;
  if (status_ == 0 || status_ == 200) status_ = -1;  // a refusal's status stays: the stream was to end anyway
  if (state_ == State::kOpening) {
    answer_.notify_all();
    return;
  }
  fail(hbone::ErrorCode::kCancel);
}

}  // namespace fairlead::proxy
