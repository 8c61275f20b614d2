"""What is seen between the nodes, and what strangers may throw at the doors."""
import contextlib
import json
import os
import random
import select
import socket
import ssl
import subprocess
import threading

import pytest

from bed import PEERS, eventually, is_refused, shell

MARKER = "kein-byte-im-klartext"


class Sniffer:
    def __init__(self, bed, node, interface="up0"):
        self._process = subprocess.Popen(["/usr/bin/python3", os.path.join(PEERS, "sniff.py"), interface, MARKER], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         preexec_fn=lambda: shell.enter_netns(bed.names.node_netns(node)))
        assert self._line() == "ready\n"

    def _line(self):
        ready, _, _ = select.select([self._process.stdout], [], [], 10)
        assert ready, "the sniffer is silent"
        return self._process.stdout.readline()

    def stop(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@contextlib.contextmanager
def sniffer(bed, node="node1"):
    made = Sniffer(bed, node)
    try:
        yield made
    finally:
        made.close()


def talk(bed, source, to, **how):
    """A request and an echo with the marker in both directions."""
    hand = bed.new_hand(source)
    try:
        hand.start("keep", to=to, **how)
        assert "sees_peer" in hand.answer()
        hand.say(MARKER)
        assert hand.answer() == {"echo": MARKER + "\n"}
    finally:
        hand.close()


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("to, port", [(["far.back", 80], 8080), (["hbone.back", 80], 15008)], ids=["in place", "15008"])
def test_no_byte_in_clear(bed, to, port, family):
    with sniffer(bed) as watch:
        talk(bed, "front/web", to, family=family)
        seen = watch.stop()
    assert seen["lost"] == 0 and seen["packets"] > 2
    assert seen["marked"] == 0, "the request is readable between the nodes"
    assert port in seen["ports"], "the network policies of the cluster do not see the port they speak of"
    assert port == 15008 or 15008 not in seen["ports"]


def test_the_sniffer_sees_plaintext(bed):
    with sniffer(bed) as watch:
        talk(bed, "outside/client", [bed.ip("outside/shop"), 8080])
        assert watch.stop()["marked"] >= 2


def test_first_bytes_of_fast_open_are_not_in_clear(bed):
    with sniffer(bed) as watch:
        for _ in range(2):  # the second has a cookie, if ever there is one
            answer = bed.call("front/web", "fast_open", to=["far.back", 80])
            assert answer.get("pod") == "api-1", answer
        seen = watch.stop()
    assert seen["marked"] == 0 and 8080 in seen["ports"]


# ---- strangers -----------------------------------------------------------------------------------------------------------

_random = random.Random(4711)
GARBAGE = {
    "random": _random.randbytes(3000),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: api.back\r\n\r\n",
    "HTTP/2 in clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "CONNECT in clear": b"CONNECT 10.244.2.10:8080 HTTP/1.1\r\n\r\n",
    "TLS record without end": b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc" + b"A" * 100,
    "oversized TLS record": b"\x16\x03\x01\xff\xff" + b"\x01" * 20000,
    "TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "one byte": b"\x16",
    "nothing": b"",
}


@pytest.mark.parametrize("source", ["outside/client", "front/web"])
@pytest.mark.parametrize("what", GARBAGE, ids=str)
def test_garbage_on_15008_gets_nothing(bed, what, source):
    """front/web excludes nothing: its connection is captured and its garbage is an application's bytes for port 15008."""
    answer = bed.call(source, "raw", seconds=20, to=[bed.ip("back/hbone"), 15008], bytes=GARBAGE[what].hex(), fin=True, wait=12)
    if "failed" in answer:
        assert is_refused(answer), answer
    else:
        assert answer["ended"] in ("fin", "reset"), answer
        # At most a TLS alert comes back.
        assert answer["received"] == "" or answer["received"].startswith("15"), answer
    assert bed.call("front/web", "who", to=["hbone.back", 80]).get("pod") == "hbone", "the door is broken"


@pytest.mark.parametrize("what", [what for what in GARBAGE if what != "nothing"], ids=str)
@pytest.mark.parametrize("source", ["outside/client", "front/excluding"])
def test_garbage_on_the_application_port_is_the_applications(bed, what, source):
    """PERMISSIVE: it is plaintext and reaches the application byte for byte, even where a tunnel might have come from
    (an excluded port: a mesh address that speaks plaintext)."""
    port = 8080 if source == "outside/client" else 7000
    # The order line makes the server count what follows it; what follows is the garbage.
    payload = GARBAGE[what]
    order = b'{"do": "client_first", "size": 0, "seed": 0}\n'
    answer = bed.call(source, "raw", to=[bed.ip("back/api-1"), port], bytes=(order + payload).hex(), fin=True, wait=12)
    assert answer.get("ended") == "fin", answer
    assert json.loads(bytes.fromhex(answer["received"]))["count"] == len(payload)


def test_first_bytes_of_garbage_from_a_mesh_address(bed):
    """A mesh address that speaks plaintext looking like the start of TLS: waited for, then judged as plaintext."""
    answer = bed.call("front/excluding", "raw", to=[bed.ip("back/api-1"), 7000], bytes="16030102000100", fin=True, wait=12)
    assert answer.get("ended") in ("fin", "reset"), answer


def test_tls_of_the_application_is_not_taken_for_a_tunnel(bed):
    """A real ClientHello with the application's own ALPN passes through to the application, in the mesh and from outside."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.wrap_bio(incoming, outgoing, server_hostname="api.back").do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    for source, to in (("front/web", ["far.back", 80]), ("outside/client", [bed.ip("back/api-1"), 8080]),
                       ("front/excluding", [bed.ip("back/api-1"), 7000])):
        # The server takes the hello for its order line, cannot read it and closes: it has reached the application.
        before = bed.log("back/api-1").count("JSONDecodeError") + bed.log("back/api-1").count("UnicodeDecodeError")
        bed.call(source, "raw", to=to, bytes=(hello + b"\n").hex(), fin=True, wait=12)
        eventually(lambda: bed.log("back/api-1").count("JSONDecodeError") + bed.log("back/api-1").count("UnicodeDecodeError") > before,
                   10, f"the application has not seen the ClientHello of {source}")


def test_strangers_that_hang_do_not_starve_others(bed):
    """200 connections to 15008 that never speak."""
    made = []
    try:

        def hang():
            shell.enter_netns(bed.names.node_netns("node1"))
            for _ in range(200):
                sock = socket.socket()
                sock.settimeout(5)
                sock.connect((bed.ip("back/hbone"), 15008))
                made.append(sock)
        thread = threading.Thread(target=hang)
        thread.start()
        thread.join(30)
        for to in (["hbone.back", 80], ["far.back", 80]):
            assert "pod" in bed.call("front/web", "who", seconds=5, to=to)
    finally:
        for sock in made:
            sock.close()
