"""Commands, namespaces and waiting."""
import ctypes
import os
import subprocess
import time

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = (1 << 14) | (1 << 18)
MS_BIND = 1 << 12
SLOWER = float(os.environ.get("FAIRLEAD_SLOWER", "1"))  # deadlines are so many times longer: sanitizers, busy machines
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """What went wrong and what to do, in a sentence for the user."""


def run(*command, check=True, stdin=None):
    done = subprocess.run(command, input=stdin, text=True, capture_output=True)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def ip_batch(netns, lines):
    """Several `ip` commands in one namespace at once."""
    run("ip", "-netns", netns, "-force", "-batch", "-", stdin="\n".join(lines) + "\n")


def wait_until(test, seconds, what):
    """Polls `test` until it is true; the value is returned. `what` completes "not … in time"."""
    deadline = time.monotonic() + seconds * SLOWER
    pause = 0.005
    while True:
        value = test()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what} within {seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def _checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter_netns(name):
    fd = os.open("/run/netns/" + name, os.O_RDONLY | os.O_CLOEXEC)
    _checked(_libc.setns(fd, CLONE_NEWNET))
    os.close(fd)


def enter_cgroup(path):
    with open(os.path.join(path, "cgroup.procs"), "w") as procs:
        procs.write("0")


def private_files(files):
    """In a mount namespace of its own: `files` maps a path to the file that shall be seen there."""
    _checked(_libc.unshare(CLONE_NEWNS))
    _checked(_libc.mount(None, b"/", None, MS_REC_PRIVATE, None))
    for path, source in files.items():
        if os.path.exists(path):
            _checked(_libc.mount(source.encode(), path.encode(), None, MS_BIND, None))


def sysctl(path, value):
    """A setting of the current network namespace; those that this kernel lacks are left alone."""
    try:
        with open("/proc/sys/" + path, "w") as file:
            file.write(str(value))
    except (FileNotFoundError, PermissionError):
        pass
    except OSError as error:
        if error.errno not in (2, 22):
            raise


def in_netns(netns, function):
    """Runs a function in a child that lives in the namespace; for sysctls."""
    child = os.fork()
    if child == 0:
        try:
            enter_netns(netns)
            function()
            os._exit(0)
        except BaseException as error:  # the child must never return into the caller's code
            os.write(2, f"{netns}: {error}\n".encode())
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise LabError(f"settings of network namespace {netns} failed")
