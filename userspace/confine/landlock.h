// Landlock (Linux 5.13 and later): which files the process may see at all. Without it in the kernel, the file
// modes alone decide. Thread: the calling thread and those that it starts later.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace fairlead::confine {

struct FileRules {
  // Files to read. A rule holds for an inode, not for a name, and these files are replaced by others of the
  // same name: so it is their directories that become readable, with all below. Of a file right under /, /etc
  // and the like only that very inode: when it is replaced, the process sees it no more.
  std::vector<std::string> readable;
  std::string sockets;  // a directory in which files may be removed
};

// The version of Landlock that is in force, 0 where the kernel has none (or it is switched off). What is
// not named is closed: reading, writing, executing, making, and (version 6) signals to and abstract sockets
// of processes outside. Files that do not exist are left out.
Result<int> close_files(const FileRules& rules);

}  // namespace fairlead::confine
