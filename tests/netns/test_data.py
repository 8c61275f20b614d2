"""What goes in comes out: whole, in order, with its end; or the connection is reset."""
import itertools
import os
import select

import pytest

from bed import eventually
from wire import digest_of

MIB = 1 << 20
PATHS = {"other node": ["far.back", 80], "same node": ["near.back", 80], "15008": ["hbone.back", 80]}
_tokens = (f"token{number}" for number in itertools.count())


def whole(answer, size, seed):
    return (answer.get("count"), answer.get("digest")) == (size, digest_of(seed, size))


def result(bed, to, token):
    return bed.call("front/web", "order", to=to, order={"do": "result", "token": token})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 1, 70001, 3 * MIB + 5], ids=str)
class TestHalfClose:
    def test_client_first(self, bed, path, size):
        answer = bed.call("front/web", "client_first", to=PATHS[path], size=size)
        assert whole(answer, size, "down"), answer
        assert whole(answer["server"], size, "up"), answer

    def test_server_first(self, bed, path, size):
        token = next(_tokens)
        answer = bed.call("front/web", "server_first", to=PATHS[path], size=size, token=token)
        assert whole(answer, size, "down"), answer
        assert whole(result(bed, PATHS[path], token), size, "up")

    def test_both_at_once(self, bed, path, size):
        token = next(_tokens)
        answer = bed.call("front/web", "both_close", to=PATHS[path], size=size, token=token)
        assert whole(answer, size, "down"), answer
        assert whole(result(bed, PATHS[path], token), size, "up")


@pytest.mark.parametrize("source, to", [("outside/client", ["back/api-1", 8080]), ("back/api-1", ["far.back", 80])],
                         ids=["plaintext client", "to itself"])
def test_half_close_without_a_tunnel(bed, source, to):
    to = [bed.ip(to[0]) if "/" in to[0] else to[0], to[1]]
    answer = bed.call(source, "client_first", to=to, size=MIB + 1)
    assert whole(answer, MIB + 1, "down") and whole(answer["server"], MIB + 1, "up"), answer
    token = next(_tokens)
    answer = bed.call(source, "server_first", to=to, size=MIB + 1, token=token)
    assert whole(answer, MIB + 1, "down"), answer
    found = bed.call(source, "order", to=to, order={"do": "result", "token": token})
    assert whole(found, MIB + 1, "up"), found


@pytest.mark.sanitizers
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 5000], ids=str)
def test_reset_by_the_server_is_no_end(bed, path, size):
    answer = bed.call("front/web", "server_resets", to=PATHS[path], size=size)
    assert whole(answer, size, "down"), answer
    assert answer["ended"] == "reset"


@pytest.mark.parametrize("path", PATHS)
def test_reset_by_the_client_is_no_end(bed, path):
    token = next(_tokens)
    bed.call("front/web", "client_resets", to=PATHS[path], size=5000, token=token)
    assert result(bed, PATHS[path], token) == {"end": "ConnectionResetError"}


@pytest.mark.sanitizers
@pytest.mark.parametrize("path", [*PATHS, "plaintext"])
def test_64_mib_each_way_at_once(bed, path):
    check_duplex(bed, path, 64 * MIB, 60)


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS)
def test_1_gib_each_way_at_once(bed, path):
    check_duplex(bed, path, 1024 * MIB, 600)


def check_duplex(bed, path, size, seconds):
    source, to = ("outside/client", [bed.ip("back/api-1"), 8080]) if path == "plaintext" else ("front/web", PATHS[path])
    answer = bed.call(source, "duplex", seconds=seconds, to=to, size=size, timeout=seconds)
    assert whole(answer, size, "down"), answer
    assert whole(answer["server"], size, "up"), answer
    assert answer["rest"] == 0


@pytest.mark.parametrize("path", PATHS)
def test_slow_reader_stops_its_sender_and_nobody_else(bed, path):
    """The sender must come to a halt (bounded buffers), another connection of the same tunnel goes on meanwhile (it
    carries the release), and in the end every byte is there."""
    size = 64 * MIB
    answer = bed.call("front/web", "slow_reader", seconds=60, to=PATHS[path], size=size, token=next(_tokens), timeout=60)
    assert 0 < answer.get("stuck", 0) < 48 * MIB, answer
    assert whole(answer["server"], size, "up"), answer


@pytest.mark.parametrize("path", PATHS)
def test_bulk_has_its_tunnel_to_itself(bed, path):
    """A request that comes while a stream moves much does not queue behind it."""
    hand, other, size = bed.new_hand("front/web"), bed.new_hand("front/web"), 256 * MIB
    try:
        hand.start("duplex", to=PATHS[path], size=size, timeout=60)
        bulk = eventually(lambda: next((c for c in bed.proxy("node1", "connections") if c["bytesSent"] + c["bytesReceived"] > 4 * MIB), None), 20)
        other.start("keep", to=PATHS[path])
        port = other.answer()["sees_self"][1]
        small = eventually(lambda: next((c for c in bed.proxy("node1", "connections") if c["source"].endswith(f":{port}")), None))
        assert bulk["endpoint"] == small["endpoint"] and bulk["tunnelId"] != small["tunnelId"] > 0
        answer = hand.answer(60)
    finally:
        hand.close()
        other.close()
    assert whole(answer, size, "down") and whole(answer["server"], size, "up"), answer


