"""Another implementation's client comes to a pod of ours on port 15008."""
import json
import time

import pytest

import h2peer
import wire
from bed import shell
from foreign import Foreigner, peer_uri
from h2peer import frames

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def everybody(bed):
    made = Foreigner(bed)
    yield made
    made.close()


@pytest.fixture
def foreign(everybody):
    yield everybody
    everybody.close_all()


def target(bed, port=8080, to="back/hbone", family="4"):
    ip = bed.ip(to, family)
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def order(peer, stream, **what):
    peer.write(stream, json.dumps(what).encode() + b"\n")


def opened(peer, authority, *more, **how):
    """A stream that is answered 200."""
    stream = peer.connect(authority, *more, **how)
    peer.pump(lambda: stream.status or stream.reset is not None or stream.ended)
    assert stream.status == 200, (stream.status, stream.reset)
    return stream


def line(peer, stream):
    peer.pump(lambda: b"\n" in stream.data or stream.ended or stream.reset is not None)
    assert b"\n" in stream.data, (bytes(stream.data), stream.ended, stream.reset)
    text, _, rest = bytes(stream.data).partition(b"\n")
    stream.data[:] = rest
    return json.loads(text)


def who(peer, authority, *more, **how):
    stream = opened(peer, authority, *more, **how)
    order(peer, stream, do="who")
    answer = line(peer, stream)
    peer.write(stream, b"", end=True)
    peer.pump(lambda: stream.ended)
    return answer


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("to", ["back/hbone", "back/api-1"])
def test_a_tunnel(bed, foreign, to, family):
    """Both the pod that says 15008 and the one that is reached in place by Fairlead itself."""
    peer = foreign.client(to, family=family)
    assert peer_uri(peer.sock) == [f"spiffe://cluster.local/ns/back/sa/{'hbone' if to == 'back/hbone' else 'api'}"]
    assert peer.sock.selected_alpn_protocol() == "h2" and peer.sock.version() == "TLSv1.3"
    stream = opened(peer, target(bed, to=to, family=family))
    assert [name for name, _ in stream.headers] == [":status"]
    order(peer, stream, do="who")
    answer = line(peer, stream)
    assert answer["pod"] == to.split("/")[1] and answer["peer"][0] == bed.ip("outside/client", family)
    assert peer.theirs[h2peer.STREAMS] >= 100 and peer.theirs[h2peer.FRAME] >= 16384 and peer.settings_acks == 1
    assert h2peer.PUSH not in peer.theirs


