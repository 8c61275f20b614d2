// The proxy's end of the contract, played by this very test program: the keeper starts /proc/self/exe, so
// `test_keeper proxy --config SCRIPT --contract-fd N` comes here instead of into googletest. The script,
// which stands where the configuration would, says what to send; all that comes is written to a file of
// reports.
#pragma once

namespace fairlead::keeper::test {

// First line: path of the file of reports. Then, in order:
//   hello VERSION | synced | ready | garbage   one message (or bytes that are none)
//   need FAMILY COUNT                          asks for sockets, once the first pod is known
//   need-unknown | need-now                    asks for sockets of a pod that is not there, at once
//   flood                                      asks for sockets of the first pod for ever and reads nothing
//   exit STATUS                                ends at once
//   deaf                                       does not end when it is told to drain
int fake_proxy(int argc, char** argv);

}  // namespace fairlead::keeper::test
