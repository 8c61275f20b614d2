#include <cstdlib>

#include "cli/command.h"

int main(int argc, char** argv) {
  return fairlead::cli::run({argv + 1, static_cast<size_t>(argc - 1)}, std::getenv("FAIRLEAD_RUN_DIR"));
}