@pytest.mark.parametrize("path", PATHS)
def test_2000_connections_at_once(bed, path):
    answer = _crowd(bed, PATHS[path], 2000)
    assert answer == {"answered": 2000, "wrong": {}}


def _crowd(bed, to, count):
    hand = bed.new_hand("front/web")
    try:
        hand.start("crowd", to=to, family="4", count=count, seconds=60)
        return hand.answer(90)
    finally:
        hand.close()


def test_long_idle_is_no_end(bed):
    """Not a byte for longer than any deadline of ours (a dead peer is noticed within 10 s): a peer that says nothing lives."""
    ways = {**{path: ("front/web", to) for path, to in PATHS.items()}, "itself": ("back/api-1", ["far.back", 80]),
            "plaintext": ("outside/client", [bed.ip("back/api-1"), 8080])}
    hands = {way: bed.new_hand(source) for way, (source, _) in ways.items()}
    try:
        for way, (_, to) in ways.items():
            hands[way].start("keep", to=to, family="4")
            assert "sees_peer" in hands[way].answer(), way
        assert not select.select([hand.output for hand in hands.values()], [], [], 25)[0], "somebody had something to say"
        for way, hand in hands.items():
            hand.say("still here")
            assert hand.answer() == {"echo": "still here\n"}, way
    finally:
        for hand in hands.values():
            hand.close()


def test_connections_share_a_tunnel_per_identity_and_destination(bed):
    for source in ("front/web", "front/other"):
        assert bed.call(source, "who", to=["far.back", 80], family="4").get("pod") == "api-1"  # each has one now
    before = bed.counters("node1")["tunnels_opened"]
    for source in ("front/web", "front/other"):
        for _ in range(20):
            assert bed.call(source, "who", to=["far.back", 80], family="4").get("pod") == "api-1"
    assert bed.counters("node1")["tunnels_opened"] == before
    hand = bed.new_hand("back/api-2")  # the third identity on this node, by another name of the same pod
    try:
        hand.start("who", to=[bed.ip("back/api-1"), 8080])
        assert hand.answer().get("pod") == "api-1"
    finally:
        hand.close()
    assert bed.counters("node1")["tunnels_opened"] - before <= 1


def proxy_fds(bed, node):
    return len(os.listdir(f"/proc/{bed.keeper(node, 'status')['proxyPid']}/fd"))


@pytest.mark.sanitizers
@pytest.mark.parametrize("path", PATHS)
def test_nothing_stays_behind(bed, path):
    """Once the crowd has left, so have its connections on both agents, and their file descriptors. (What may stay are
    tunnels and a stock of sockets: the first crowd fills them.)"""
    _crowd(bed, PATHS[path], 500)
    eventually(lambda: idle(bed), 15, "connections stay open")
    before = {node: proxy_fds(bed, node) for node in ("node1", "node2")}
    for _ in range(2):
        _crowd(bed, PATHS[path], 500)
        for _ in range(20):  # some that say nothing, some that break
            bed.call("front/web", "raw", to=PATHS[path], bytes="", fin=True)
            bed.call("front/web", "server_resets", to=PATHS[path], size=10)
    eventually(lambda: idle(bed), 15, "connections stay open")
    eventually(lambda: all(proxy_fds(bed, node) <= before[node] + 64 for node in before), 10, f"more open files than {before}")


def test_all_connections_are_told_and_gone(bed):
    hand = bed.new_hand("front/web")
    try:
        hand.start("keep", to=PATHS["other node"], family="4")
        name = hand.answer()
        source = f"{name['sees_self'][0]}:{name['sees_self'][1]}"

        def told(node):
            return [c for c in bed.proxy(node, "connections") if c["source"] == source]
        outbound, = eventually(lambda: told("node1"), 5)
        inbound, = eventually(lambda: told("node2"), 5)
        assert outbound["direction"] == "outbound" and outbound["pod"] == "front/web" and outbound["tunnel"] == "in-place"
        assert outbound["service"] == "back/far.back.svc.cluster.local" and outbound["endpoint"] == bed.ip("back/api-1") + ":8080"
        assert inbound["pod"] == "back/api-1" and inbound["peer"] == "spiffe://cluster.local/ns/front/sa/web"
        assert outbound["peer"] == "spiffe://cluster.local/ns/back/sa/api"
        hand.say("end")
        assert hand.answer() == {}
        eventually(lambda: not told("node1") and not told("node2"), 10, "it is told after its end")
    finally:
        hand.close()
    eventually(lambda: idle(bed), 15)


def idle(bed):
    return all(sum(bed.proxy(node, "status")["connections"].values()) == 0 for node in ("node1", "node2"))
