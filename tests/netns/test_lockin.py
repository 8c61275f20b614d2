"""The proxy is locked in, by what the kernel says of the running process, and lives with it: names, tokens, reconnects."""
import errno
import json
import os
import resource
import subprocess

import pytest

from bed import PEERS, eventually, lab, mesh
import inject
from labtool import shell, topology
from labtool.paths import binary
from labtool.shell import run

NODES = ("node1", "node2")
TO = ["api.front", 80]
KEY_ARENA_KB = 8 * 1024
CAP_SYS_RESOURCE = 24
NAME = "controller.lockin.test"


MODE = os.environ.get("FAIRLEAD_SECCOMP", "enforce")  # audit under scripts/seccomp_trace


def status_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return {line.partition(":")[0]: line.partition(":")[2].strip() for line in file}


def proxy_pid(bed, node):
    return bed.keeper(node, "status")["proxyPid"]


def connected(bed, node):
    status = mesh.quietly(bed.proxy, node, "status")
    return status is not None and status["controller"]["connected"]


@pytest.fixture
def running(own_bed):
    lab.controller(own_bed.lab, "start")
    for node in NODES:
        lab.agent(own_bed.lab, node, "start")
        eventually(lambda: connected(own_bed, node), 30, f"{node} is not connected")
    return own_bed


NO_LOCKED_MEMORY = pytest.mark.unsanitized("mlock() does nothing under a sanitizer, whose own thread has no filter")


@NO_LOCKED_MEMORY
@pytest.mark.parametrize("node", NODES)
def test_kernel_shows_it_locked_in(running, node):
    pid = proxy_pid(running, node)
    for task in os.listdir(f"/proc/{pid}/task"):
        status = status_of(f"{pid}/task/{task}")
        assert status["Seccomp"] == "2", f"thread {task}: no filter"
        assert int(status.get("Seccomp_filters", "1")) >= 1
        assert status["NoNewPrivs"] == "1"
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, f"{capabilities} of thread {task}"
        assert set(status["Uid"].split()) == {str(mesh.PROXY_UID)} and status["Groups"] == ""
    # Not dumpable: its /proc entry belongs to root, so that no process of its own user gets at it.
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0
    with open(f"/proc/{pid}/limits") as file:
        limits = {line[:26].strip(): line[26:].split() for line in file}
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert int(status_of(pid)["VmLck"].split()[0]) >= KEY_ARENA_KB, "the keys are not locked into RAM"


def test_same_user_cannot_get_at_it(running):
    pid = proxy_pid(running, "node1")
    program = "import os,sys; [os.open(f'/proc/{sys.argv[1]}/' + name, os.O_RDONLY) for name in sys.argv[2:]]"
    for name in ("mem", "maps", "environ"):
        result = subprocess.run(["/usr/bin/python3", "-c", program, str(pid), name], user=mesh.PROXY_UID, group=mesh.PROXY_UID,
                                extra_groups=[], capture_output=True, text=True, check=False)
        assert "PermissionError" in result.stderr, f"{name}: {result.stderr}"


# x86-64 numbers. What the running proxy gets for calls that its own code never makes.
KILLED = {"execve": (59, b"/bin/true\0", 0, 0), "ptrace": (101, 16, 1, 0, 0), "bpf(PROG_LOAD)": (321, 5, bytes(128), 128),
          "setns": (308, 0, 0x40000000), "unshare": (272, 0x10000000), "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
          "fork": (56, 17, 0, 0, 0, 0), "mount": (165, 0, 0, 0, 0, 0), "x32 read": (0x40000000, 0, 0, 0)}
AT_FDCWD = -100
REFUSED = {"open /etc/hostname": (errno.EACCES, 257, AT_FDCWD, b"/etc/hostname\0", os.O_RDONLY),
           "open /etc/shadow": (errno.EACCES, 257, AT_FDCWD, b"/etc/shadow\0", os.O_RDONLY),
           "open /proc/self/mem": (errno.EACCES, 257, AT_FDCWD, b"/proc/self/mem\0", os.O_RDONLY),
           "write /tmp/x": (errno.EPERM, 257, AT_FDCWD, b"/tmp/x\0", os.O_WRONLY | os.O_CREAT),
           "socket(AF_UNIX)": (errno.EAFNOSUPPORT, 41, 1, 1, 0), "socket(AF_PACKET)": (errno.EAFNOSUPPORT, 41, 17, 3, 0),
           "listen": (errno.ENOSYS, 50, 0, 1), "kill": (errno.ENOSYS, 62, 1, 9),
           "mmap(PROT_EXEC)": (errno.EPERM, 9, 0, 4096, 5, 0x22, -1, 0),
           "prctl(PR_SET_DUMPABLE)": (errno.EPERM, 157, 4, 1)}
