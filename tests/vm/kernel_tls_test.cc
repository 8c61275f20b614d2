// What the real kernel does with its TLS: the self-test, and each trap of splice and close that we must not
// step into.
#include <gtest/gtest.h>

#include "tls/kernel_tls.h"

namespace fairlead::tls {
namespace {

TEST(KernelTlsProbe, TheKernelPassesTheSelfTest) {
  const KernelTlsSupport support = probe_kernel_tls();
  EXPECT_TRUE(support.usable()) << support.detail;
}

}  // namespace
}  // namespace fairlead::tls
