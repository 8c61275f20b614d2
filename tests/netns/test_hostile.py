"""Hostile peers with a good certificate, against the running agent: each loses its tunnel, or its stream, with the right code,
is counted by cause, and nobody else notices."""
import json

import pytest

import h2peer
from bed import eventually
from foreign import Foreigner
from h2peer import raw_frame

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
FLOOD = 25_000


@pytest.fixture(scope="module")
def everybody(bed):
    made = Foreigner(bed)
    yield made
    made.close()


class Lax(h2peer.Peer):
    strict = False  # its streams are made by hand


class Steady:
    """An honest peer's tunnel to the same pod, with a conversation that goes on."""

    def __init__(self, peer, target):
        self.peer, self.number = peer, 0
        self.stream = peer.connect(target)
        peer.write(self.stream, b'{"do": "pingpong"}\n')
        self.goes_on()

    def goes_on(self):
        self.number += 1
        line = f"line {self.number}\n".encode()
        self.peer.write(self.stream, line)
        self.peer.pump(lambda: self.stream.data.endswith(line), 5)
        assert not self.peer.goaways and self.stream.reset is None


@pytest.fixture
def steady(bed, everybody, healthy):
    yield Steady(everybody.client(name="front/web"), target(bed))
    everybody.close_all()


@pytest.fixture
def hostile(everybody, steady):
    return lambda **how: everybody.client(name="front/other", kind=Lax, **how)


def target(bed, port=8080):
    return f"{bed.ip('back/hbone')}:{port}"


def literal(name, value):
    """A field that is not indexed, without Huffman (RFC 7541 §6.2.2)."""
    def text(item):
        item = item.encode()
        if len(item) < 127:
            return bytes([len(item)]) + item
        rest, out = len(item) - 127, bytearray([127])
        while rest >= 128:
            out.append(rest % 128 + 128)
            rest //= 128
        return bytes(out) + bytes([rest]) + item
    return b"\0" + text(name) + text(value)


def request(authority, method="CONNECT"):
    return literal(":method", method) + literal(":authority", authority)


def u32(value):
    return value.to_bytes(4, "big")


def open_raw(number, bed, end=False):
    return raw_frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), number, request(target(bed)))


def odd(count):
    return range(1, 2 * count, 2)


def rapid_reset(bed):
    return b"".join(open_raw(number, bed) + raw_frame(RST, 0, number, u32(8)) for number in odd(3000))


def made_reset(bed, update):
    return b"".join(open_raw(number, bed) + raw_frame(UPDATE, 0, number, u32(update)) for number in odd(3000))


def trailers(bed):
    return b"".join(open_raw(number, bed) + raw_frame(HEADERS, END_HEADERS, number, literal("x", "y")) for number in odd(3000))


def malformed(bed):
    block = request(target(bed)) + literal("Upper", "case")
    return b"".join(raw_frame(HEADERS, END_HEADERS, number, block) for number in odd(3000))


def bomb(bed):
    """One large entry of the dynamic table, named again and again (RFC 7541 §7.3)."""
    entry = b"\x40" + literal("x", "y" * 4000)[1:]
    return raw_frame(HEADERS, END_HEADERS, 1, request(target(bed)) + entry + b"\xbe" * 60)