needs_injection = pytest.mark.skipif(not inject.SUPPORTED or MODE != "enforce", reason="x86-64 registers, an enforced filter")


ENFORCED = pytest.mark.unsanitized("the filter only audits")


@ENFORCED
@needs_injection
def test_running_proxy_is_refused(running):
    if not running.proxy("node1", "status")["lockedIn"]["landlock"]:
        pytest.skip("this kernel has no Landlock")
    pid = proxy_pid(running, "node1")
    assert inject.syscall(pid, 39) == pid, "getpid: the injection itself works"
    for name, (code, number, *arguments) in REFUSED.items():
        assert inject.syscall(pid, number, *arguments) == -code, name
    fd = inject.syscall(pid, 257, AT_FDCWD, b"/etc/resolv.conf\0", os.O_RDONLY)
    assert fd >= 0, "what it needs it can still read"
    assert inject.syscall(pid, 3, fd) == 0
    assert proxy_pid(running, "node1") == pid
    assert running.call("front/web", "who", to=TO).get("pod") == "api", "it has not noticed"


@ENFORCED
@needs_injection
@pytest.mark.parametrize("name", KILLED)
def test_running_proxy_dies_rather_than(running, name):
    pid = proxy_pid(running, "node1")
    assert inject.syscall(pid, *KILLED[name]) == "SIGSYS"
    eventually(lambda: proxy_pid(running, "node1") not in (pid, -1), 15, "the keeper does not start the next one")
    eventually(lambda: running.call("front/web", "who", to=TO).get("pod") == "api", 20, "the next proxy does not serve")


@NO_LOCKED_MEMORY
def test_status_and_check_tell(running):
    locked = running.proxy("node1", "status")["lockedIn"]
    assert locked["seccomp"] == MODE and locked["keysLocked"]
    assert 0 < locked["keyBytesUsed"] < locked["keyBytes"] == KEY_ARENA_KB * 1024
    command = [binary("fairlead"), "--run-dir", running.names.run_directory("node1")]
    text = run(*command, "status")
    line = next(line for line in text.splitlines() if line.startswith("locked in"))
    assert f"seccomp {MODE}" in line and "keys locked" in line
    result = subprocess.run([*command, "check", "-o", "json"], capture_output=True, text=True, check=False)
    checks = {row["check"]: row for row in json.loads(result.stdout)}
    assert checks["proxy-locked-in"]["state"] == ("ok" if MODE == "enforce" else "warn"), checks["proxy-locked-in"]
    assert checks["proxy-keys-locked"]["state"] == "ok", checks["proxy-keys-locked"]
    assert checks["proxy-landlock"]["state"] == ("ok" if locked["landlock"] else "warn")


def test_audit_is_told(running, monkeypatch):
    """What does not refuse is not passed off as locked in."""
    monkeypatch.setenv("FAIRLEAD_SECCOMP", "audit")
    lab.agent(running.lab, "node1", "restart")
    try:
        assert running.proxy("node1", "status")["lockedIn"]["seccomp"] == "audit"
        result = subprocess.run([binary("fairlead"), "--run-dir", running.names.run_directory("node1"), "check", "-o", "json"],
                                capture_output=True, text=True, check=False)
        row = next(row for row in json.loads(result.stdout) if row["check"] == "proxy-locked-in")
        assert row["state"] == "warn" and "audit" in row["found"]
        assert "seccomp only audits" in running.log("agent-node1")
    finally:
        monkeypatch.undo()
        lab.agent(running.lab, "node1", "restart")


