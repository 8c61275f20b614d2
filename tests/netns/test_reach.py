"""Every way an application can name its peer leads there, and nobody but the mesh notices the mesh."""
import itertools
import os

import pytest

from bed import Hand, is_refused, is_refused_at_once, pods, shell

_source_ports = itertools.count(5990)
WAYS = {
    "service, other node": ("front/web", ["far.back", 80], {"api-1"}),
    "service, fully qualified": ("front/web", ["far.back.svc.cluster.local", 80], {"api-1"}),
    "service, same node": ("front/web", ["near.back", 80], {"api-2"}),
    "service, own namespace": ("back/api-1", ["near", 80], {"api-2"}),
    "service, named target port": ("front/web", ["api.back", 80], {"api-1", "api-2"}),
    "headless": ("front/web", ["api-headless.back", 8080], {"api-1", "api-2"}),
    "service, tunnel on 15008": ("front/web", ["hbone.back", 80], {"hbone"}),
    "a service of plain pods": ("front/web", ["shop.outside", 80], {"shop"}),
}


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_reaches_by_name(bed, way, family):
    source, to, pods = WAYS[way]
    if "plain pods" in way and bed.stand_in == "none":
        pytest.skip("the ClusterIP of a service outside of the mesh needs the stand-in")
    answer = bed.call(source, "who", to=to, family=family)
    assert answer.get("pod") in pods, answer
    assert answer["peer"][0] == bed.ip(source, family), "the application saw another client than the true one"
    assert answer["name"] == answer["peer"], "getpeername() and accept() disagree"


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("target", ["back/api-1", "back/api-2", "back/hbone", "back/optout", "outside/shop"])
def test_reaches_by_pod_address(bed, target, family):
    address = bed.ip(target, family)
    answer = bed.call("front/web", "who", to=[address, 8080])
    assert answer.get("pod") == target.split("/")[1], answer
    assert answer["peer"][0] == bed.ip("front/web", family)
    assert answer["local"] == [address, 8080], "the application was not reached at its own address"


@pytest.mark.parametrize("family", ["4", "6"])
def test_client_sees_what_it_asked_for(bed, family):
    vip = bed.ip("svc/back/far", family)
    answer = bed.call("front/web", "who", to=[vip, 80])
    assert answer["sees_peer"] == [vip, 80], "getpeername() shows the rewrite"
    assert answer["sees_self"][0] == bed.ip("front/web", family), "getsockname() shows loopback"
    assert answer["sees_self"] == answer["peer"], "client and server name the client differently"


def test_service_spreads_over_its_endpoints(bed):
    seen = {bed.call("front/web", "who", to=["api.back", 80])["pod"] for _ in range(40)}
    assert seen == {"api-1", "api-2"}


def test_headless_name_has_all_pods(bed):
    found = bed.call("front/web", "resolve", to=["api-headless.back", 8080])["addresses"]
    assert found == sorted(bed.ip(f"back/api-{n}", family) for n in (1, 2) for family in "46")


@pytest.mark.parametrize("to", [["svc/back/far", 80], ["back/api-2", 8080]], ids=["service", "pod"])
def test_v4_mapped(bed, to):
    address = bed.ip(to[0])
    answer = bed.call("front/web", "who", to=[address, to[1]], mapped=True)
    assert answer.get("peer", [None])[0] == bed.ip("front/web"), answer
    assert answer["sees_peer"] == [address, to[1]]


@pytest.mark.parametrize("family", ["4", "6"])
def test_self_through_own_service(bed, family):
    answer = bed.call("back/api-1", "who", to=["far.back", 80], family=family)
    assert answer.get("pod") == "api-1", answer
    assert answer["peer"][0] == bed.ip("back/api-1", family)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "own"])
def test_self_directly_is_untouched(bed, address):
    before = bed.counters("node2")
    to = bed.ip("back/api-1") if address == "own" else address
    answer = bed.call("back/api-1", "who", to=[to, 8080])
    assert answer.get("pod") == "api-1" and answer["peer"][0] == to, answer
    after = bed.counters("node2")
    if address != "own":
        assert after["outbound_accepted"] == before["outbound_accepted"]


@pytest.mark.parametrize("to", [["far.back", 90], ["api.back", 90], ["hbone.back", 90], ["back/api-1", 9000],
                                ["outside/shop", 9000]], ids=lambda to: to[0])
def test_server_speaks_first(bed, to):
    if to[0] == "far.back":
        to = ["back/api-1", 9000]
    target = bed.ip(to[0]) if "/" in to[0] else to[0]
    answer = bed.call("front/web", "greeting", to=[target, to[1]])
    assert answer.get("reply") == "thanks\n" and answer["rest"] == 0, answer


def test_server_speaks_first_to_plaintext_client(bed):
    """A client outside the mesh says nothing; the greeting must not wait for it to."""
    answer = bed.call("outside/client", "greeting", to=[bed.ip("back/api-1"), 9000])
    assert answer.get("reply") == "thanks\n", answer
    assert answer["peer"][0] == bed.ip("outside/client")
    assert answer["seconds"] < 0.4, "plaintext clients wait for the first bytes' deadline"


