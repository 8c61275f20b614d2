"""What the test server and the test client share: reproducible bytes, exact reads, and how sockets end."""
import hashlib
import json
import socket
import struct
import sys

sys.dont_write_bytecode = True

BLOCK = 1 << 16
FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}
IPPROTO_MPTCP = 262


class Bytes:
    """An endless stream of bytes that both ends can make from a seed: a swapped, lost or repeated block shows."""

    def __init__(self, seed):
        self._ring = hashlib.shake_256(str(seed).encode()).digest((1 << 20) + 7)  # no multiple of any buffer's size
        self._at = 0

    def take(self, size):
        out = bytearray()
        while len(out) < size:
            piece = self._ring[self._at:self._at + size - len(out)]
            out += piece
            self._at = (self._at + len(piece)) % len(self._ring)
        return bytes(out)


def digest_of(seed, size):
    stream, digest = Bytes(seed), hashlib.sha256()
    while size:
        piece = stream.take(min(size, BLOCK))
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def send_stream(sock, seed, size):
    stream = Bytes(seed)
    while size:
        piece = stream.take(min(size, BLOCK))
        sock.sendall(piece)
        size -= len(piece)


def read_exactly(sock, size):
    """(bytes, sha256) of the next `size` bytes; fewer when the peer ends before."""
    count, digest = 0, hashlib.sha256()
    while count < size:
        piece = sock.recv(min(BLOCK, size - count))
        if not piece:
            break
        digest.update(piece)
        count += len(piece)
    return count, digest.hexdigest()


def read_to_end(sock):
    """(bytes, sha256) up to the peer's FIN. A reset raises ConnectionResetError: it is never an end."""
    count, digest = 0, hashlib.sha256()
    while piece := sock.recv(BLOCK):
        digest.update(piece)
        count += len(piece)
    return count, digest.hexdigest()


def read_line(sock, limit=1 << 16):
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            raise EOFError(f"the peer ended after {len(line)} bytes of a line")
        line += piece
        if len(line) > limit:
            raise ValueError("line too long")
    return bytes(line)


def send_json(sock, value):
    sock.sendall(json.dumps(value).encode() + b"\n")


def reset(sock):
    """Ends the connection by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def plain_address(address):
    """[ip, port] without the v4-mapped spelling and without scope."""
    ip = address[0]
    return [ip[7:] if ip.startswith("::ffff:") else ip, address[1]]
