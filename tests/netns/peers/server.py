#!/usr/bin/python3
"""The application of the tests' pods. Ports 8080, 8084, 8086: the client's first line says in JSON what to do. Port 9000: the
server speaks first. Each further port of the command line behaves like 8080."""
import json
import os
import socket
import sys
import threading
import time

import wire

RESULTS = {}
RESULTS_LOCK = threading.Condition()


def who(sock, peer):
    return {"pod": os.environ.get("POD_NAME", ""), "peer": wire.plain_address(peer),
            "name": wire.plain_address(sock.getpeername()), "local": wire.plain_address(sock.getsockname())}


def remember(token, **result):
    with RESULTS_LOCK:
        RESULTS[token] = result
        RESULTS_LOCK.notify_all()


def do_who(sock, peer, order):
    wire.send_json(sock, {**who(sock, peer), **({"nonce": order["nonce"]} if "nonce" in order else {})})


def do_result(sock, peer, order):
    """What an earlier connection has seen, once it has ended."""
    with RESULTS_LOCK:
        RESULTS_LOCK.wait_for(lambda: order["token"] in RESULTS, timeout=order.get("seconds", 10))
        wire.send_json(sock, RESULTS.get(order["token"]))


def do_echo(sock, peer, order):
    while piece := sock.recv(wire.BLOCK):
        sock.sendall(piece)


def do_duplex(sock, peer, order):
    """Sends `size` bytes while it reads to the client's FIN; then, the client's half being closed, what it has read."""
    sender = threading.Thread(target=wire.send_stream, args=(sock, order["seed"], order["size"]))
    sender.start()
    count, digest = wire.read_to_end(sock)
    sender.join()
    wire.send_json(sock, {"count": count, "digest": digest})


def do_client_first(sock, peer, order):
    """Reads to the FIN and only then answers: data after a half-close, towards the client."""
    count, digest = wire.read_to_end(sock)
    if count != order.get("expect", count):
        print(f"truncated: a FIN after {count} of {order['expect']} bytes from {peer[0]} {peer[1]}", flush=True)
    wire.send_json(sock, {"count": count, "digest": digest})
    wire.send_stream(sock, order["seed"], order["size"])


def do_server_first(sock, peer, order):
    """Sends, half-closes, and reads on: data after a half-close, towards the server."""
    wire.send_stream(sock, order["seed"], order["size"])
    sock.shutdown(socket.SHUT_WR)
    count, digest = wire.read_to_end(sock)
    remember(order["token"], count=count, digest=digest)


def do_silent(sock, peer, order):
    """Sends nothing but that it is there and waits for the client's end."""
    try:
        wire.send_json(sock, {"ready": True})
        count, digest = wire.read_to_end(sock)
        remember(order["token"], count=count, digest=digest, end="fin")
    except OSError as error:
        remember(order["token"], end=error.__class__.__name__)


def do_reset(sock, peer, order):
    """Some bytes, then an RST: the client must not take it for the end."""
    wire.send_stream(sock, order["seed"], order["size"])
    wire.read_line(sock)  # the client has them all
    wire.reset(sock)


def do_slow(sock, peer, order):
    """Reads nothing until another connection gives leave (`release`), then everything."""
    wire.send_json(sock, {"ready": True})
    with RESULTS_LOCK:
        RESULTS_LOCK.wait_for(lambda: "release " + order["token"] in RESULTS, timeout=60)
    count, digest = wire.read_to_end(sock)
    wire.send_json(sock, {"count": count, "digest": digest})


def do_release(sock, peer, order):
    remember("release " + order["token"])
    wire.send_json(sock, {"ok": True})


def do_pingpong(sock, peer, order):
    """A line for a line, numbered: what is lost, repeated or changed shows at once."""
    while True:
        try:
            line = wire.read_line(sock)
        except EOFError:
            return
        sock.sendall(line)


def serve(sock, peer):
    try:
        sock.settimeout(120)
        order = json.loads(wire.read_line(sock))
        globals()["do_" + order["do"]](sock, peer, order)
    except (OSError, EOFError, ValueError) as error:
        print(f"{time.time():.3f} {peer[0]} {peer[1]}: {error!r}", flush=True)
    finally:
        sock.close()


def greet(sock, peer):
    try:
        sock.settimeout(120)
        wire.send_json(sock, who(sock, peer))
        sock.sendall(wire.read_line(sock))  # and then says one line back
    except (OSError, EOFError, ValueError):
        pass
    finally:
        sock.close()


def listen(port, behaviour):
    """Both families in one socket; 8084 is a socket of IPv4 and 8086 one of IPv6 alone."""
    if port == 8084:
        listener = socket.create_server(("0.0.0.0", port), backlog=4096)
    else:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=4096, dualstack_ipv6=port != 8086)
    while True:
        sock, peer = listener.accept()
        print(f"{time.time():.3f} accepted {peer[0]} {peer[1]} on {port}", flush=True)
        threading.Thread(target=behaviour, args=(sock, peer), daemon=True).start()


def main():
    threading.stack_size(256 << 10)
    ports = {8080: serve, 8084: serve, 8086: serve, 9000: greet} | {int(port): serve for port in sys.argv[1:]}
    threads = [threading.Thread(target=listen, args=item) for item in ports.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