@NO_LOCKED_MEMORY
def test_low_limit_is_raised_or_told(running):
    """A container runtime that lets nobody lock memory: with CAP_SYS_RESOURCE the keeper raises the limit, else it is told."""
    keeper = running.keeper("node1", "status")["pid"]
    before = proxy_pid(running, "node1")
    resource.prlimit(keeper, resource.RLIMIT_MEMLOCK, (65536, 65536))
    may_raise = int(status_of(keeper)["CapEff"], 16) >> CAP_SYS_RESOURCE & 1
    try:
        lab.agent(running.lab, "node1", "kill", only_proxy=True)
        eventually(lambda: proxy_pid(running, "node1") not in (before, -1) and connected(running, "node1"), 20, "no next proxy")
        locked = running.proxy("node1", "status")["lockedIn"]["keysLocked"]
        assert locked == bool(may_raise)
        assert locked == (int(status_of(proxy_pid(running, "node1"))["VmLck"].split()[0]) >= KEY_ARENA_KB)
        result = subprocess.run([binary("fairlead"), "--run-dir", running.names.run_directory("node1"), "check", "-o", "json"],
                                capture_output=True, text=True, check=False)
        row = next(row for row in json.loads(result.stdout) if row["check"] == "proxy-keys-locked")
        assert row["state"] == ("ok" if locked else "warn"), row
        assert locked or "not locked into RAM" in running.log("agent-node1")
        eventually(lambda: running.call("front/web", "who", to=TO).get("pod") == "api", 20, "it does not serve")
    finally:
        lab.agent(running.lab, "node1", "restart")


def test_token_that_is_replaced_is_read_anew(running):
    """By renaming, as a projected volume does it: another inode, which a rule for the file alone would not cover."""
    token = os.path.join(running.names.node_directory("node1"), "token")
    with open(token) as file:
        good = file.read()

    def replace(text):
        with open(os.open(token + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        os.chown(token + ".new", mesh.PROXY_UID, mesh.PROXY_UID)
        os.rename(token + ".new", token)

    try:
        replace("nonsense")
        lab.controller(running.lab, "stop")
        lab.controller(running.lab, "start")
        eventually(lambda: connected(running, "node2"), 30, "the controller is not back")
        eventually(lambda: not connected(running, "node1") and "(16)" in running.proxy("node1", "status")["controller"]["lastError"],
                   20, "the controller took nonsense for a token, or it was not read")
        replace(good)
        eventually(lambda: connected(running, "node1"), 40, "the new token is not read")
    finally:
        replace(good)
    assert running.call("front/web", "who", to=TO).get("pod") == "api"


@pytest.fixture(params=["ares", "native"])
def named_controller(running, monkeypatch, request):
    """The agent of node1 knows the controller by a name that the machine's own name server, impersonated in the node's
    namespace, resolves. gRPC has two resolvers: c-ares and glibc's."""
    monkeypatch.setenv("GRPC_DNS_RESOLVER", request.param)
    with open("/etc/resolv.conf") as file:
        servers = [line.split()[1] for line in file if line.startswith("nameserver")]
    if not servers:
        pytest.skip("/etc/resolv.conf names no name server")
    server, netns = servers[0], running.names.node_netns("node1")
    run("ip", "-netns", netns, "address", "replace", server + ("/128" if ":" in server else "/32"), "dev", "lo")
    process = subprocess.Popen(["/usr/bin/python3", os.path.join(PEERS, "nameserver.py"), server, NAME, topology.HUB4],
                               stdout=subprocess.PIPE, text=True, preexec_fn=lambda: shell.enter_netns(netns))
    assert process.stdout.readline() == "ready\n"
    monkeypatch.setattr(mesh, "CONTROLLER_NAME", f"{NAME}:15012")
    lab.agent(running.lab, "node1", "restart")
    try:
        yield process
    finally:
        monkeypatch.undo()
        process.kill()
        process.communicate()
        run("ip", "-netns", netns, "address", "delete", server + ("/128" if ":" in server else "/32"), "dev", "lo")
        lab.agent(running.lab, "node1", "restart")


def test_controller_by_name_is_found_lost_and_found_again(running, named_controller):
    eventually(lambda: connected(running, "node1"), 30, "the controller is not found by its name")
    assert running.proxy("node1", "status")["controller"]["address"] == f"{NAME}:15012"
    restarts = running.keeper("node1", "status")["proxyRestarts"]
    lab.controller(running.lab, "kill")
    eventually(lambda: not connected(running, "node1"), 15, "the agent has not noticed")
    lab.controller(running.lab, "start")
    eventually(lambda: connected(running, "node1"), 40, "the controller is not found again")
    assert running.keeper("node1", "status")["proxyRestarts"] == restarts, "the proxy died of it"
    named_controller.kill()
    asked = named_controller.stdout.read().split()
    assert asked.count(NAME) >= 2, f"the name server was asked {asked}"
    assert running.call("front/web", "who", to=TO).get("pod") == "api"
