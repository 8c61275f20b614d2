// The OpenSSL side of KeyPair and Credentials, for this folder only.
#pragma once

#include "tls/credentials.h"
#include "tls/openssl.h"

namespace fairlead::tls {

struct KeyPair::Impl {
  KeyPtr key;
};

struct Credentials::Impl {
  KeyPair key;
  SpiffeId id;
  X509Ptr leaf;
  std::string serial;
  std::chrono::system_clock::time_point not_before;
  std::chrono::system_clock::time_point not_after;
  SslContextPtr client;
  SslContextPtr server;
};

// Installs what a Handshake needs in a context: verification, key log, ALPN (handshake.cc).
void install_handshake_callbacks(SSL_CTX* context, bool server);

}  // namespace fairlead::tls