@pytest.mark.parametrize("source, target", [("outside/client", "back/api-1"), ("outside/client", "outside/shop"),
                                            ("front/web", "outside/shop"), ("back/optout", "back/api-1")])
def test_across_the_border_of_the_mesh(bed, source, target):
    answer = bed.call(source, "who", to=[bed.ip(target), 8080])
    assert answer.get("pod") == target.split("/")[1], answer
    assert answer["peer"] == answer["sees_self"], "the true client, port and all"


@pytest.mark.parametrize("source", ["outside/client", "front/web"])
def test_traffic_outside_the_mesh_never_touches_the_agent(bed, source):
    before = bed.counters()
    for family in "46":
        answer = bed.call(source, "who", to=[bed.ip("outside/shop", family), 8080])
        assert answer.get("pod") == "shop", answer
        assert answer["peer"] == answer["sees_self"], "something stood between them"
    after = bed.counters()
    changed = {key for key in after if after[key] != before.get(key, 0)}
    touched = {key for key in changed if key.startswith(("outbound_", "inbound_", "connect_cap", "connect_seen", "tunnels_"))}
    assert not touched


@pytest.mark.parametrize("port, family", [(8084, "4"), (8086, "6")])
@pytest.mark.parametrize("source, target", [("front/web", "back/api-1"), ("front/web", "back/api-2"), ("front/web", "back/hbone"),
                                            ("outside/client", "back/api-1"), ("back/api-1", "back/api-1")])
def test_application_of_one_family(bed, source, target, port, family):
    """A socket of AF_INET learns of its peer through another hook than one of AF_INET6 that takes both."""
    answer = bed.call(source, "who", to=[bed.ip(target, family), port])
    assert answer.get("pod") == target.split("/")[1], answer
    assert answer["peer"][0] == bed.ip(source, family) and answer["name"] == answer["peer"], answer


def test_container_below_the_pods_cgroup(bed):
    """Runtimes give each container a cgroup of its own below the pod's."""
    pod = bed.pod("front/web")
    cgroup = os.path.join(pods.cgroup_of(bed.names, pod), "container")

    def enter():
        pods.enter(bed.names, pod)
        shell.enter_cgroup(cgroup)
    os.makedirs(cgroup, exist_ok=True)
    before = bed.counters("node1")["outbound_accepted"]
    hand = Hand(enter)
    try:
        hand.start("who", to=["far.back", 80], family="4")
        answer = hand.answer()
    finally:
        hand.close()
        os.rmdir(cgroup)
    assert answer.get("pod") == "api-1" and answer["sees_peer"] == [bed.ip("svc/back/far"), 80], answer
    assert bed.counters("node1")["outbound_accepted"] == before + 1


@pytest.mark.parametrize("family", ["4", "6"])
def test_two_connections_from_one_port(bed, family):
    """To two destinations a port may be used twice. Through the mesh both go to loopback, to different endpoints there.

    IPv6 has only 128 of those: of 128 pairs of services one pair meets, and then the second connect() gets EADDRNOTAVAIL.
    These two, whose addresses the lab always chooses alike, do not; tests/bpf shows a pair that does.
    """
    hands = [bed.new_hand("front/web") for _ in range(2)]
    try:
        for hand, to in zip(hands, (["far.back", 80], ["near.back", 80])):
            hand.start("keep", to=to, family=family, source_port=5980)
            answer = hand.answer()
            assert "sees_peer" in answer, answer
        for hand in hands:
            hand.say("one")
            assert hand.answer() == {"echo": "one\n"}
    finally:
        for hand in hands:
            hand.close()


def test_udp_is_not_captured(bed):
    answer = bed.call("front/web", "udp", to=[bed.ip("back/api-1"), 5353])
    assert answer["sees_peer"] == [bed.ip("back/api-1"), 5353]


@pytest.mark.parametrize("to", [["far.back", 80], ["near.back", 80], ["back/api-1", 8080]], ids=lambda to: to[0])
@pytest.mark.parametrize("kind", ["nonblocking", "mptcp", "fast open", "bound port"])
def test_kinds_of_connect(bed, kind, to):
    target = [bed.ip(to[0]) if "/" in to[0] else to[0], to[1]]
    before, port = bed.counters(), next(_source_ports)
    if kind == "fast open":
        answer = bed.call("front/web", "fast_open", to=target, family="4")
    else:
        how = {"nonblocking": {"nonblocking": True}, "mptcp": {"protocol": 262}, "bound port": {"source_port": port}}[kind]
        answer = bed.call("front/web", "who", to=target, family="4", **how)
    assert answer.get("peer", [None])[0] == bed.ip("front/web"), answer
    assert answer["sees_peer"] == [bed.ip("svc/back/" + to[0].split(".")[0]) if "." in to[0] else target[0], to[1]]
    if kind == "bound port":
        assert answer["peer"][1] == port, "the application does not see the port the client bound"
    after = bed.counters()
    for counter in ("outbound_accepted", "inbound_streams"):
        assert after[counter] == before[counter] + 1, f"it went past the mesh: {counter}"


