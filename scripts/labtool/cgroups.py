"""The cgroups of a lab: <root>/fairlead-lab/<lab>/<node>/{system,kubepods/pod<uid>}, as a kubelet would lay them out."""
import os
import signal
import time

from .shell import LabError


def root():
    with open("/proc/mounts") as mounts:
        for line in mounts:
            device, path, kind = line.split()[:3]
            if kind == "cgroup2":
                return path
    raise LabError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def lab_root(lab):
    return os.path.join(root(), "fairlead-lab", lab)


def node_root(lab, node):
    return os.path.join(lab_root(lab), node)


def system(lab, node):
    return os.path.join(node_root(lab, node), "system")


def pod(lab, node, uid):
    return os.path.join(node_root(lab, node), "kubepods", "pod" + uid)


def processes(path):
    """Every process in the cgroup and below."""
    found = []
    for directory, _, _ in os.walk(path):
        try:
            with open(os.path.join(directory, "cgroup.procs")) as procs:
                found += [int(line) for line in procs]
        except OSError:
            pass
    return found


def remove(path):
    """Kills what lives there and removes the tree, deepest first."""
    if not os.path.isdir(path):
        return
    deadline = time.monotonic() + 10
    while True:
        alive = processes(path)
        if not alive:
            break
        for process in alive:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            raise LabError(f"processes in {path} do not die: {alive}")
        time.sleep(0.01)
    for directory, _, _ in os.walk(path, topdown=False):
        for _ in range(200):
            try:
                os.rmdir(directory)
                break
            except FileNotFoundError:
                break
            except OSError:  # the kernel is still letting go of the last process
                time.sleep(0.01)
