"""Peers that take without end: each uses up its own share, and nobody else notices."""
import contextlib
import multiprocessing
import os
import resource
import select
import socket
import subprocess
import time

import pytest

from bed import eventually
from labtool import pods

pytestmark = pytest.mark.unsanitized("memory and file descriptors are a sanitizer's as well")
CROWD = 8000
HELLO_HEAD = b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc"  # a record that never comes to its end


class Proxy:
    """The proxy's process of node2, and what it holds: PSS in KiB, user and system time in seconds."""

    def __init__(self, bed):
        self.pid = bed.keeper("node2", "status")["proxyPid"]

    def _lines(self, name):
        with open(f"/proc/{self.pid}/{name}") as file:
            return file.read().splitlines()

    @property
    def pss(self):
        return next(int(line.split()[1]) for line in self._lines("smaps_rollup") if line.startswith("Pss:"))

    @property
    def seconds(self):
        fields = self._lines("stat")[0].rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def fd_limit(self):
        return next(line.split()[3] for line in self._lines("limits") if line.startswith("Max open files"))

    def limit_fds(self, count):
        """The soft limit; as the proxy's own user, whom that takes no capability."""
        ids = {line.split()[0]: line.split()[1] for line in self._lines("status") if line.startswith(("Uid:", "Gid:"))}
        subprocess.run(["setpriv", "--reuid", ids["Uid:"], "--regid", ids["Gid:"], "--clear-groups", "prlimit", "--pid", str(self.pid),
                        f"--nofile={count}:"], check=True)


def crowd(bed, source, to, count, first=b""):
    """So many connections from a pod, each with its first bytes; the sockets. Made in a child's place: the namespace of a pod is
    entered by the whole thread."""
    ours, theirs = multiprocessing.Pipe()

    def child():
        pods.enter(bed.names, bed.pod(source))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
        made = []
        for _ in range(count):
            sock = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(tuple(to))
            made.append(sock)
        poll = select.poll()
        for sock in made:
            poll.register(sock, select.POLLOUT)
        waiting = {sock.fileno(): sock for sock in made}
        deadline = time.monotonic() + 60
        while waiting and time.monotonic() < deadline:
            for fd, _ in poll.poll(1000):
                poll.unregister(fd)
                sock = waiting.pop(fd)
                with contextlib.suppress(OSError):
                    sock.send(first)
        theirs.send(len(made) - len(waiting))
        while True:
            if theirs.recv() == "alive":
                theirs.send(sum(1 for sock in made if is_alive(sock)))
            else:
                os._exit(0)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process, ours


def is_alive(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def crowded(bed, source, to, count, first=b""):
    process, pipe = crowd(bed, source, to, count, first)
    try:
        assert pipe.poll(90), "the crowd does not get to its places"
        assert pipe.recv() == count
        yield lambda: (pipe.send("alive"), pipe.recv())[1]
    finally:
        process.kill()
        process.join()


def answers(bed):
    answer = bed.call("front/web", "who", seconds=20, to=["hbone.back", 80], family="4")
    assert answer.get("pod") == "hbone", answer


@pytest.mark.parametrize("first", [b"", HELLO_HEAD], ids=["silent", "endless hello"])
def test_slow_handshakes_hold_their_share_and_no_memory(bed, first):
    """8,000 connections to the tunnels' port that never come to a handshake."""
    answers(bed)
    proxy = Proxy(bed)
    before, limited = proxy.pss, bed.counters("node2")["source_limited"]
    with crowded(bed, "outside/client", [bed.ip("back/hbone"), 15008], CROWD, first) as alive:
        eventually(lambda: bed.counters("node2")["source_limited"] - limited >= CROWD - 1000, 30, "nobody stops them")
        assert alive() <= 1000, "more than one source's share lives"
        for _ in range(5):
            answers(bed)
        assert proxy.pss - before < 12 * 1024, "they cost memory"
        eventually(lambda: alive() == 0, 30, "those that got in are never given up")
    eventually(lambda: sum(bed.proxy("node2", "status")["connections"].values()) == 0, 15)


def test_4000_slow_plaintext_connections_are_bounded(bed):
    """They are let in (PERMISSIVE) and say nothing: a few KiB each, and the mesh goes on."""
    answers(bed)
    proxy = Proxy(bed)
    before = proxy.pss
    with crowded(bed, "outside/client", [bed.ip("back/hbone"), 8080], 4000):
        for _ in range(5):
            answers(bed)
        assert proxy.pss - before < 4000 * 8, "more than 8 KiB for each"
    eventually(lambda: sum(bed.proxy("node2", "status")["connections"].values()) == 0, 30)


def test_without_file_descriptors_nothing_spins_and_all_recovers(bed):
    answers(bed)
    proxy = Proxy(bed)
    old, before = proxy.fd_limit, bed.counters("node2")["accept_backoff"]
    full = proxy.fds + 30
    proxy.limit_fds(full)
    try:
        with crowded(bed, "outside/client", [bed.ip("back/hbone"), 8080], 300):
            eventually(lambda: proxy.fds >= full, 15, "the crowd does not fill it")  # nor can it be asked anything now
            started, spent = time.monotonic(), proxy.seconds
            select.select([], [], [], 2)
            assert proxy.seconds - spent < 0.3 * (time.monotonic() - started), "it spins"
    finally:
        proxy.limit_fds(old)
    eventually(lambda: bed.counters("node2")["accept_backoff"] > before, 15, "accept() never failed")
    for _ in range(3):
        answers(bed)
