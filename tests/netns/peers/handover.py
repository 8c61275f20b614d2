"""The protocol of a hand-over, spoken by the tests in both roles: docs of it are userspace/contract/hand_over.h and parcels.h."""
import array
import fcntl
import os
import select
import socket
import struct

VERSION, PARCELS, MAPS = 1, 1, 2
ASK, PREPARED, TAKEN, MINE, FAILED = 1, 2, 3, 4, 5
REFUSED, OFFER, OFFERED_POD, POD_GONE, ALL_PODS, TAKE, YOURS = 16, 17, 18, 19, 20, 21, 22
BEGIN, PART, END, COMMIT = 1, 2, 3, 4
PROXY_PREPARED, PROXY_REFUSED, PROXY_TAKEN = 16, 17, 18


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


def ask(node, bpf_directory, newest=VERSION, oldest=VERSION, maps=MAPS):
    return bytes([ASK]) + struct.pack(">III", newest, oldest, maps) + text("test") + text(node) + text(bpf_directory)


def offer(version=VERSION, taken=4, failed=2):
    return bytes([OFFER]) + struct.pack(">I", version) + text("test") + struct.pack(">II", taken, failed)


def offered_pod(uid, cookie, has_v6=False):
    return bytes([OFFERED_POD]) + text(uid) + struct.pack(">QBB", cookie, 0, has_v6)


def begin(version=PARCELS):
    return bytes([BEGIN]) + struct.pack(">I", version)


def part(payload, fds=0, worker=0, last=True):
    return bytes([PART]) + struct.pack(">HBB", worker, last, fds) + payload


def end(parcels=0, size=0, fds=0):
    return bytes([END]) + struct.pack(">IQI", parcels, size, fds)


class Line:
    """One end of a socket with packets and fds. A dead peer shows as (None, b"", [])."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, message, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message if isinstance(message, bytes) else bytes([message])], rights)

    def receive(self, seconds=20):
        """(type, body, [fds])"""
        ready, _, _ = select.select([self.sock], [], [], seconds)
        assert ready, f"nothing came within {seconds} s"
        try:
            data, controls, _, _ = self.sock.recvmsg(1 << 17, socket.CMSG_SPACE(64 * 4))
        except ConnectionResetError:
            return None, b"", []
        fds = array.array("i")
        for _, _, rights in controls:
            fds.frombytes(rights[:len(rights) - len(rights) % fds.itemsize])
        return (data[0] if data else None), data[1:], list(fds)

    def expect(self, kind, seconds=20):
        got, body, fds = self.receive(seconds)
        assert got == kind, f"wanted message {kind}, got {got} {body!r}"
        return body, fds

    def until(self, kind, seconds=20):
        """Everything up to the first message of a kind; fds of what is passed over are closed."""
        while True:
            got, body, fds = self.receive(seconds)
            assert got is not None, f"the other side is gone before message {kind}"
            if got == kind:
                return body, fds
            for fd in fds:
                os.close(fd)

    def refusal(self, seconds=20):
        body, _ = self.until(REFUSED, seconds)
        return body[2:].decode()

    def close(self):
        self.sock.close()


def successor(path):
    """Connects as a successor would."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return Line(sock)


class Running:
    """Stands where the running agent stands: holds the lock of a run directory and listens at handover.sock."""

    def __init__(self, run_directory):
        os.makedirs(run_directory, exist_ok=True)
        self._lock = os.open(os.path.join(run_directory, "agent.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path = os.path.join(run_directory, "handover.sock")
        if os.path.exists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(path)
        self._listener.listen()
        self.line = None

    def accept(self, seconds=10):
        ready, _, _ = select.select([self._listener], [], [], seconds)
        assert ready, "no successor asks"
        self.line = Line(self._listener.accept()[0])
        self.line.expect(ASK)
        return self.line

    def offer_nothing(self):
        """Up to Prepared, with no pods."""
        line = self.accept()
        line.send(offer())
        line.send(ALL_PODS)
        line.expect(PREPARED, 40)
        return line

    def take(self):
        """The old proxy's end of a fresh pair; the other one travels."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.send(TAKE, [theirs.fileno()])
        theirs.close()
        return Line(ours)

    @property
    def lock(self):
        return self._lock

    def free_lock(self):
        os.close(self._lock)
        self._lock = -1

    def close(self):
        if self.line is not None:
            self.line.close()
        self._listener.close()
        if self._lock >= 0:
            self.free_lock()
