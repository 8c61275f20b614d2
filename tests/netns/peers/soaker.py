#!/usr/bin/python3
"""A pod's part of the soak: connections of every kind to the other pods until stdin says `stop`, one line of JSON for each that has
ended: from when to when (CLOCK_MONOTONIC), to whom, what it did, and how it ended."""
import errno
import json
import random
import socket
import sys
import threading
import time

import wire

LONGEST_SILENCE = 4  # seconds that a client says nothing
DEADLINE = 60  # of one step of a connection: silence for so long is an outcome of its own


class Corrupt(Exception):
    pass


def expect(what, got, wanted):
    if got != wanted:
        raise Corrupt(f"{what}: {got} for {wanted}")


def client_first(sock, rng, tag, size, ended):
    """Sends all, half-closes, and only then is answered."""
    down = rng.randrange(1, size + 2)
    wire.send_json(sock, {"do": "client_first", "size": down, "seed": f"down {tag}", "expect": size})
    wire.send_stream(sock, f"up {tag}", size)
    sock.shutdown(socket.SHUT_WR)
    server = json.loads(wire.read_line(sock))
    expect("what the server has read", server, {"count": size, "digest": wire.digest_of(f"up {tag}", size)})
    expect_stream(sock, f"down {tag}", down)


def expect_stream(sock, seed, size):
    """Whole and nothing behind it; an end before is EOFError."""
    count, digest = wire.read_to_end(sock)
    if count < size:
        raise EOFError(f"the peer ended after {count} of {size} bytes")
    expect("what came", (count, digest), (size, wire.digest_of(seed, size)))


def duplex(sock, rng, tag, size, ended):
    """Both directions at once."""
    down = rng.randrange(1, size + 2)
    wire.send_json(sock, {"do": "duplex", "size": down, "seed": f"down {tag}"})
    broken = []

    def send():
        try:
            wire.send_stream(sock, f"up {tag}", size)
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            broken.append(error)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        count, digest = wire.read_exactly(sock, down)
    finally:
        sender.join()
    if broken:
        raise broken[0]
    if count < down:
        raise EOFError(f"the peer ended after {count} of {down} bytes")
    expect("what came", digest, wire.digest_of(f"down {tag}", down))
    server = json.loads(wire.read_line(sock))
    expect("what the server has read", server, {"count": size, "digest": wire.digest_of(f"up {tag}", size)})


def idle(sock, rng, tag, size, ended):
    """A line and its echo, now and then, with nothing for seconds in between."""
    wire.send_json(sock, {"do": "pingpong"})
    for number in range(rng.randrange(2, 8)):
        line = f"{tag} {number} {'x' * rng.randrange(0, 2000)}\n".encode()
        sock.sendall(line)
        expect("the echo", wire.read_line(sock), line)
        if ended.wait(rng.choice((0, 0.2, 1, LONGEST_SILENCE))):
            break
    sock.shutdown(socket.SHUT_WR)
    expect("after the end", wire.read_to_end(sock)[0], 0)


def abandon(sock, rng, tag, size, ended):
    """The client loses interest in the middle and resets; whatever happens is right, as long as nothing of it stays behind."""
    wire.send_json(sock, {"do": "client_first", "size": size + 1, "seed": tag})
    try:
        wire.send_stream(sock, f"up {tag}", size)
    except OSError:
        pass
    wire.reset(sock)


KINDS = {"half-close": client_first, "duplex": duplex, "idle": idle, "abandon": abandon}
WEIGHTS = {"half-close": 5, "duplex": 5, "idle": 2, "abandon": 1}


def outcome(kind, rng, to, tag, size, ended):
    try:
        with socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET) as sock:
            sock.settimeout(DEADLINE)
            try:
                sock.connect(tuple(to))
            except ConnectionError as error:
                return "refused", repr(error)
            KINDS[kind](sock, rng, tag, size, ended)
        return "whole", ""
    except ConnectionError as error:
        return "reset", repr(error)
    except TimeoutError:
        return "silent", f"for {DEADLINE} s"
    except EOFError as error:
        return "truncated", str(error)
    except (Corrupt, ValueError) as error:
        return "corrupt", str(error)
    except OSError as error:
        known = error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM, errno.ENOTCONN)
        return ("reset" if known else "odd"), repr(error)


def work(number, order, ended, lock):
    rng = random.Random(f"{order['seed']} {order['pod']} {number}")
    count = 0
    while not ended.is_set():
        count += 1
        name, *to = rng.choice(order["targets"])
        kind = rng.choices(list(KINDS), [WEIGHTS[kind] for kind in KINDS])[0]
        size = int(2 ** rng.uniform(0, order["size_bits"]))
        tag = f"{order['pod']} {number} {count}"
        began = time.monotonic()
        end, text = outcome(kind, rng, to, tag, size, ended)
        with lock:
            print(json.dumps({"from": order["pod"], "to": name, "kind": kind, "size": size, "began": began, "ended": time.monotonic(),
                              "outcome": end, "text": text}), flush=True)
        if end != "whole":
            ended.wait(0.05)  # who is refused does not come back at once


def main():
    threading.stack_size(512 << 10)
    order, ended, lock = json.loads(sys.stdin.readline()), threading.Event(), threading.Lock()
    threads = [threading.Thread(target=work, args=(number, order, ended, lock)) for number in range(order["workers"])]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    ended.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
