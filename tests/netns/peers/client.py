#!/usr/bin/python3
"""The hand of a test inside a pod: one JSON order per line on stdin, one JSON answer per line on stdout.

An operation that fails answers {"failed": "ClassName", "errno": N, "text": "…"}: refusals and resets are results here."""
import errno
import json
import os
import select
import socket
import sys
import threading
import time

import wire


def resolve(host, port, family=None, mapped=False):
    wanted = socket.AF_INET if mapped else wire.FAMILIES.get(family, 0)
    found = socket.getaddrinfo(host, port, wanted, socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    if mapped:
        return socket.AF_INET6, ("::ffff:" + address[0], address[1], 0, 0)
    return family, address


def connect(to, family=None, mapped=False, protocol=0, timeout=15, source_port=0, nonblocking=False, fast_open=None, **_):
    family, address = resolve(to[0], to[1], family, mapped)
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    sock.settimeout(timeout)
    if source_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier run's TIME_WAIT
        sock.bind(("::" if family == socket.AF_INET6 else "", source_port))
    if fast_open is not None:
        sock.settimeout(None)  # blocking: without a cookie the data follows the handshake
        sock.sendto(fast_open, socket.MSG_FASTOPEN, address)
        sock.settimeout(timeout)
    elif nonblocking:
        connect_nonblocking(sock, address, timeout)
    else:
        sock.connect(address)
    return sock


def connect_nonblocking(sock, address, timeout):
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(timeout * 1000):
        raise TimeoutError("connect")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.settimeout(timeout)


def names_of(sock):
    return {"sees_peer": wire.plain_address(sock.getpeername()), "sees_self": wire.plain_address(sock.getsockname())}


def op_resolve(order):
    found = socket.getaddrinfo(order["to"][0], order["to"][1], 0, socket.SOCK_STREAM)
    return {"addresses": sorted({entry[4][0] for entry in found})}


def op_who(order):
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "who"})
        return {**json.loads(wire.read_line(sock)), **names_of(sock)}


def op_fast_open(order):
    with connect(fast_open=b'{"do": "who"}\n', **order) as sock:
        return {**json.loads(wire.read_line(sock)), **names_of(sock)}


def op_greeting(order):
    """The client says nothing until the server has spoken."""
    with connect(**order) as sock:
        began = time.monotonic()
        banner = json.loads(wire.read_line(sock))
        seconds = time.monotonic() - began
        sock.sendall(b"thanks\n")
        return {**banner, "seconds": seconds, "reply": wire.read_line(sock).decode(), "rest": wire.read_to_end(sock)[0]}


def op_order(order):
    """One order to the server, its line of answer."""
    with connect(**order) as sock:
        wire.send_json(sock, order["order"])
        return json.loads(wire.read_line(sock))


def op_duplex(order):
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "duplex", "size": order["size"], "seed": "down"})

        def send():
            wire.send_stream(sock, "up", order["size"])
            sock.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        count, digest = wire.read_exactly(sock, order["size"])
        sender.join()
        server = json.loads(wire.read_line(sock))
        return {"count": count, "digest": digest, "server": server, "rest": wire.read_to_end(sock)[0]}


def op_client_first(order):
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "client_first", "size": order["size"], "seed": "down"})
        wire.send_stream(sock, "up", order["size"])
        sock.shutdown(socket.SHUT_WR)
        server = json.loads(wire.read_line(sock))
        count, digest = wire.read_to_end(sock)
        return {"count": count, "digest": digest, "server": server}


def op_server_first(order):
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "server_first", "size": order["size"], "seed": "down", "token": order["token"]})
        count, digest = wire.read_to_end(sock)
        wire.send_stream(sock, "up", order["size"])
        sock.shutdown(socket.SHUT_WR)
        return {"count": count, "digest": digest}


def op_both_close(order):
    """Both send and close their half without waiting for each other."""
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "server_first", "size": order["size"], "seed": "down", "token": order["token"]})
        wire.send_stream(sock, "up", order["size"])
        sock.shutdown(socket.SHUT_WR)
        count, digest = wire.read_to_end(sock)
        return {"count": count, "digest": digest}


