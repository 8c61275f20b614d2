#include "proxy/proxy_main.h"

#include <signal.h>

#include "proxy/control.h"

namespace fairlead::proxy {

int run(ProxyConfig config, UniqueFd contract) {
  // Only the keeper ends the proxy, by the contract: a ^C or a group signal must not cut connections that it
  // drains.
  (void)::signal(SIGINT, SIG_IGN);
  (void)::signal(SIGTERM, SIG_IGN);
  (void)::signal(SIGPIPE, SIG_IGN);
  Control control(std::move(config), std::move(contract));
  return control.run();
}

}  // namespace fairlead::proxy
