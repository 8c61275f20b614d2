#include "tls/record.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "tls/key_memory.h"
#include "tls/key_schedule.h"
#include "tls/openssl.h"

namespace fairlead::tls {
namespace {

constexpr int kMaxKeyUpdates = 1 << 20;  // over the life of one connection
constexpr int kMaxTickets = 64;          // over the life of one connection; servers send one to four
constexpr int kMaxIdleRecords = 64;      // without payload in a row: empty data, tickets, key updates
constexpr size_t kMaxHandshakeMessage = 16384;
constexpr size_t kTag = 16;

constexpr uint8_t kNewSessionTicket = 4;
constexpr uint8_t kKeyUpdate = 24;
constexpr uint8_t kWarning = 1;
constexpr uint8_t kFatal = 2;

using Nonce = std::array<uint8_t, 12>;

Nonce nonce_of(const RecordState& state) noexcept {
  Nonce nonce = state.iv;
  for (size_t i = 0; i < 8; ++i) nonce[11 - i] ^= static_cast<uint8_t>(state.sequence >> (8 * i));
  return nonce;
}

void write_header(uint8_t* out, size_t length) noexcept {
  out[0] = static_cast<uint8_t>(ContentType::kApplicationData);  // the outer type is always application data
  out[1] = 3;
  out[2] = 3;
  out[3] = static_cast<uint8_t>(length >> 8);
  out[4] = static_cast<uint8_t>(length);
}

// Keys the context, made on the first call: a key change keeps its memory.
Result<void> set_key(CipherContextPtr& context, const RecordState& state, bool seal) {
  if (context == nullptr) context.reset(EVP_CIPHER_CTX_new());
  if (context == nullptr || EVP_CipherInit_ex2(context.get(), aes_gcm(state.key_length), state.key.data(),
                                               nullptr, seal ? 1 : 0, nullptr) != 1) {
    return openssl_error("AES-GCM key");
  }
  return {};
}

}  // namespace

size_t missing_of_record(std::span<const uint8_t> in) noexcept {
  if (in.size() < kRecordHeader) return kRecordHeader - in.size();
  const size_t whole = kRecordHeader + (static_cast<size_t>(in[3]) << 8 | in[4]);
  return whole - std::min(whole, in.size());
}

// ---- sealing
// ----------------------------------------------------------------------------------------------------------

struct RecordSealer::Impl : InKeyMemory {
  RecordState state;
  CipherContextPtr cipher;
  uint64_t records = 0;

  Result<void> rekey(const TrafficSecret& secret) {
    FL_TRY_ASSIGN(state, derive_state(secret));
    return set_key(cipher, state, true);
  }

  Result<void> wake() { return cipher != nullptr ? Result<void>() : set_key(cipher, state, true); }

  // One record of at most kMaxPlaintext; `out` has the room.
  bool seal_one(ContentType type, std::span<const uint8_t> plaintext, uint8_t* out) noexcept {
    const size_t inner = plaintext.size() + 1;
    write_header(out, inner + kTag);
    const Nonce nonce = nonce_of(state);
    const auto type_byte = static_cast<uint8_t>(type);
    uint8_t* body = out + kRecordHeader;
    EVP_CIPHER_CTX* context = cipher.get();
    int length = 0;
    const bool good = EVP_CipherInit_ex2(context, nullptr, nullptr, nonce.data(), -1, nullptr) == 1 &&
                      EVP_CipherUpdate(context, nullptr, &length, out, kRecordHeader) == 1 &&
                      (plaintext.empty() || EVP_CipherUpdate(context, body, &length, plaintext.data(),
                                                             static_cast<int>(plaintext.size())) == 1) &&
                      EVP_CipherUpdate(context, body + plaintext.size(), &length, &type_byte, 1) == 1 &&
                      EVP_CipherFinal_ex(context, body + inner, &length) == 1 &&
                      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTag, body + inner) == 1;
    ++state.sequence;
    ++records;
    return good;
  }
};