def op_server_resets(order):
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "reset", "size": order["size"], "seed": "down"})
        count, digest = wire.read_exactly(sock, order["size"])
        sock.sendall(b"go\n")
        try:
            ended = "fin" if sock.recv(1) == b"" else "data"
        except ConnectionResetError:
            ended = "reset"
        return {"count": count, "digest": digest, "ended": ended}


def op_client_resets(order):
    sock = connect(**order)
    wire.send_json(sock, {"do": "silent", "token": order["token"]})
    wire.read_line(sock)  # a reset takes with it what is still on its way: first be sure that the server is there
    wire.send_stream(sock, "up", order["size"])
    wire.reset(sock)
    return {}


def op_slow_reader(order):
    """Sends until the way is full (nothing accepted for a second), has the server read, sends the rest."""
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "slow", "token": order["token"]})
        wire.read_line(sock)
        stream, sent, stuck = wire.Bytes("up"), 0, 0
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        pending = b""
        while sent < order["size"]:
            if not poll.poll(1000):
                stuck = stuck or sent
                with connect(**order) as other:
                    wire.send_json(other, {"do": "release", "token": order["token"]})
                    wire.read_line(other)
            pending = pending or stream.take(min(wire.BLOCK, order["size"] - sent))
            try:
                done = sock.send(pending, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            pending, sent = pending[done:], sent + done
        sock.shutdown(socket.SHUT_WR)
        return {"stuck": stuck, "server": json.loads(wire.read_line(sock))}


def op_crowd(order):
    """Many connections at once: all open before the first speaks, all answered before the first ends."""
    family, address = resolve(order["to"][0], order["to"][1], order.get("family"))
    poll, socks = select.poll(), {}
    for _ in range(order["count"]):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        poll.register(sock, select.POLLOUT)
        socks[sock.fileno()] = sock
    waiting, deadline = set(socks), time.monotonic() + order["seconds"]
    while waiting and time.monotonic() < deadline:
        for fd, _ in poll.poll(200):
            waiting.discard(fd)
            poll.unregister(fd)
    wrong = {"not connected": len(waiting)}
    for number, sock in enumerate(socks.values()):
        sock.settimeout(order["seconds"])
        wire.send_json(sock, {"do": "pingpong"})
        sock.sendall(b"%d\n" % number)
    answered = 0
    for number, sock in enumerate(socks.values()):
        try:
            answered += wire.read_line(sock) == b"%d\n" % number
        except (OSError, EOFError) as error:
            wrong[repr(error)] = wrong.get(repr(error), 0) + 1
    for sock in socks.values():
        sock.close()
    return {"answered": answered, "wrong": {key: value for key, value in wrong.items() if value}}


def _one_exchange(order, number, counts, lock):
    """One connection with a few hundred KB both ways, checked; counts how it went."""
    try:
        with connect(**order) as sock:
            size = order["size"]
            wire.send_json(sock, {"do": "client_first", "size": size, "seed": f"down{number}", "expect": size})
            wire.send_stream(sock, f"up{number}", size)
            sock.shutdown(socket.SHUT_WR)
            server = json.loads(wire.read_line(sock))
            count, digest = wire.read_to_end(sock)  # a FIN: claims to be everything
        good = (count, digest) == (size, wire.digest_of(f"down{number}", size)) and \
            (server["count"], server["digest"]) == (size, wire.digest_of(f"up{number}", size))
        outcome = "whole" if good else "truncated" if count < size else "corrupt"
    except (ConnectionError, TimeoutError):
        outcome = "broken"
    except EOFError:  # a FIN where the answer should be
        outcome = "truncated"
    except ValueError:
        outcome = "corrupt"
    except OSError as error:
        outcome = "broken" if error.errno in (errno.EHOSTUNREACH, errno.EPERM, errno.ENOTCONN) else f"odd: {error!r}"
    with lock:
        counts[outcome] = counts.get(outcome, 0) + 1


def op_load(order):
    """Threads that exchange and check until stdin says `stop`; each `ping` is answered with the counts so far."""
    counts, lock, ended = {}, threading.Lock(), threading.Event()

    def work(first):
        number = first
        while not ended.is_set():
            _one_exchange(order, number, counts, lock)
            number += order["threads"]
    threads = [threading.Thread(target=work, args=(first,)) for first in range(order["threads"])]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        with lock:
            print(json.dumps(counts), flush=True)
    ended.set()
    for thread in threads:
        thread.join()
    return counts


def op_keep(order):
    """One connection kept open: each further line on stdin is sent, its echo is the answer, until `end`."""
    with connect(**order) as sock:
        wire.send_json(sock, {"do": "pingpong"})
        print(json.dumps(names_of(sock)), flush=True)
        for line in sys.stdin:
            if line.strip() == "end":
                break
            try:
                sock.sendall(line.encode())
                print(json.dumps({"echo": wire.read_line(sock).decode()}), flush=True)
            except (OSError, EOFError) as error:
                print(json.dumps(failure(error)), flush=True)
    return {}


def op_raw(order):
    """Bytes as they are, then what comes back and how it ends."""
    with connect(**order) as sock:
        sock.settimeout(order.get("wait", 10))
        received = b""
        try:
            sock.sendall(bytes.fromhex(order["bytes"]))
            if order.get("fin"):
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(4096):
                received += piece
            ended = "fin"
        except TimeoutError:
            ended = "silence"
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            ended = "reset"
        return {"received": received.hex(), "ended": ended}


def op_udp(order):
    """UDP is not ours: connect() on a datagram socket must keep its destination."""
    family, address = resolve(order["to"][0], order["to"][1], order.get("family"))
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        return names_of(sock)


def op_say(order):
    """A text and the end; then how the other side ends."""
    with connect(**order) as sock:
        try:
            sock.sendall(order["text"].encode())
            sock.shutdown(socket.SHUT_WR)
            wire.read_to_end(sock)
            return {"ended": "fin"}
        except ConnectionResetError:
            return {"ended": "reset"}


def op_say_and_reset(order):
    with connect(**order) as sock:
        sock.sendall(order["text"].encode())
        wire.reset(sock)
    return {}


def op_fork(order):
    """Connects, and leaves the rest to a child."""
    sock = connect(**order)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        wire.send_json(sock, {"do": "who"})
        os.write(writer, json.dumps({**json.loads(wire.read_line(sock)), **names_of(sock)}).encode())
        os._exit(0)
    sock.close()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def op_squat(order):
    """Listens where it should not, and connects past its own listeners."""
    listeners, errnos = [], []
    for ip, port in order["at"]:
        listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, order["reuseport"])
        try:
            listener.bind((ip, port))
            listener.listen(16)
            errnos.append(0)
        except OSError as error:
            errnos.append(error.errno)
        listener.setblocking(False)
        listeners.append(listener)
    answers = []
    for to in order["to"]:
        try:
            answers.append(op_who({"to": to}))
        except (OSError, EOFError, ValueError) as error:
            answers.append(failure(error))
    caught = len([listener for listener in select.select(listeners, [], [], 0)[0] if errnos[listeners.index(listener)] == 0])
    for listener in listeners:
        listener.close()
    return {"errnos": errnos, "answers": answers, "caught": caught}


def op_udp_burst(order):
    family, address = resolve(order["to"][0], order["to"][1], order.get("family"))
    for _ in range(order["count"]):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
    return {"count": order["count"]}


def failure(error):
    return {"failed": type(error).__name__, "errno": getattr(error, "errno", None), "text": str(error)}


def main():
    threading.stack_size(256 << 10)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = globals()["op_" + order.pop("op")](order)
        except (OSError, EOFError, ValueError) as error:
            answer = failure(error)
        print(json.dumps(answer), flush=True)


main()
