// The OpenSSL side of KeyPair and Credentials, for this folder only.
#pragma once

#include "tls/credentials.h"
#include "tls/openssl.h"
#include "tls/verify.h"

namespace fairlead::tls {

struct KeyPair::Impl {
  KeyPtr key;
};

// Everything but the caches is constant once create() is through; the caches lock for themselves.
struct Credentials::Impl {
  Impl(KeyPair own_key, SpiffeId own_id) : key(std::move(own_key)), id(std::move(own_id)) {}

  KeyPair key;
  SpiffeId id;
  std::string serial;
  std::chrono::system_clock::time_point not_before;
  std::chrono::system_clock::time_point not_after;
  SslContextPtr client;
  SslContextPtr server;
  // By the role of the peer: what a CA may certify can differ (its extended key usage).
  ChainCache verified_servers;
  ChainCache verified_clients;
};

// Installs what a Handshake needs in a context: verification, key log, ALPN (handshake.cc).
void install_handshake_callbacks(SSL_CTX* context, bool server);

}  // namespace fairlead::tls