RecordSealer::RecordSealer(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
RecordSealer::RecordSealer(RecordSealer&&) noexcept = default;
RecordSealer& RecordSealer::operator=(RecordSealer&&) noexcept = default;
RecordSealer::~RecordSealer() = default;

Result<RecordSealer> RecordSealer::create(const TrafficSecret& secret) {
  auto impl = std::make_unique<Impl>();
  FL_TRY(impl->rekey(secret));
  return RecordSealer(std::move(impl));
}

Result<RecordSealer> RecordSealer::resume(const RecordState& state, uint64_t records) {
  FL_TRY_ASSIGN(RecordSealer made, create(state.secret));
  made.impl_->state.sequence = state.sequence;
  made.impl_->records = records;
  return made;
}

Result<void> RecordSealer::seal(ContentType type, std::span<const uint8_t> plaintext, Buffer& out) {
  const size_t records = std::max<size_t>(1, (plaintext.size() + kMaxPlaintext - 1) / kMaxPlaintext);
  if (impl_->state.sequence + records > kMaxRecordsPerKey)
    return Error(ErrorKind::kExhausted, "TLS record: AES-GCM limit");
  FL_TRY(impl_->wake());
  uint8_t* at = out.prepare(plaintext.size() + records * kRecordOverhead).data();
  size_t total = 0;
  do {
    const auto part = plaintext.first(std::min(plaintext.size(), kMaxPlaintext));
    plaintext = plaintext.subspan(part.size());
    if (!impl_->seal_one(type, part, at + total)) return openssl_error("AES-GCM seal");
    total += part.size() + kRecordOverhead;
  } while (!plaintext.empty());
  out.commit(total);
  return {};
}

Result<void> RecordSealer::close_notify(Buffer& out) {
  const std::array<uint8_t, 2> body = {kWarning, static_cast<uint8_t>(Alert::kCloseNotify)};
  return seal(ContentType::kAlert, body, out);
}

Result<void> RecordSealer::fatal(Alert alert, Buffer& out) {
  const std::array<uint8_t, 2> body = {kFatal, static_cast<uint8_t>(alert)};
  return seal(ContentType::kAlert, body, out);
}

Result<void> RecordSealer::update_key(Buffer& out) {
  const std::array<uint8_t, 5> message = {kKeyUpdate, 0, 0, 1, 0};  // update_not_requested
  FL_TRY(seal(ContentType::kHandshake, message, out));
  FL_TRY_ASSIGN(const TrafficSecret next, next_secret(impl_->state.secret));
  return impl_->rekey(next);
}

Result<RecordState> RecordSealer::next_state() {
  FL_TRY_ASSIGN(const TrafficSecret next, next_secret(impl_->state.secret));
  FL_TRY(impl_->rekey(next));
  return impl_->state;
}

void RecordSealer::rest() noexcept {
  impl_->cipher.reset();
}
bool RecordSealer::wants_key_update() const noexcept {
  return impl_->state.sequence >= kWantKeyUpdate;
}
uint64_t RecordSealer::records() const noexcept {
  return impl_->records;
}
RecordState RecordSealer::state() const {
  return impl_->state;
}

// ---- opening
// ----------------------------------------------------------------------------------------------------------

struct RecordOpener::Impl : InKeyMemory {
  RecordState state;
  CipherContextPtr cipher;
  uint64_t records = 0;
  Buffer handshake;  // a message that is split over records
  int key_updates = 0;
  int tickets = 0;
  int idle_records = 0;
  Alert owed = Alert::kCloseNotify;
  bool dead = false;
  bool closed = false;

  Result<void> rekey(const TrafficSecret& secret) {
    FL_TRY_ASSIGN(state, derive_state(secret));
    return set_key(cipher, state, false);
  }

  Result<void> wake() { return cipher != nullptr ? Result<void>() : set_key(cipher, state, false); }

  Error refuse(Alert alert, std::string_view why) {
    owed = alert;
    return {ErrorKind::kProtocol, fmt::format("TLS record: {}", why)};
  }

  // Decrypts the body in place.
  bool decrypt(uint8_t* record, size_t length) noexcept {
    const Nonce nonce = nonce_of(state);
    uint8_t* body = record + kRecordHeader;
    const int inner = static_cast<int>(length - kTag);
    EVP_CIPHER_CTX* context = cipher.get();
    int done = 0;
    const bool good = EVP_CipherInit_ex2(context, nullptr, nullptr, nonce.data(), -1, nullptr) == 1 &&
                      EVP_CipherUpdate(context, nullptr, &done, record, kRecordHeader) == 1 &&
                      EVP_CipherUpdate(context, body, &done, body, inner) == 1 &&
                      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTag, body + inner) == 1 &&
                      EVP_CipherFinal_ex(context, body + inner, &done) == 1;
    ++state.sequence;
    ++records;
    return good;
  }

  Result<Opened> alert(std::span<const uint8_t> body) {
    if (body.size() != 2) return refuse(Alert::kDecodeError, "alert of wrong length");
    closed = body[1] == static_cast<uint8_t>(Alert::kCloseNotify);
    if (closed) return Opened{Event::kClosed, {}, 0, false};
    return Error(ErrorKind::kTls, fmt::format("TLS alert {} from the peer", body[1]), body[1]);
  }

  Result<void> key_update(std::span<const uint8_t> body, Opened& opened) {
    if (body.size() != 1) return refuse(Alert::kDecodeError, "KeyUpdate of wrong length");
    const uint8_t request = body[0];
    if (request > 1) return refuse(Alert::kIllegalParameter, "KeyUpdate with an unknown request");
    if (++key_updates > kMaxKeyUpdates) return refuse(Alert::kUnexpectedMessage, "too many key updates");
    FL_TRY_ASSIGN(const TrafficSecret next, next_secret(state.secret));
    FL_TRY(rekey(next));
    opened.event = Event::kKeyUpdate;
    opened.respond = request == 1;
    return {};
  }

  // One whole message at the front of `handshake`; false while it is incomplete.
  Result<bool> take_message(Opened& opened) {
    if (handshake.size() < 4) return false;
    const uint8_t* head = handshake.data();
    const size_t length = static_cast<size_t>(head[1]) << 16 | static_cast<size_t>(head[2]) << 8 | head[3];
    const uint8_t type = head[0];
    if (type != kNewSessionTicket && type != kKeyUpdate) {
      return refuse(Alert::kUnexpectedMessage, fmt::format("handshake message {} after the handshake", type));
    }
    if (length > kMaxHandshakeMessage) return refuse(Alert::kIllegalParameter, "handshake message too long");
    if (handshake.size() < 4 + length) return false;
    if (type == kNewSessionTicket) {
      if (++tickets > kMaxTickets) return refuse(Alert::kUnexpectedMessage, "too many session tickets");
    } else {
      // RFC 8446 §5.1: a key change must fall on a record boundary.
      if (handshake.size() > 4 + length) return refuse(Alert::kUnexpectedMessage, "data behind a KeyUpdate");
      FL_TRY(key_update({head + 4, length}, opened));
    }
    handshake.consume(4 + length);
    return true;
  }

  Result<Opened> handshake_record(std::span<const uint8_t> body) {
    if (body.empty()) return refuse(Alert::kUnexpectedMessage, "empty handshake record");
    handshake.append(body);
    Opened opened{Event::kIgnored, {}, 0, false};
    for (;;) {
      FL_TRY_ASSIGN(const bool taken, take_message(opened));
      if (!taken) break;
    }
    if (handshake.empty()) handshake.release();
    return opened;
  }

  Result<Opened> dispatch(std::span<uint8_t> inner) {
    // RFC 8446 §5.4: padding counts.
    if (inner.size() > kMaxPlaintext + 1) return refuse(Alert::kRecordOverflow, "plaintext too long");
    size_t length = inner.size();
    while (length > 0 && inner[length - 1] == 0) --length;
    if (length == 0) return refuse(Alert::kUnexpectedMessage, "no content type");
    return take(static_cast<ContentType>(inner[length - 1]), inner.first(length - 1));
  }

  Result<Opened> take(ContentType type, std::span<uint8_t> body) {
    if (type != ContentType::kHandshake && !handshake.empty()) {
      return refuse(Alert::kUnexpectedMessage, "another record inside a handshake message");
    }
    idle_records = type == ContentType::kApplicationData && !body.empty() ? 0 : idle_records + 1;
    if (idle_records > kMaxIdleRecords)
      return refuse(Alert::kUnexpectedMessage, "too many records without data");
    switch (type) {
      case ContentType::kApplicationData: return Opened{Event::kData, body, 0, false};
      case ContentType::kHandshake: return handshake_record(body);
      case ContentType::kAlert: return alert(body);
    }
    return refuse(Alert::kUnexpectedMessage, fmt::format("unknown content type {}", static_cast<int>(type)));
  }

  Result<Opened> open(std::span<uint8_t> in) {
    if (in.empty()) return Opened{};
    // Everything is application data on the outside; a ChangeCipherSpec ends with the handshake (RFC 8446
    // §5).
    if (in[0] != static_cast<uint8_t>(ContentType::kApplicationData)) {
      return refuse(Alert::kUnexpectedMessage, fmt::format("outer type {}", in[0]));
    }
    if (in.size() < kRecordHeader) return Opened{};
    const size_t length = static_cast<size_t>(in[3]) << 8 | in[4];
    if (length > kMaxRecord - kRecordHeader)
      return refuse(Alert::kRecordOverflow, fmt::format("length {}", length));
    if (length < kTag + 1) return refuse(Alert::kDecodeError, fmt::format("length {}", length));
    if (in.size() < kRecordHeader + length) return Opened{};
    FL_TRY(wake());
    if (!decrypt(in.data(), length)) {
      ERR_clear_error();
      owed = Alert::kBadRecordMac;
      return Error(ErrorKind::kTls, "TLS record: bad MAC");
    }
    FL_TRY_ASSIGN(Opened opened, dispatch(in.subspan(kRecordHeader, length - kTag)));
    opened.consumed = kRecordHeader + length;
    return opened;
  }
};

