#!/usr/bin/python3
"""An application that attacks by racing: threads that bind the same few source ports, connect, dissolve, reset and connect again, to the
mesh, past it and at the agent itself. One JSON order on stdin; on stdout what came of it, and every answer that came from the wrong place."""
import ctypes
import errno
import json
import os
import random
import socket
import sys
import threading
import time

import wire

LIBC = ctypes.CDLL(None, use_errno=True)
REFUSALS = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ECONNABORTED)
NO_PORT = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)


class Racer:
    def __init__(self, order):
        self.order = order
        self.until = time.monotonic() + order["seconds"]
        self.counts, self.wrong, self.lock = {}, [], threading.Lock()

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def socket(self, address, bound=True):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(5)
        if bound and self.order["ports"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("::" if family == socket.AF_INET6 else "", random.choice(self.order["ports"])))
        return sock

    def target(self, family=None):
        return random.choice([t for t in self.order["targets"] if family is None or (":" in t["to"][0]) == (family == socket.AF_INET6)])

    def ask(self, sock, target, said=None):
        """Asks who is there, or hears the answer to what was said; it must be the one who was dialled, and the answer ours."""
        nonce = said or f"{os.getpid()} {threading.get_ident()} {random.random()}"
        if not said:
            wire.send_json(sock, {"do": "who", "nonce": nonce})
        answer = json.loads(wire.read_line(sock))
        own = self.order["own"][":" in target["to"][0]]
        good = answer["pod"] in target["pods"] and answer["nonce"] == nonce and answer["peer"][0] == own
        if not good:
            with self.lock:
                self.wrong.append({"target": target, "nonce": nonce, "own": own, "answer": answer})
        self.count("answered")

    def end(self, sock):
        if random.random() < 0.5:
            wire.reset(sock)
        else:
            sock.close()

    # ---- one attempt each ----
    def talk(self):
        target = self.target()
        with self.socket(target["to"], bound=random.random() < 0.8) as sock:
            sock.connect(tuple(target["to"]))
            self.ask(sock, target)
            self.end(sock)

    def mute(self):
        """Writes and resets at once: what it wrote may still wait for the agent when the port is used again."""
        target = self.target()
        with self.socket(target["to"]) as sock:
            sock.connect(tuple(target["to"]))
            if random.random() < 0.5:
                wire.send_json(sock, {"do": "who", "nonce": "nobody hears this"})
            wire.reset(sock)

    def give_up(self):
        target = self.target()
        with self.socket(target["to"]) as sock:
            sock.setblocking(False)
            sock.connect_ex(tuple(target["to"]))
            self.end(sock)

    def dissolve(self):
        first = self.target()
        with self.socket(first["to"]) as sock:
            sock.connect(tuple(first["to"]))
            if LIBC.connect(sock.fileno(), b"\0" * 16, 16) != 0:  # AF_UNSPEC
                raise OSError(ctypes.get_errno(), "dissolve")
            second = self.target(sock.family)
            sock.connect(tuple(second["to"]))
            self.ask(sock, second)
            self.end(sock)

    def twice(self):
        first = self.target()
        with self.socket(first["to"]) as sock:
            sock.connect(tuple(first["to"]))
            # 0 of a non-blocking socket tells that the first one is done; whatever it says, the peer stays who he was.
            code = sock.connect_ex(tuple(self.target(sock.family)["to"]))
            if code not in (0, errno.EISCONN):
                raise OSError(code, os.strerror(code))
            self.ask(sock, first)

    def fast_open(self):
        target = self.target()
        nonce = f"fast {os.getpid()} {random.random()}"
        with self.socket(target["to"]) as sock:
            sock.settimeout(None)
            sock.sendto(json.dumps({"do": "who", "nonce": nonce}).encode() + b"\n", socket.MSG_FASTOPEN, tuple(target["to"]))
            sock.settimeout(5)
            self.ask(sock, target, said=nonce)

    def duplicate(self):
        target = self.target()
        with self.socket(target["to"]) as sock:
            twin = sock.dup()
            twin.settimeout(5)
            twin.connect(tuple(target["to"]))
            sock.close()
            self.ask(twin, target)
            twin.close()

    def at_the_agent(self):
        """Where captured connections go, dialled by hand: from a port that others were just captured from."""
        address = random.choice(self.order["agent"])
        with self.socket(address) as sock:
            sock.connect(tuple(address))
            wire.send_json(sock, {"do": "who", "nonce": "let in"})
            answer = sock.recv(1)
            if answer:
                with self.lock:
                    self.wrong.append({"agent": address, "answer": answer.decode(errors="replace")})
            self.count("the agent hung up" if not answer else "the agent answered")

    def run(self):
        attempts = [getattr(self, name) for name in self.order["attempts"]]
        while time.monotonic() < self.until:
            attempt = random.choice(attempts)
            try:
                attempt()
            except (TimeoutError, BlockingIOError):
                self.count("timeout")
            except EOFError:
                self.count("refused")
            except OSError as error:
                self.count("refused" if error.errno in REFUSALS else "no port" if error.errno in NO_PORT else f"{attempt.__name__}: {error!r}")
            except Exception as error:  # not an answer at all: that is a finding, too
                with self.lock:
                    self.wrong.append({"attempt": attempt.__name__, "error": repr(error)})


def main():
    racer = Racer(json.loads(sys.stdin.readline()))
    threads = [threading.Thread(target=racer.run) for _ in range(racer.order["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"counts": racer.counts, "wrong": racer.wrong[:5]}), flush=True)


main()
