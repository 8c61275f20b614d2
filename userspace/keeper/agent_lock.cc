#include "keeper/agent_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include "base/file.h"

namespace fairlead::keeper {

Result<std::optional<UniqueFd>> try_agent_lock(const std::string& run_directory) {
  const std::string path = run_directory + "/agent.lock";
  FL_TRY_ASSIGN(UniqueFd file, open_file(path, O_RDWR | O_CREAT, 0600));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return std::optional<UniqueFd>(std::move(file));
  const int code = errno;
  if (code == EWOULDBLOCK) return std::optional<UniqueFd>();
  return Error::from_code(fmt::format("lock {}", path), code);
}

}  // namespace fairlead::keeper
