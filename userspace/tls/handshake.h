// One mutual TLS 1.3 handshake, sans-I/O: OpenSSL negotiates, proves and verifies through memory BIOs, fed
// record by record so that it reads nothing beyond the handshake; afterwards the traffic secrets drive
// tls/record.h.
//
//   client: start() → send out; advance(received) until done; finish()
//   server: advance(received) until done; finish()
//
// Peer rules (RFC 5280, SPIFFE X509-SVID §5): chain to our roots, in time, exactly one URI SAN that is a
// SPIFFE ID of our own trust domain, leaf not a CA, digitalSignature, EKU server+client if present. Client:
// the id is one of `expected`. TLS 1.3 gives a client "done" before the server has judged its certificate:
// only the first bytes of the server's application data prove acceptance. Thread: the connection's worker.
// Errors: kTls; what is in `out` on error is the alert to send, best effort.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "base/spiffe_id.h"
#include "tls/credentials.h"
#include "tls/record.h"

namespace fairlead::tls {

// Offered by a Fairlead client beside "h2": this ClientHello starts a tunnel on the application's own port.
inline constexpr std::string_view kInPlaceAlpn = "fairlead/1";
constexpr size_t kMaxClientHello = 16 * 1024;     // the message; a client of today sends 0.2 to 2 KB
constexpr size_t kMaxHandshakeInput = 64 * 1024;  // all records of one peer

struct Established {
  RecordSealer sealer;
  RecordOpener opener;
  SpiffeId peer;
  std::string peer_serial;  // hex
  CipherSuite suite;
};

class Handshake {
 public:
  static Result<std::unique_ptr<Handshake>> client(std::shared_ptr<const Credentials> credentials,
                                                   std::vector<SpiffeId> expected, bool in_place);
  static Result<std::unique_ptr<Handshake>> server(std::shared_ptr<const Credentials> credentials);
  ~Handshake();

  // Client only: appends the ClientHello to `out`.
  Result<void> start(Buffer& out);
  struct Progress {
    size_t consumed =
        0;  // whole records taken from `in`; the rest is for the next call, or for the record layer
    bool done = false;
  };
  // Reads as many whole records as the handshake needs and not one more; appends what must be sent to `out`.
  Result<Progress> advance(std::span<const uint8_t> in, Buffer& out);
  // Once, after done. Frees what OpenSSL holds: the Handshake is an empty shell afterwards.
  Result<Established> finish();

 private:
  struct Impl;
  explicit Handshake(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

// Whether a whole TLS record, or something that is none, begins `bytes`: there is something to work on.
[[nodiscard]] bool holds_record(std::span<const uint8_t> bytes) noexcept;

// What the first bytes of a captured connection are.
enum class FirstBytes {
  kNeedMore,  // could still become a marked ClientHello
  kTunnel,    // a ClientHello that offers kInPlaceAlpn
  kOther,     // anything else, the application's own TLS included
};
// Pure look at peeked bytes (RFC 8446 §4.1.2): handles a ClientHello split over records and over reads; a
// malformed or over-long one is kOther. Never consumes.
FirstBytes classify(std::span<const uint8_t> bytes) noexcept;

}  // namespace fairlead::tls
