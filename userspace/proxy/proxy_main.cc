#include "proxy/proxy_main.h"

#include <signal.h>

#include "base/log.h"
#include "proxy/control.h"
#include "tls/key_memory.h"

namespace fairlead::proxy {
namespace {

int fail(const Error& error) {
  log::error("proxy", "{}", error.text());
  return 1;
}

// Memory for keys before the first key, and OpenSSL's files while they can be read.
Result<Confinement> make_ready() {
  Confinement made;
  FL_TRY_ASSIGN(made.keys, tls::protect_keys());
  tls::load_openssl();
  return made;
}

void tell(const Confinement& locked) {
  if (locked.confined.seccomp == confine::Mode::kAudit)
    log::warn("proxy", "seccomp only audits: what it would refuse is allowed and logged by the kernel");
  if (locked.confined.landlock == 0)
    log::warn("proxy", "this kernel has no Landlock: file modes alone decide what the proxy can read");
  if (!locked.keys.locked)
    log::warn("proxy", "keys are not locked into RAM: RLIMIT_MEMLOCK is below {} bytes", tls::kKeyArena);
  log::info("proxy", "locked in: seccomp {}, landlock {}, keys {}", to_string(locked.confined.seccomp),
            locked.confined.landlock, locked.keys.locked ? "locked" : "not locked");
}

}  // namespace

int run(ProxyConfig config, UniqueFd contract) {
  // Only the keeper ends the proxy, by the contract: a ^C or a group signal must not cut connections that it
  // drains.
  (void)::signal(SIGINT, SIG_IGN);
  (void)::signal(SIGTERM, SIG_IGN);
  (void)::signal(SIGPIPE, SIG_IGN);
  auto locked = make_ready();
  if (!locked) return fail(locked.error());
  Control control(std::move(config), std::move(contract));
  if (const Result<void> started = control.start(); !started) return fail(started.error());
  // From here on no file but those that are named, no program, no listener. Nothing was read from anybody
  // yet.
  const auto confined = confine::lock_in(control.config().lock_in);
  if (!confined) return fail(confined.error());
  locked->confined = *confined;
  tell(*locked);
  return control.run(*locked);
}

}  // namespace fairlead::proxy