RecordOpener::RecordOpener(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
RecordOpener::RecordOpener(RecordOpener&&) noexcept = default;
RecordOpener& RecordOpener::operator=(RecordOpener&&) noexcept = default;
RecordOpener::~RecordOpener() = default;

Result<RecordOpener> RecordOpener::create(const TrafficSecret& secret) {
  auto impl = std::make_unique<Impl>();
  FL_TRY(impl->rekey(secret));
  return RecordOpener(std::move(impl));
}

Result<RecordOpener> RecordOpener::resume(const RecordState& state) {
  FL_TRY_ASSIGN(RecordOpener made, create(state.secret));
  made.impl_->state.sequence = state.sequence;
  return made;
}

RecordOpener::Progress RecordOpener::progress() const {
  Progress progress;
  progress.handshake.append(impl_->handshake.span());
  progress.records = impl_->records;
  progress.key_updates = static_cast<uint32_t>(impl_->key_updates);
  progress.tickets = static_cast<uint32_t>(impl_->tickets);
  progress.idle_records = static_cast<uint32_t>(impl_->idle_records);
  progress.closed = impl_->closed;
  return progress;
}

Result<RecordOpener> RecordOpener::resume(const RecordState& state, Progress progress) {
  if (progress.handshake.size() > 2 * kMaxHandshakeMessage || progress.key_updates > kMaxKeyUpdates ||
      progress.tickets > kMaxTickets || progress.idle_records > kMaxIdleRecords)
    return Error(ErrorKind::kInvalidArgument, "TLS record: no opener can have come that far");
  FL_TRY_ASSIGN(RecordOpener made, resume(state));
  made.impl_->handshake = std::move(progress.handshake);
  made.impl_->records = progress.records;
  made.impl_->key_updates = static_cast<int>(progress.key_updates);
  made.impl_->tickets = static_cast<int>(progress.tickets);
  made.impl_->idle_records = static_cast<int>(progress.idle_records);
  made.impl_->closed = progress.closed;
  return made;
}

Result<RecordOpener::Opened> RecordOpener::open(std::span<uint8_t> in) {
  if (impl_->dead) return Error(ErrorKind::kProtocol, "TLS record: the opener failed before");
  if (impl_->closed) return Opened{Event::kClosed, {}, in.size(), false};
  auto opened = impl_->open(in);
  impl_->dead = !opened.has_value();
  return opened;
}

Result<RecordOpener::Opened> RecordOpener::opened_by_kernel(ContentType type, std::span<uint8_t> plaintext) {
  if (impl_->dead) return Error(ErrorKind::kProtocol, "TLS record: the opener failed before");
  if (impl_->closed) return Opened{Event::kClosed, {}, 0, false};
  auto opened = impl_->take(type, plaintext);
  impl_->dead = !opened.has_value();
  return opened;
}

void RecordOpener::rest() noexcept {
  impl_->cipher.reset();
}
bool RecordOpener::movable() const noexcept {
  return !impl_->dead && !impl_->closed && impl_->handshake.empty();
}
Alert RecordOpener::alert() const noexcept {
  return impl_->owed;
}
uint64_t RecordOpener::records() const noexcept {
  return impl_->records;
}
RecordState RecordOpener::state() const {
  return impl_->state;
}

}  // namespace fairlead::tls
