#!/usr/bin/python3
"""The tier `vm`: both kernels at once, a CPU each, the same tests in both; the last line counts.

  tests/vm/tier.py [--all] [KERNEL…]    --all: the whole BPF and netns tiers, not the list `quick`
"""
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
KERNELS = ("6.12", "6.1")
SLOWER = "6"  # what an emulated CPU does in a second, one of this machine does in a twentieth; most of a deadline is slack
DEBIANS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # another Python in front of it may do much at its every start
LIMITS = {"quick": 900, "all": 10800}  # seconds until a guest that hangs is ended
PR_SET_PDEATHSIG = 1
COUNTS = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped$")


class Guest(threading.Thread):
    def __init__(self, kernel, how):
        super().__init__()
        self.kernel, self.counts = kernel, (0, 1, 0)
        environment = {"FAIRLEAD_SLOWER": SLOWER, "FAIRLEAD_TESTS_REQUIRE": "1", **os.environ, "PATH": DEBIANS_PATH}
        self._process = subprocess.Popen(
            [os.path.join(ROOT, "scripts/vm"), "--kernel", kernel, "--times", "--limit", str(LIMITS[how]), "--",
             "/usr/bin/python3", "tests/vm/inside.py", kernel, how],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM))

    def run(self):
        began, found = time.monotonic(), None
        for line in self._process.stdout:
            line = line.rstrip()
            print(f"{self.kernel:>5} {time.monotonic() - began:6.0f} s | {line}", flush=True)
            found = COUNTS.match(line) or found
        status = self._process.wait()
        passed, failed, skipped = map(int, found.groups()) if found else (0, 0, 0)
        failed += skipped  # a skip in this tier is a failure
        if status != 0 and not failed:
            failed = 1
        self.counts = (passed, failed, 0)


def main(arguments):
    how = "all" if "--all" in arguments else "quick"
    kernels = [word for word in arguments if word != "--all"] or KERNELS
    if not set(kernels) <= set(KERNELS):
        sys.exit(__doc__)
    guests = [Guest(kernel, how) for kernel in kernels]
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.join()
    passed, failed, skipped = (sum(column) for column in zip(*(guest.counts for guest in guests)))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