def test_mptcp_over_v6(bed):
    answer = bed.call("front/web", "who", to=["far.back", 80], family="6", protocol=262)
    assert answer.get("peer", [None])[0] == bed.ip("front/web", "6"), answer


# ---- what leads nowhere ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["4", "6"])
@pytest.mark.parametrize("how", [{}, {"nonblocking": True}], ids=["blocking", "nonblocking"])
def test_service_without_endpoints_is_refused_at_once(bed, family, how):
    answer = bed.call("front/web", "who", seconds=5, to=["empty.back", 80], family=family, **how)
    assert is_refused_at_once(answer), answer


@pytest.mark.parametrize("to", [["far.back", 99], ["back/api-1", 9999], ["back/hbone", 9999]], ids=lambda to: f"{to[0]}:{to[1]}")
def test_application_that_refuses(bed, to):
    target = [bed.ip(to[0]) if "/" in to[0] else to[0], to[1]]
    answer = bed.call("front/web", "who", seconds=10, to=target)
    assert is_refused(answer), answer
    assert answer["failed"] != "TimeoutError", "it hangs instead of failing"


def test_plaintext_client_of_an_application_that_refuses(bed):
    answer = bed.call("outside/client", "who", seconds=10, to=[bed.ip("back/api-1"), 9999])
    assert is_refused(answer) and answer["failed"] != "TimeoutError", answer


def test_port_that_the_service_does_not_have(bed):
    assert is_refused(bed.call("front/web", "who", seconds=10, to=["far.back", 4321]))


@pytest.mark.parametrize("address, port", [("127.77.7.7", 15001), ("::1", 300)], ids=str)
def test_captured_connections_endpoints_are_nobodys_door(bed, address, port):
    before = bed.counters("node1")
    answer = bed.call("front/web", "raw", seconds=10, to=[address, port], bytes="41", wait=5)
    assert answer.get("failed") == "ConnectionRefusedError", answer
    after = bed.counters("node1")
    assert after["outbound_accepted"] == before["outbound_accepted"]


@pytest.mark.parametrize("port", [15001, 15006])
def test_agents_listeners_are_nobodys_door(bed, port):
    """Dialled by a process of the pod itself, and from outside."""
    for source, to in (("front/web", "127.0.0.1"), ("front/web", "::1"), ("outside/client", bed.ip("front/web"))):
        answer = bed.call(source, "raw", seconds=10, to=[to, port], bytes="41", wait=5)
        assert is_refused(answer) or answer.get("ended") in ("reset", "fin"), answer
        assert not answer.get("received")


# ---- exclusions ------------------------------------------------------------------------------------------------------------


def test_excluded_outbound_port(bed):
    before = bed.counters("node1")["connect_excluded"]
    answer = bed.call("front/excluding", "who", to=[bed.ip("back/api-1"), 7000])
    assert answer.get("pod") == "api-1" and answer["peer"] == answer["sees_self"], answer
    after = bed.counters("node1")
    assert after["connect_excluded"] == before + 1


@pytest.mark.parametrize("family", ["4", "6"])
def test_excluded_outbound_range(bed, family):
    address = {"4": "10.244.2.12", "6": "fd00:10:244:2::c"}[family]
    assert address == bed.ip("back/hbone", family), "the manifest's range and the pod moved apart"
    before = bed.counters("node1")["outbound_accepted"]
    assert bed.call("front/excluding", "who", to=[address, 8080]).get("pod") == "hbone"
    assert bed.counters("node1")["outbound_accepted"] == before
    assert bed.call("front/excluding", "who", to=[bed.ip("back/api-1", family), 8080]).get("pod") == "api-1"
    assert bed.counters("node1")["outbound_accepted"] == before + 1


def test_excluded_inbound_port(bed):
    before = bed.counters("node2")["inbound_accepted"]
    answer = bed.call("outside/client", "who", to=[bed.ip("back/excepted"), 7000])
    assert answer.get("pod") == "excepted" and answer["peer"] == answer["sees_self"], answer
    assert bed.counters("node2")["inbound_accepted"] == before
    assert bed.call("outside/client", "who", to=[bed.ip("back/excepted"), 8080]).get("pod") == "excepted"
    assert bed.counters("node2")["inbound_accepted"] == before + 1


def test_excluded_inbound_port_from_the_mesh(bed):
    """The server's agent takes no tunnel there: the client's goes to port 15008 instead, encrypted all the same."""
    answer = bed.call("front/web", "who", to=[bed.ip("back/excepted"), 7000])
    assert answer.get("pod") == "excepted", answer
