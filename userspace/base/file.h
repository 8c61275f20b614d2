// Whole small files, with bounds. Errors name the path and the operation.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead {

// Fails with kExhausted when the file is larger than `maximum` bytes.
Result<std::string> read_file(const std::string& path, size_t maximum = 1 << 20);
// Writes a temporary file beside `path` and renames it: a reader sees the old or the new content, never half.
Result<void> write_file_atomically(const std::string& path, std::string_view content, unsigned mode = 0644);
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0);
Result<UniqueFd> duplicate(BorrowedFd fd);  // close-on-exec
Result<void> make_directories(const std::string& path, unsigned mode = 0755);

}  // namespace fairlead
