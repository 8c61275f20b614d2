// libFuzzer's door to one target, which the build names.
#include "fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fairlead::fuzz::FAIRLEAD_FUZZ_TARGET({data, size});
  return 0;
}
