// The TLS 1.3 record layer after the handshake (RFC 8446 §5): AES-GCM through EVP, sequence numbers,
// KeyUpdate, alerts, limits. Sans-I/O: bytes in, bytes out, no sockets. One direction each; a struct of key,
// iv and counter that can be exported (kernel TLS, hand-over). Thread: the connection's worker. Secrets are
// wiped on destruction and when replaced.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "base/buffer.h"
#include "base/result.h"

namespace fairlead::tls {

enum class CipherSuite : uint16_t { kAes128GcmSha256 = 0x1301, kAes256GcmSha384 = 0x1302 };
enum class ContentType : uint8_t { kAlert = 21, kHandshake = 22, kApplicationData = 23 };
// RFC 8446 §6, those that a record layer sends.
enum class Alert : uint8_t {
  kCloseNotify = 0,  // as RecordOpener::alert(): nothing is owed
  kUnexpectedMessage = 10,
  kBadRecordMac = 20,
  kRecordOverflow = 22,
  kIllegalParameter = 47,
  kDecodeError = 50,
  kInternalError = 80,
};

constexpr size_t kMaxPlaintext = 16384;  // RFC 8446 §5.1
constexpr size_t kRecordHeader = 5;
constexpr size_t kRecordOverhead = kRecordHeader + 1 + 16;  // header, inner type, tag
constexpr size_t kMaxRecord = kRecordHeader + kMaxPlaintext + 256;
// RFC 8446 §5.5: about 2^24.5 full-size records per AES-GCM key. We move on early, and never past the limit.
constexpr uint64_t kMaxRecordsPerKey = uint64_t{1} << 24;
constexpr uint64_t kWantKeyUpdate = kMaxRecordsPerKey / 2;

// How many bytes the first record of `in` lacks, as far as is known; 0: it is whole.
[[nodiscard]] size_t missing_of_record(std::span<const uint8_t> in) noexcept;

// The traffic secret of one direction. Movable, wiped.
struct TrafficSecret {
  CipherSuite suite = CipherSuite::kAes128GcmSha256;
  std::array<uint8_t, 48> bytes{};
  size_t length = 0;
  TrafficSecret() = default;
  TrafficSecret(const TrafficSecret&) = default;
  TrafficSecret& operator=(const TrafficSecret&) = default;
  ~TrafficSecret();
};

// Key, iv and next sequence number of one direction: all a kernel or a successor process needs besides the
// secret.
struct RecordState {
  TrafficSecret secret;
  std::array<uint8_t, 32> key{};
  std::array<uint8_t, 12> iv{};
  size_t key_length = 0;
  uint64_t sequence = 0;
  ~RecordState();
};

class RecordSealer {
 public:
  static Result<RecordSealer> create(const TrafficSecret& secret);
  // Goes on where state() of another left off: a predecessor's, or before kernel TLS was tried in vain.
  // Of `state` it needs the secret and the sequence number.
  static Result<RecordSealer> resume(const RecordState& state, uint64_t records = 0);
  RecordSealer(RecordSealer&&) noexcept;
  RecordSealer& operator=(RecordSealer&&) noexcept;
  ~RecordSealer();

  // Appends `plaintext`, cut into as few records as RFC 8446 allows, to `out`. Fails with kExhausted at the
  // AES-GCM record limit (§5.5): the connection is to be replaced; update_key() comes well before.
  Result<void> seal(ContentType type, std::span<const uint8_t> plaintext, Buffer& out);
  Result<void> close_notify(Buffer& out);
  // A fatal alert: nothing may be sealed after it.
  Result<void> fatal(Alert alert, Buffer& out);
  // Sends KeyUpdate (update_not_requested) and moves to the next key.
  Result<void> update_key(Buffer& out);
  // The kernel seals this direction and is to move to the next key, as update_key() does here: the state to give
  // it behind the KeyUpdate that was sent.
  Result<RecordState> next_state();
  // Gives back the cipher context, most of what an idle direction holds; the next record makes it again
  // (under 1 us).
  void rest() noexcept;
  [[nodiscard]] bool wants_key_update() const noexcept;  // past half of the limit
  [[nodiscard]] uint64_t records() const noexcept;       // sealed since the start
  [[nodiscard]] RecordState state() const;

 private:
  struct Impl;
  explicit RecordSealer(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

class RecordOpener {
 public:
  static Result<RecordOpener> create(const TrafficSecret& secret);
  static Result<RecordOpener> resume(const RecordState& state);
  // What state() leaves open, of an opener that did not fail: with both, a successor is in no other state
  // than its predecessor, in the middle of a handshake message, too. No secret is in it.
  struct Progress {
    Buffer handshake;
    uint64_t records = 0;
    uint32_t key_updates = 0;
    uint32_t tickets = 0;
    uint32_t idle_records = 0;
    bool closed = false;
  };
  [[nodiscard]] Progress progress() const;
  static Result<RecordOpener> resume(const RecordState& state, Progress progress);
  RecordOpener(RecordOpener&&) noexcept;
  RecordOpener& operator=(RecordOpener&&) noexcept;
  ~RecordOpener();

  enum class Event {
    kNeedMore,  // no whole record in `in`
    kData,      // `payload` is plaintext inside `in` (decrypted in place); may be empty
    kClosed,  // close_notify: the peer's orderly end; what comes behind it is consumed unread (RFC 8446 §6.1)
    kKeyUpdate,  // the peer moved its key; `respond` tells whether it asks us to move ours (RFC 8446 §4.6.3)
    kIgnored,    // NewSessionTicket and the like
  };
  struct Opened {
    Event event = Event::kNeedMore;
    std::span<uint8_t> payload;
    size_t consumed = 0;  // bytes of `in` this record took
    bool respond = false;
  };
  // Opens the first record of `in`. Errors: kProtocol (malformed, oversized, wrong type, too many key
  // updates), kTls (bad MAC, or the peer's fatal alert, its code in Error::code()). After an error the opener
  // is dead.
  Result<Opened> open(std::span<uint8_t> in);
  // The same for a record, or a piece of one of a type that may come in pieces, that the kernel has opened:
  // type and plaintext. Its Opened says nothing of `consumed`.
  Result<Opened> opened_by_kernel(ContentType type, std::span<uint8_t> plaintext);
  // After an error: what RecordSealer::fatal() owes the peer; kCloseNotify when it is the peer who sent a
  // fatal alert.
  [[nodiscard]] Alert alert() const noexcept;
  // As RecordSealer::rest().
  void rest() noexcept;
  // state() tells all: no handshake message is half read, nothing failed, the peer did not close. Only then
  // may the direction move to the kernel.
  [[nodiscard]] bool movable() const noexcept;
  [[nodiscard]] uint64_t records() const noexcept;
  [[nodiscard]] RecordState state() const;

 private:
  struct Impl;
  explicit RecordOpener(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::tls