def test_headers_beside_the_target(bed, foreign):
    """`forwarded` names the client's port where the address is the peer's own; baggage, traceparent and what we do not know
    change nothing."""
    ip = bed.ip("outside/client")
    more = [("baggage", "k8s.cluster.name=Kubernetes,k8s.namespace.name=front,service.name=web"), ("x-unknown", "a" * 3000),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    peer = foreign.client()
    answer = who(peer, target(bed), ("forwarded", f'for="{ip}:41234";host=hbone.back.svc.cluster.local'), *more)
    assert answer["peer"] == [ip, 41234]
    for liar in ('for="10.9.9.9:41234"', 'for="', "for=x", 'for="[::1]:1"', "by=1;host=2"):
        assert who(peer, target(bed), ("forwarded", liar), *more)["peer"][0] == ip, liar


def test_identity_is_that_of_the_certificate(bed, foreign):
    with bed.applied("""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: back}
spec: {selector: {matchLabels: {app: hbone}}, rules: [{from: [{source: {principals: [cluster.local/ns/front/sa/web]}}]}]}
""", "AuthorizationPolicy/back/only-web"):
        assert who(foreign.client(name="front/web"), target(bed))["pod"] == "hbone"
        peer = foreign.client(name="front/other")
        refused = peer.connect(target(bed), ("baggage", "k8s.namespace.name=front,service.name=web"))
        peer.pump(lambda: refused.ended)
        assert refused.status == 401
        again = peer.connect(target(bed))
        peer.pump(lambda: again.ended)
        assert again.status == 401, "a refusal ends the stream, not the tunnel"


def refused(bed, peer, authority, status, **how):
    stream = peer.connect(authority, **how)
    peer.pump(lambda: stream.ended or stream.reset is not None)
    assert (stream.status, stream.ended) == (status, True), (authority, stream.status, stream.reset)
    peer.settle()
    assert stream.reset in (None, h2peer.NO_ERROR) and not peer.goaways
    return stream


def test_a_refused_port_is_503(bed, foreign):
    peer = foreign.client()
    refused(bed, peer, target(bed, 9999), 503)
    stream = refused(bed, peer, target(bed, 9999), 503, end=True)
    assert stream.reset is None, "both directions had ended: there is nothing to reset"
    assert who(peer, target(bed))["pod"] == "hbone"


BAD_TARGETS = ["another pod", "15008", "the agent's inbound port", "the agent's outbound port", "127.0.0.1:8080", "[::1]:8080",
               "0.0.0.0:8080", "hbone.back.svc.cluster.local:80", "", ":8080", "10.1.2.3", "10.1.2.3:", "10.1.2.3:0x50", "10.1.2.3:99999",
               "10.1.2.3:0", "user@10.1.2.3:80", "http://10.1.2.3:80/", "[10.1.2.3]:80", "10.1.2.3:80:80", "x" * 4000]


@pytest.mark.parametrize("what", BAD_TARGETS, ids=lambda what: what[:40] or "nothing")
def test_bad_targets_are_400(bed, foreign, what):
    ip = bed.ip("back/hbone")
    ports = next(pod for pod in bed.keeper("node2", "pods") if pod["name"] == "hbone")
    known = {"another pod": target(bed, to="back/api-1"), "15008": f"{ip}:15008",
             "the agent's inbound port": f"{ip}:{ports['inboundPort']}", "the agent's outbound port": f"{ip}:{ports['outboundPort']}"}
    before = bed.counters("node2")
    peer = foreign.client()
    refused(bed, peer, known.get(what, what.replace("10.1.2.3", ip)), 400)
    after = bed.counters("node2")
    causes = ("inbound_wrong_target", "inbound_bad_request", "peer_no_connect")
    assert sum(after[name] - before[name] for name in causes) == 1
    assert who(peer, target(bed))["pod"] == "hbone", "the tunnel goes on"


def test_other_methods_are_400(bed, foreign):
    peer = foreign.client()
    for method in ("GET", "POST", "OPTIONS"):
        other = h2peer.Stream(peer.next_id, 65535, 65535)
        peer.streams[other.id], peer.next_id = other, peer.next_id + 2
        peer.headers(other.id, [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", target(bed))], end=True)
        peer.pump(lambda: other.ended)
        assert other.status == 400 and other.reset is None
    assert who(peer, target(bed))["pod"] == "hbone"


@pytest.mark.parametrize("settings", [{}, {h2peer.WINDOW: 1}, {h2peer.WINDOW: 997}, {h2peer.WINDOW: 4 * MEGABYTE, h2peer.FRAME: MEGABYTE},
                                      {h2peer.TABLE: 0}, {h2peer.TABLE: 65536, h2peer.LIST: 16384}], ids=str)
def test_transfers_under_any_settings(bed, foreign, settings):
    size = 5000 if settings.get(h2peer.WINDOW) == 1 else 8 * MEGABYTE if settings.get(h2peer.WINDOW) != 997 else MEGABYTE
    peer = foreign.client(settings=settings)
    stream = opened(peer, target(bed))
    order(peer, stream, do="server_first", size=size, seed="down", token=f"foreign {settings}")
    peer.pump(lambda: stream.ended or stream.reset is not None, 60)
    assert stream.received == (size, wire.digest_of("down", size))
    up = wire.Bytes("up").take(8 * MEGABYTE)
    peer.write(stream, up, end=True)  # behind the other direction's end
    peer.pump(lambda: stream.end_sent, 60)
    with_result = opened(peer, target(bed))
    order(peer, with_result, do="result", token=f"foreign {settings}")
    answer = line(peer, with_result)
    assert (answer["count"], answer["digest"]) == (len(up), wire.digest_of("up", len(up)))


@pytest.mark.parametrize("pad", [0, 1, 255])
def test_padding_and_continuation(bed, foreign, pad):
    """Both directions at once, every frame padded; the request in pieces, with a priority that means nothing."""
    size = 900_000
    peer = foreign.client()
    stream = peer.connect(target(bed), ("baggage", "x" * 200), pieces=5, pad=pad, priority=True)
    stream.pad = pad
    order(peer, stream, do="duplex", size=size, seed="down")
    peer.write(stream, wire.Bytes("up").take(size), end=True)
    peer.pump(lambda: stream.ended or stream.reset is not None, 60)
    assert stream.ended and stream.reset is None
    assert bytes(stream.data[:size]) == wire.Bytes("down").take(size)
    assert json.loads(stream.data[size:]) == {"count": size, "digest": wire.digest_of("up", size)}


def test_half_close_each_way(bed, foreign):
    peer = foreign.client()
    ours = opened(peer, target(bed))
    order(peer, ours, do="client_first", size=100_000, seed="down")
    peer.write(ours, b"abc", end=True)
    answer = line(peer, ours)
    assert answer["count"] == 3
    peer.pump(lambda: ours.ended)
    assert ours.count > 100_000 and ours.reset is None
    at_once = peer.connect(target(bed, 9000), end=True)  # END_STREAM on the request: only the server speaks
    peer.pump(lambda: at_once.ended or at_once.reset is not None)
    assert at_once.status == 200 and at_once.count > 0
    theirs = opened(peer, target(bed))
    order(peer, theirs, do="server_first", size=10, seed="down", token="half")
    peer.pump(lambda: theirs.ended)
    peer.write(theirs, b"x" * 70_000, end=True)
    result = opened(peer, target(bed))
    order(peer, result, do="result", token="half")
    assert line(peer, result)["count"] == 70_000
    peer.settle()
    assert theirs.reset is None


def test_resets_reach_the_other_side(bed, foreign):
    peer = foreign.client()
    from_app = opened(peer, target(bed))
    order(peer, from_app, do="reset", size=50_000, seed="down")
    peer.pump(lambda: from_app.count == 50_000)
    peer.write(from_app, b"go\n")
    peer.pump(lambda: from_app.reset is not None or from_app.ended)
    assert from_app.reset == h2peer.CONNECT_ERROR and not from_app.ended, "RFC 9113 §8.5"
    from_us = opened(peer, target(bed))
    order(peer, from_us, do="silent", token="reset by peer")
    line(peer, from_us)
    peer.reset(from_us)
    peer.settle()
    assert end_of(bed, "reset by peer") == "ConnectionResetError"
    assert who(peer, target(bed))["pod"] == "hbone", "the other streams go on"


def end_of(bed, token):
    """How the connection with that token ended at the application."""
    answer = bed.call("front/web", "order", to=["hbone.back", 80], order={"do": "result", "token": token, "seconds": 20})
    return answer and answer.get("end", answer)


@pytest.mark.parametrize("how", ["cut", "reset", "orderly"])
def test_a_tunnel_that_ends_with_open_streams_is_a_reset(bed, foreign, how):
    """No close_notify, an RST, and an orderly close_notify: no stream has ended, so no application may see an end."""
    peer = foreign.client()
    stream = opened(peer, target(bed))
    order(peer, stream, do="silent", token=f"tunnel ends {how}")
    line(peer, stream)
    peer.close(how)
    assert end_of(bed, f"tunnel ends {how}") == "ConnectionResetError"


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with data under way"])
def test_a_peer_that_vanishes(bed, foreign, busy):
    """Nothing of it arrives any more, not even acknowledgements."""
    peer = foreign.client()
    stream = opened(peer, target(bed))
    order(peer, stream, do="silent", token=f"vanished {busy}")
    line(peer, stream)
    if busy:
        bulk = opened(peer, target(bed))
        order(peer, bulk, do="server_first", size=1 << 30, seed="down", token="never")
        peer.pump(lambda: bulk.count > MEGABYTE)
    route = ["ip", "-netns", bed.names.pod_netns("outside", "client"), "route"]
    hole = ["blackhole", bed.ip("back/hbone")]
    shell.run(*route, "add", *hole)
    try:
        assert end_of(bed, f"vanished {busy}") == "ConnectionResetError"
    finally:
        shell.run(*route, "del", *hole)


def test_many_streams_at_once(bed, foreign):
    peer = foreign.client()
    size, streams = 50_000, []
    for number in range(100):
        stream = peer.connect(target(bed))
        order(peer, stream, do="client_first", size=size, seed=f"down {number}")
        peer.write(stream, wire.Bytes(number).take(size), end=True)
        streams.append(stream)
    peer.pump(lambda: all(stream.ended or stream.reset is not None for stream in streams), 60)
    for number, stream in enumerate(streams):
        head, _, body = bytes(stream.data).partition(b"\n")
        answer = json.loads(head)
        assert (answer["count"], answer["digest"]) == (size, wire.digest_of(number, size))
        assert body == wire.Bytes(f"down {number}").take(size)


def test_streams_beyond_the_limit_are_refused_and_the_others_go_on(bed, foreign):
    peer = foreign.client()
    peer.settle()
    limit = peer.theirs[h2peer.STREAMS]
    streams = [peer.connect(target(bed)) for _ in range(limit + 3)]
    peer.pump(lambda: all(stream.status or stream.reset is not None for stream in streams))
    assert [stream.reset for stream in streams[limit:]] == [h2peer.REFUSED_STREAM] * 3
    assert all(stream.status == 200 and stream.reset is None for stream in streams[:limit])
    peer.write(streams[0], b"", end=True)
    peer.pump(lambda: streams[0].ended or streams[0].reset is not None)
    assert opened(peer, target(bed))


def test_ping_settings_and_unknown_frames(bed, foreign):
    peer = foreign.client()
    stream = opened(peer, target(bed))
    for _ in range(3):
        peer.send(frames.SettingsFrame(0, settings={h2peer.WINDOW: 100, 0x4242: 7}))
    peer.send(h2peer.raw_frame(0x77, 0xff, 0, b"y" * 60_000), h2peer.raw_frame(0xf0, 0, stream.id))
    peer.send(frames.PriorityFrame(stream.id, depends_on=0, stream_weight=200, exclusive=True))
    peer.send(frames.GoAwayFrame(0, last_stream_id=0, error_code=0xdead))
    peer.send(frames.PingFrame(0, opaque_data=b"12345678"))
    peer.pump(lambda: peer.pongs)
    assert peer.pongs == [b"12345678"] and peer.settings_acks == 4 and not peer.goaways
    order(peer, stream, do="who")
    assert line(peer, stream)["pod"] == "hbone", "streams that are open go on behind our GOAWAY"


def test_windows_that_shrink_while_data_is_under_way(bed, foreign):
    peer = foreign.client(credit=False)
    stream = opened(peer, target(bed))
    order(peer, stream, do="server_first", size=MEGABYTE, seed="down", token="shrink")
    peer.pump(lambda: stream.count == 65535)
    peer.send(frames.SettingsFrame(0, settings={h2peer.WINDOW: 10}))  # the window is negative now
    stream.receive_window += 10 - 65535
    peer.settle()
    assert stream.count == 65535
    peer.give(stream, 60_000)
    peer.settle()
    assert stream.count == 65535, "still no credit"
    peer.give(stream, 10_000)
    peer.pump(lambda: stream.count == 65535 + 4475)
    peer.settle()
    assert stream.count == 65535 + 4475
    peer.credit = True
    peer.give(stream, 100_000)
    peer.pump(lambda: stream.ended, 60)
    assert stream.received == (MEGABYTE, wire.digest_of("down", MEGABYTE))


def test_a_client_that_hangs_is_given_up(bed, foreign):
    """Its kernel answers for it, so only a PING tells; a client that is merely quiet answers that and is left alone."""
    before = bed.counters("node2")["peer_silent"]
    peers = [foreign.client() for _ in range(2)]
    quiet, hangs = peers
    streams = [opened(peer, target(bed)) for peer in peers]
    for peer, stream in zip(peers, streams):
        order(peer, stream, do="pingpong")
        peer.drain_output()
    deadline = time.monotonic() + 23
    while time.monotonic() < deadline:
        quiet.turn(1)
    assert [kind for kind, *_ in quiet.seen].count("Ping") == 2
    assert bed.counters("node2")["peer_silent"] == before + 1
    hangs.until_over(1)
    assert hangs.ended != "close_notify" and not streams[1].ended, "no clean end may be claimed"
    quiet.write(streams[0], b"still here\n")
    quiet.pump(lambda: b"still here\n" in streams[0].data)