ENDED = {
    # name: (frames, code of GOAWAY, counter)
    "rapid reset (CVE-2023-44487)": (rapid_reset, h2peer.ENHANCE_YOUR_CALM, "peer_rapid_reset"),
    "made reset by WINDOW_UPDATE of 0 (CVE-2025-8671)": (lambda bed: made_reset(bed, 0), h2peer.ENHANCE_YOUR_CALM, "peer_made_reset"),
    "made reset by overflow": (lambda bed: made_reset(bed, h2peer.MAX_WINDOW), h2peer.ENHANCE_YOUR_CALM, "peer_made_reset"),
    "made reset by trailers": (trailers, h2peer.ENHANCE_YOUR_CALM, "peer_made_reset"),
    "made reset by malformed requests": (malformed, h2peer.ENHANCE_YOUR_CALM, "peer_made_reset"),
    "streams beyond the limit": (lambda bed: b"".join(open_raw(number, bed) for number in odd(3000)), h2peer.ENHANCE_YOUR_CALM,
                                 "peer_too_many_streams"),
    "DATA on a half-closed stream": (lambda bed: open_raw(1, bed, end=True) + raw_frame(DATA, 0, 1, b"x"), h2peer.STREAM_CLOSED,
                                     "peer_stream_closed"),
    "DATA on a stream that it has reset": (lambda bed: open_raw(1, bed) + raw_frame(RST, 0, 1, u32(8)) + raw_frame(DATA, 0, 1, b"x"),
                                           h2peer.STREAM_CLOSED, "peer_stream_closed"),
    "endless CONTINUATION": (lambda bed: raw_frame(HEADERS, 0, 1, request(target(bed))) + raw_frame(CONTINUATION, 0, 1, b"") * 1000,
                             h2peer.ENHANCE_YOUR_CALM, "peer_continuation_flood"),
    "long CONTINUATION": (lambda bed: raw_frame(HEADERS, 0, 1, request(target(bed))) + raw_frame(CONTINUATION, 0, 1, literal("x", "y" * 8000)) * 5,
                          h2peer.ENHANCE_YOUR_CALM, "peer_continuation_flood"),
    "HPACK bomb": (bomb, h2peer.ENHANCE_YOUR_CALM, "peer_header_list"),
    "many fields without a character": (lambda bed: raw_frame(HEADERS, END_HEADERS, 1, request(target(bed)) + b"\0\0\0" * 1000),
                                        h2peer.ENHANCE_YOUR_CALM, "peer_header_list"),
    "HPACK that is none": (lambda bed: raw_frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), h2peer.COMPRESSION_ERROR,
                           "peer_compression"),
    "PING flood": (lambda bed: raw_frame(PING, 0, 0, b"12345678") * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_ping_flood"),
    "PING answers to nothing": (lambda bed: raw_frame(PING, ACK, 0, b"12345678") * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_ping_flood"),
    "SETTINGS flood": (lambda bed: raw_frame(SETTINGS) * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_settings_flood"),
    "PRIORITY flood": (lambda bed: raw_frame(PRIORITY, 0, 1, b"\0\0\0\0\1") * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_priority_flood"),
    "empty DATA flood": (lambda bed: open_raw(1, bed) + raw_frame(DATA, 0, 1) * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_empty_data_flood"),
    "DATA of padding alone": (lambda bed: open_raw(1, bed) + raw_frame(DATA, PADDED, 1, b"\2\0\0") * FLOOD, h2peer.ENHANCE_YOUR_CALM,
                              "peer_empty_data_flood"),
    "WINDOW_UPDATE flood": (lambda bed: raw_frame(UPDATE, 0, 0, u32(1)) * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_window_flood"),
    "flood of unknown frames": (lambda bed: raw_frame(0x55, 0, 3, b"x") * FLOOD, h2peer.ENHANCE_YOUR_CALM, "peer_frame_flood"),
    "WINDOW_UPDATE of 0": (lambda bed: raw_frame(UPDATE, 0, 0, u32(0)), h2peer.PROTOCOL_ERROR, "peer_protocol_error"),
    "window overflow": (lambda bed: raw_frame(UPDATE, 0, 0, u32(h2peer.MAX_WINDOW)), h2peer.FLOW_CONTROL_ERROR, "peer_flow_control"),
    "a frame beyond the limit": (lambda bed: raw_frame(DATA, 0, 1, b"x", length=0xffffff), h2peer.FRAME_SIZE_ERROR, "peer_frame_size"),
    "PUSH_PROMISE": (lambda bed: raw_frame(PUSH, END_HEADERS, 1, u32(2) + request(target(bed))), h2peer.PROTOCOL_ERROR,
                     "peer_protocol_error"),
    "ids that go backwards": (lambda bed: open_raw(5, bed) + open_raw(3, bed), h2peer.PROTOCOL_ERROR, "peer_protocol_error"),
}


@pytest.mark.sanitizers
@pytest.mark.parametrize("what", ENDED, ids=str)
def test_a_hostile_peer_is_ended(bed, steady, hostile, what):
    make, code, counter = ENDED[what]
    before = bed.counters("node2")
    peer = hostile()
    peer.send(make(bed))
    steady.goes_on()
    peer.until_over(30)
    assert peer.goaways and peer.goaways[-1][1] == code, (peer.goaways, peer.ended)
    assert peer.ended != "close_notify"
    peer.close("cut")
    after = eventually(lambda: (now := bed.counters("node2"))["tunnels_failed"] > before["tunnels_failed"] and now)
    ended_by = {name: after[name] - before[name] for name in after if name.startswith("peer_") and after[name] != before[name]}
    ended_by.pop("peer_broken_stream", None)
    assert ended_by == {counter: 1}
    steady.goes_on()
    eventually(lambda: not connections_of(bed, "front/sa/other"), what="connections of the ended peer are left")


def connections_of(bed, principal):
    return [one for one in bed.proxy("node2", "connections") if principal in json.dumps(one)]


def test_streams_that_were_answered_are_no_way_around(bed, steady, hostile):
    """Made resets on live streams: opening them has cost us a connection to the application each."""
    before = bed.counters("node2")
    peer = hostile()
    for _ in range(60):
        batch = [peer.connect(target(bed)) for _ in range(50)]
        peer.pump(lambda: peer.ended or all(stream.status for stream in batch), 30)
        if peer.ended:
            break
        for stream in batch:
            peer.send(raw_frame(UPDATE, 0, stream.id, u32(0)))
        peer.pump(lambda: peer.ended or all(stream.reset is not None for stream in batch), 30)
        if peer.ended:
            break
    assert peer.goaways and peer.goaways[-1][1] == h2peer.ENHANCE_YOUR_CALM
    after = bed.counters("node2")
    assert after["peer_made_reset"] == before["peer_made_reset"] + 1
    assert after["peer_broken_stream"] - before["peer_broken_stream"] >= 500
    steady.goes_on()


BROKEN_STREAMS = {
    "a name without a character": (literal("", "x"), 1),
    "a line feed in a value": (literal("baggage", "a\nb"), 1),
    "NUL in a name": (literal("a\0b", "x"), 1),
    "connection": (literal("connection", "close"), 1),
    "a path": (literal(":path", "/"), 1),
    "extended CONNECT": (literal(":protocol", "websocket"), 1),
    "another authority": (literal(":authority", "x:1"), 1),
}


@pytest.mark.sanitizers
@pytest.mark.parametrize("what", BROKEN_STREAMS, ids=str)
def test_a_broken_request_costs_its_stream_only(bed, steady, hostile, what):
    before = bed.counters("node2")["peer_broken_stream"]
    peer = hostile()
    good = peer.connect(target(bed))
    bad = h2peer.Stream(peer.next_id, 65535, 65535)
    peer.streams[bad.id], peer.next_id = bad, peer.next_id + 2
    peer.send(raw_frame(HEADERS, END_HEADERS, bad.id, request(target(bed)) + BROKEN_STREAMS[what][0]))
    peer.pump(lambda: bad.reset is not None and good.status)
    assert (bad.reset, bad.status, good.status) == (h2peer.PROTOCOL_ERROR, None, 200)
    peer.write(good, b'{"do": "who"}\n')
    peer.pump(lambda: good.data.endswith(b"\n"))
    assert bed.counters("node2")["peer_broken_stream"] == before + 1
    steady.goes_on()


@pytest.mark.parametrize("name, update", [("0", 0), ("overflow", h2peer.MAX_WINDOW)])
def test_a_broken_window_costs_its_stream_only(bed, steady, hostile, name, update):
    peer = hostile()
    streams = [peer.connect(target(bed)) for _ in range(2)]
    peer.pump(lambda: all(stream.status for stream in streams))
    peer.send(raw_frame(UPDATE, 0, streams[0].id, u32(update)))
    peer.pump(lambda: streams[0].reset is not None)
    assert streams[0].reset == (h2peer.FLOW_CONTROL_ERROR if update else h2peer.PROTOCOL_ERROR)
    peer.write(streams[1], b'{"do": "who"}\n')
    peer.pump(lambda: streams[1].data.endswith(b"\n"))


def memory_of(bed):
    with open(f"/proc/{bed.proxy('node2', 'status')['pid']}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def test_windows_that_never_open_hold_little(bed, steady, hostile):
    """200 streams whose applications have much to say, and no credit for any; then a peer with all the credit that never reads.
    (The applications' own socket buffers are the kernel's: more of them would meet its limit for all TCP.)"""
    before = memory_of(bed)
    peer = hostile(settings={h2peer.WINDOW: 0}, credit=False)
    streams = [peer.connect(target(bed)) for _ in range(200)]
    for number, stream in enumerate(streams):
        peer.write(stream, json.dumps({"do": "server_first", "size": 400_000, "seed": 1, "token": f"held {number}"}).encode() + b"\n")
    peer.pump(lambda: all(stream.status == 200 for stream in streams), 60)
    peer.settle()
    assert all(stream.count == 0 for stream in streams)
    steady.goes_on()
    assert memory_of(bed) - before < 24, "MiB for 200 streams that are held"
    deaf = hostile(settings={h2peer.WINDOW: h2peer.MAX_WINDOW}, credit=False)
    deaf.send(raw_frame(UPDATE, 0, 0, u32(h2peer.MAX_WINDOW - 65535)))
    told = [deaf.connect(target(bed)) for _ in range(20)]
    for stream in told:
        deaf.write(stream, b'{"do": "server_first", "size": 10000000, "seed": 1, "token": "deaf"}\n')
    deaf.drain_output()  # and never reads
    eventually(lambda: sum(one["bytesSent"] for one in connections_of(bed, "front/sa/other")) > 100_000)
    steady.goes_on()
    assert memory_of(bed) - before < 48
    for one in (peer, deaf):
        one.close("reset")
    eventually(lambda: not connections_of(bed, "front/sa/other"), what="streams that were held are not ended with their tunnel")
    steady.goes_on()


@pytest.mark.unsanitized("so slow a build is still answering when TCP gives up a peer whose window stays shut")
def test_a_peer_that_asks_and_does_not_read(bed, steady, hostile):
    before = bed.counters("node2")["peer_not_reading"]
    peer = hostile()
    block = literal(":method", "GET") + literal(":scheme", "https") + literal(":path", "/") + literal(":authority", "x:1")
    asked = b"".join(raw_frame(HEADERS, END_HEADERS, number, block) for number in odd(400_000))
    peer.drain_output()
    try:
        peer.sock.settimeout(30)
        for at in range(0, len(asked), 1 << 16):
            peer.sock.sendall(asked[at:at + (1 << 16)])
    except OSError:
        pass
    eventually(lambda: bed.counters("node2")["peer_not_reading"] == before + 1, what=repr(bed.counters("node2")))
    steady.goes_on()


def test_a_stranger_that_opens_tunnel_behind_tunnel(bed, steady, hostile):
    """No stream in any of them: each costs a socket and little memory, and none of the pod's streams."""
    before = memory_of(bed)
    peers = [hostile() for _ in range(50)]
    for peer in peers:
        peer.settle()
    steady.goes_on()
    assert memory_of(bed) - before < 16
