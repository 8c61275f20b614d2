"""A pod of ours calls one whose tunnels another implementation ends, on port 15008."""
import contextlib
import threading

import pytest

import h2peer
import wire
from bed import eventually, is_refused, shell
from foreign import Foreigner, Relay
from h2peer import frames

MEGABYTE = 1 << 20
SHOP = ["shop.foreign", 80]
MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: foreign, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: shop
  namespace: foreign
  labels: {app: shop}
  annotations: {lab.fairlead.dev/run: exec python3 $PEERS/server.py, lab.fairlead.dev/foreign: h2peer, fairlead.dev/tunnel: "15008"}
spec: {nodeName: node2, serviceAccountName: shop, containers: [{name: app}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: foreign}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}, {name: greeting, port: 90, targetPort: 9000}, {name: nobody, port: 99, targetPort: 9999}]}
"""


@pytest.fixture(scope="module")
def everybody(bed):
    made = Foreigner(bed)
    with bed.applied(MANIFEST, "Service/foreign/shop", "Pod/foreign/shop", "Namespace//foreign"):
        bed.wait_for_applications()
        yield made
        made.close()


@pytest.fixture
def serve(everybody):
    """serve(): a server that relays; serve(make): one that does what `make(sock)` does."""
    yield lambda make=None, name="foreign/shop": everybody.server("foreign/shop", name, make)
    everybody.close_all()


class Told(h2peer.Peer):
    """Does `what(peer, stream)` on each request."""

    def __init__(self, sock, what, **how):
        self.what = what
        super().__init__(sock, server=True, **how)

    def on_connect(self, stream):
        self.what(self, stream)


def told(what, **how):
    return lambda sock: Told(sock, what, **how)


def fine(server):
    assert not [text for text in server.errors if text.startswith("judged")], server.errors


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_tunnel_and_its_headers(bed, serve, family):
    server = serve()
    answer = bed.call("front/web", "who", to=SHOP, family=family)
    assert answer["pod"] == "shop" and answer["sees_peer"] == [bed.ip("svc/foreign/shop", family), 80]
    stream = server.connects()[0]
    ip = bed.ip("foreign/shop", family)
    assert stream.header(":authority") == (f"[{ip}]:8080" if family == "6" else f"{ip}:8080")
    own, port = bed.ip("front/web", family), answer["sees_self"][1]
    client = f"[{own}]:{port}" if family == "6" else f"{own}:{port}"
    assert stream.header("forwarded") == f'for="{client}";host=shop.foreign.svc.cluster.local'
    assert server.identities == ["spiffe://cluster.local/ns/front/sa/web"]
    fine(server)


def test_the_server_speaks_first(bed, serve):
    serve()
    answer = bed.call("front/web", "greeting", to=["shop.foreign", 90])
    assert answer["pod"] == "shop" and answer["reply"] == "thanks\n"


def test_another_identity_is_not_spoken_to(bed, serve):
    server = serve(name="front/other")
    assert is_refused(bed.call("front/web", "who", to=SHOP))
    assert not server.connects()


SETTINGS = [{}, {h2peer.WINDOW: 100}, {h2peer.WINDOW: 8 * MEGABYTE, h2peer.FRAME: 1 << 20}, {h2peer.TABLE: 0}, {h2peer.TABLE: 1 << 20},
            {h2peer.STREAMS: 1}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("pad", [None, 255])
def test_transfers(bed, serve, settings, pad):
    size = 200_000 if settings.get(h2peer.WINDOW) == 100 else 6 * MEGABYTE

    class Padding(Relay):
        def on_connect(self, stream):
            stream.pad = pad
            super().on_connect(stream)
    server = serve(lambda sock: Padding(sock, server=True, settings=settings))
    answer = bed.call("front/web", "duplex", seconds=90, to=SHOP, size=size)
    assert (answer["count"], answer["digest"]) == (size, wire.digest_of("down", size))
    assert answer["server"] == {"count": size, "digest": wire.digest_of("up", size)}
    assert answer["rest"] == 0
    fine(server)


@pytest.mark.parametrize("op", ["client_first", "server_first", "both_close"])
def test_half_close(bed, serve, op):
    server = serve()
    token = f"foreign {op}"
    answer = bed.call("front/web", op, to=SHOP, size=300_000, token=token)
    assert (answer["count"], answer["digest"]) == (300_000, wire.digest_of("down", 300_000))
    up = answer.get("server") or bed.call("front/web", "order", to=SHOP, order={"do": "result", "token": token})
    assert (up["count"], up["digest"]) == (300_000, wire.digest_of("up", 300_000))
    fine(server)
    assert all(stream.reset is None for stream in server.connects())


def test_a_slow_application_holds_back_its_own_stream_only(bed, serve):
    server = serve()
    size = 24 * MEGABYTE
    answer = bed.call("front/web", "slow_reader", seconds=90, to=SHOP, size=size, token="foreign slow")
    assert 0 < answer["stuck"] < size, "another connection went through meanwhile"
    assert answer["server"] == {"count": size, "digest": wire.digest_of("up", size)}
    fine(server)


@pytest.mark.parametrize("limit", [1, 10])
def test_a_peer_that_takes_few_streams(bed, serve, limit):
    """The first burst leaves before its SETTINGS have come: what it refuses is tried again."""

    class Strict(Relay):
        def on_connect(self, stream):
            open_now = [one for one in self.streams.values() if one.reset is None and not (one.ended and one.end_sent)]
            if len(open_now) > limit:
                stream.reset = stream.end_wanted = stream.end_sent = True
                self.send(frames.RstStreamFrame(stream.id, error_code=h2peer.REFUSED_STREAM))
            else:
                super().on_connect(stream)
    server = serve(lambda sock: Strict(sock, server=True, settings={h2peer.STREAMS: limit}))
    count = 40
    answer = crowd(bed, count)
    assert answer == {"answered": count, "wrong": {}}
    fine(server)


def crowd(bed, count):
    hand = bed.new_hand("front/web")
    try:
        hand.start("crowd", to=SHOP, count=count, seconds=30)
        return hand.answer(60)
    finally:
        hand.close()


@pytest.mark.parametrize("status", [400, 401, 404, 503, 204, 302])
@pytest.mark.parametrize("end", [True, False], ids=["END_STREAM", "open"])
def test_any_answer_but_200_is_a_reset(bed, serve, status, end):
    def answer(peer, stream):
        peer.respond(stream, status, end=end)
        if not end:
            peer.send(frames.DataFrame(stream.id, b"an explanation that no application may see"))
    server = serve(told(answer))
    got = bed.call("front/web", "raw", to=SHOP, bytes=b"hello".hex(), wait=10)
    assert is_refused(got) or (got["ended"], got["received"]) == ("reset", ""), got
    eventually(lambda: server.connects()[0].reset is not None or server.connects()[0].ended or end)
    fine(server)


@pytest.mark.parametrize("code", [h2peer.NO_ERROR, h2peer.PROTOCOL_ERROR, h2peer.CANCEL, h2peer.CONNECT_ERROR, 0x99999999])
@pytest.mark.parametrize("when", ["before the answer", "behind it"])
def test_rst_stream_is_a_reset(bed, serve, code, when):
    def answer(peer, stream):
        if when == "behind it":
            peer.respond(stream, 200)
            peer.write(stream, b"some bytes")
        peer.reset(stream, code)
    server = serve(told(answer))
    got = bed.call("front/web", "raw", to=SHOP, bytes=b"hello".hex(), wait=10)
    assert is_refused(got) or got["ended"] == "reset", got
    fine(server)


def test_interim_answers_are_skipped(bed, serve):
    class Slowly(Relay):
        def respond(self, stream, status, *more, **how):
            for _ in range(3):
                super().respond(stream, 103, ("link", "</x>"))
            super().respond(stream, 100)
            super().respond(stream, status, *more, ("baggage", "b" * 5000), ("set-cookie", "a"), ("set-cookie", "b"), pieces=4, pad=7, **how)
    server = serve(lambda sock: Slowly(sock, server=True))
    assert bed.call("front/web", "who", to=SHOP)["pod"] == "shop"
    fine(server)


BROKEN_ANSWERS = {
    "an interim answer that ends": lambda peer, stream: peer.headers(stream.id, [(":status", "103")], end=True),
    "101": lambda peer, stream: peer.headers(stream.id, [(":status", "101")]),
    "no status": lambda peer, stream: peer.headers(stream.id, [("server", "x")]),
    "two": lambda peer, stream: peer.headers(stream.id, [(":status", "200"), (":status", "200")]),
    "a status of four digits": lambda peer, stream: peer.headers(stream.id, [(":status", "0200")]),
    "a path": lambda peer, stream: peer.headers(stream.id, [(":status", "200"), (":path", "/")]),
    "upper case": lambda peer, stream: peer.headers(stream.id, [(":status", "200"), ("Server", "x")]),
    "transfer-encoding": lambda peer, stream: peer.headers(stream.id, [(":status", "200"), ("transfer-encoding", "chunked")]),
    "trailers": lambda peer, stream: (peer.respond(stream, 200), peer.headers(stream.id, [("x", "y")], end=True)),
}


@pytest.mark.parametrize("what", BROKEN_ANSWERS, ids=str)
def test_a_broken_answer_resets_its_stream(bed, serve, what):
    before = bed.counters("node1")["peer_broken_stream"]
    server = serve(told(BROKEN_ANSWERS[what]))
    got = bed.call("front/web", "raw", to=SHOP, bytes=b"hello".hex(), wait=10)
    assert is_refused(got) or (got["ended"], got["received"]) == ("reset", ""), got
    eventually(lambda: server.connects()[0].reset == h2peer.PROTOCOL_ERROR)
    assert not server.peers[0].goaways
    assert bed.counters("node1")["peer_broken_stream"] == before + 1


BROKEN_SERVERS = {
    "PUSH_PROMISE": (lambda peer, stream: peer.send(frames.PushPromiseFrame(stream.id, 2, peer.encoder.encode([(":method", "GET")]),
                                                                            flags=["END_HEADERS"])), h2peer.PROTOCOL_ERROR),
    "ENABLE_PUSH": (lambda peer, stream: peer.send(frames.SettingsFrame(0, settings={h2peer.PUSH: 1})), h2peer.PROTOCOL_ERROR),
    "DATA before the answer": (lambda peer, stream: peer.send(frames.DataFrame(stream.id, b"x")), h2peer.PROTOCOL_ERROR),
    "DATA behind the end": (lambda peer, stream: (peer.respond(stream, 200), peer.send(
        frames.DataFrame(stream.id, b"x", flags=["END_STREAM"]), frames.DataFrame(stream.id, b"y"))), h2peer.STREAM_CLOSED),
    "more than the window": (lambda peer, stream: (peer.respond(stream, 200), peer.send(
        *[frames.DataFrame(stream.id, b"x" * 1_000_000) for _ in range(9)])), h2peer.FLOW_CONTROL_ERROR),
    "an answer to nothing": (lambda peer, stream: peer.headers(stream.id + 2, [(":status", "200")]), h2peer.PROTOCOL_ERROR),
    "HPACK of another table": (lambda peer, stream: peer.send(frames.HeadersFrame(stream.id, b"\xff\xff\xff\x7f", flags=["END_HEADERS"])),
                               h2peer.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("what", BROKEN_SERVERS, ids=str)
def test_a_broken_server_loses_its_tunnel(bed, serve, what):
    act, code = BROKEN_SERVERS[what]
    server = serve(told(act, credit=False))
    got = bed.call("front/web", "raw", to=SHOP, bytes=b"hello".hex(), wait=10)
    assert is_refused(got) or got["ended"] == "reset", got
    eventually(lambda: server.peers[0].goaways or server.peers[0].ended)
    assert [code for _, code in server.peers[0].goaways] == [code]


@pytest.mark.parametrize("how", ["cut", "reset", "orderly"])
def test_a_tunnel_that_ends_with_an_open_stream_is_a_reset(bed, serve, how):
    def answer(peer, stream):
        peer.respond(stream, 200)
        peer.write(stream, b"the first half")
        peer.drain_output()
        peer.close(how)
        peer.ended = "by us"
    serve(told(answer))
    got = bed.call("front/web", "raw", to=SHOP, bytes=b"hello".hex(), wait=10)
    assert is_refused(got) or got["ended"] == "reset", got


def test_goaway_lets_streams_go_on_and_new_ones_take_a_new_tunnel(bed, serve):
    server = serve()
    hand = bed.new_hand("front/web")
    try:
        hand.start("keep", to=SHOP)
        assert "sees_peer" in hand.answer()
        eventually(lambda: server.peers)
        first = server.peers[0]
        first.send(frames.GoAwayFrame(0, last_stream_id=h2peer.MAX_WINDOW, error_code=0))
        hand.say("still here")
        assert hand.answer() == {"echo": "still here\n"}
        assert bed.call("front/web", "who", to=SHOP)["pod"] == "shop"
        assert len(server.peers) == 2 and len(first.streams) == 1
        first.send(frames.GoAwayFrame(0, last_stream_id=1, error_code=0))
        hand.say("and still")
        assert hand.answer() == {"echo": "and still\n"}
        hand.say("end")
        eventually(lambda: first.ended == "close_notify", what="the tunnel that was given up is not closed behind its last stream")
    finally:
        hand.close()
    fine(server)


def test_streams_above_goaways_last_id_are_tried_again(bed, serve):
    """The peer leaves at the very moment of the request, and has not looked at it."""
    leaving = threading.Event()

    class Leaving(Relay):
        def on_connect(self, stream):
            if leaving.is_set():
                return super().on_connect(stream)
            leaving.set()
            self.send(frames.GoAwayFrame(0, last_stream_id=0, error_code=0))
    server = serve(lambda sock: Leaving(sock, server=True))
    assert bed.call("front/web", "who", to=SHOP)["pod"] == "shop"
    assert len(server.peers) == 2
    fine(server)


def test_a_refused_port(bed, serve):
    server = serve()
    assert is_refused(bed.call("front/web", "who", to=["shop.foreign", 99]))
    fine(server)


def test_resets_both_ways(bed, serve):
    server = serve()
    answer = bed.call("front/web", "server_resets", to=SHOP, size=100_000)
    assert (answer["count"], answer["ended"]) == (100_000, "reset")
    bed.call("front/web", "client_resets", to=SHOP, size=100_000, token="foreign client resets")
    result = bed.call("front/web", "order", to=SHOP, order={"do": "result", "token": "foreign client resets"})
    assert result["end"] == "ConnectionResetError"
    fine(server)


def test_a_server_that_vanishes(bed, serve):
    serve()
    hand = bed.new_hand("front/web")
    route = ["ip", "-netns", bed.names.pod_netns("foreign", "shop"), "route"]
    hole = ["blackhole", bed.ip("front/web")]
    try:
        hand.start("keep", to=SHOP, family="4")
        assert "sees_peer" in hand.answer()
        shell.run(*route, "add", *hole)
        hand.say("into the void")
        assert hand.answer(20)["failed"] == "ConnectionResetError"
    finally:
        with contextlib.suppress(Exception):
            shell.run(*route, "del", *hole)
        hand.close()


def test_a_server_that_hangs(bed, serve):
    """Its kernel takes what we send and acknowledges it, so only a PING tells."""
    alive = threading.Event()
    alive.set()

    class Hanging(Relay):
        def turn(self, seconds):
            return super().turn(0.2) if alive.wait(0.2) else True
    server = serve(lambda sock: Hanging(sock, server=True))
    before = bed.counters("node1")["peer_silent"]
    hand = bed.new_hand("front/web")
    try:
        hand.start("keep", to=SHOP, timeout=30)
        assert "sees_peer" in hand.answer()
        hand.say("hello")
        assert hand.answer() == {"echo": "hello\n"}
        alive.clear()
        hand.say("into a process that hangs")
        assert hand.answer(25)["failed"] == "ConnectionResetError"
        alive.set()
        assert bed.counters("node1")["peer_silent"] == before + 1
        assert bed.call("front/web", "who", to=SHOP)["pod"] == "shop" and len(server.peers) == 2
    finally:
        alive.set()
        hand.close()


def swallow(sock):
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass


def echo(sock):
    with contextlib.suppress(OSError):
        while data := sock.recv(1 << 16):
            sock.sendall(data)


SERVERS_THAT_ARE_NONE = {"nobody listens": None, "never answers the handshake": swallow, "echoes the handshake": echo,
                         "hangs up": lambda sock: None, "HTTP/1": lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")}


@pytest.mark.parametrize("what", SERVERS_THAT_ARE_NONE, ids=str)
def test_a_server_that_is_none(bed, everybody, serve, what):
    if SERVERS_THAT_ARE_NONE[what]:
        everybody.server("foreign/shop", "foreign/shop", plain=SERVERS_THAT_ARE_NONE[what])
    answer = bed.call("front/web", "raw", seconds=40, to=SHOP, bytes=b"x".hex(), wait=25)
    assert is_refused(answer) or answer["ended"] == "reset", answer


def test_a_server_that_never_answers_connect(bed, serve):
    server = serve(told(lambda peer, stream: None))
    answer = bed.call("front/web", "raw", seconds=40, to=SHOP, bytes=b"x".hex(), wait=25)
    assert is_refused(answer) or answer["ended"] == "reset", answer
    eventually(lambda: server.connects()[0].reset == h2peer.CANCEL)
