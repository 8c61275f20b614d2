"""Pods and Services that come and go while the mesh runs."""
import pytest

from bed import LabError, eventually, is_refused, is_refused_at_once
from labtool.shell import run

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: back
  labels: {{app: late, name: {name}}}
  annotations: {{lab.fairlead.dev/run: exec python3 $PEERS/server.py}}
spec: {{nodeName: {node}, serviceAccountName: late, containers: [{{name: app}}]}}
---
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: late, namespace: back}
spec: {selector: {app: late}, ports: [{port: 80, targetPort: 8080}]}
---
"""
FIRST, SECOND, KEY = "Pod/back/late-1", "Pod/back/late-2", "Service/back/late"


def who(bed, **how):
    return bed.call("front/web", "who", seconds=20, to=["late.back", 80], **how)


def answers(bed):
    return eventually(lambda: (lambda answer: answer if "pod" in answer else None)(who(bed)), 10, "the service does not answer")


def test_pod_that_comes_is_an_endpoint_and_one_that_goes_is_none(bed):
    with bed.applied(SERVICE, KEY, FIRST, SECOND):
        eventually(lambda: is_refused_at_once(who(bed)), 10, "no endpoint: refused at once")
        bed.apply(POD.format(name="late-1", node="node2"))
        assert answers(bed)["pod"] == "late-1"
        bed.apply(POD.format(name="late-2", node="node1"))
        seen = set()
        eventually(lambda: seen.add(answers(bed)["pod"]) or len(seen) == 2, 10, "the second endpoint is not used")
        bed.delete(FIRST)
        eventually(lambda: all(answers(bed)["pod"] == "late-2" for _ in range(10)), 10, "the pod that went is still used")
        bed.delete(SECOND)
        eventually(lambda: is_refused_at_once(who(bed)), 10, "no endpoint left: refused at once")


def test_new_pod_is_a_client_from_its_first_byte(bed):
    """Enrolled before its process starts: its first connection is the mesh's already."""
    strict = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode, namespace: back}
spec: {mtls: {mode: STRICT}}
---
"""
    with bed.applied(strict, "PeerAuthentication/back/mode", FIRST):
        eventually(lambda: is_refused(bed.call("outside/client", "who", to=[bed.ip("back/api-1"), 8080])), 10, "STRICT")
        bed.apply(POD.format(name="late-1", node="node1"))
        hand = bed.new_hand("back/late-1")
        try:
            hand.start("who", to=["far", 80], family="4")
            answer = hand.answer()
        finally:
            hand.close()
        assert answer.get("pod") == "api-1", answer
        assert answer["peer"][0] == bed.ip("back/late-1")


def test_endpoint_that_vanishes_ends_its_connections(bed):
    """The pod is gone in the middle of a connection: reset or end within a deadline, never silence for ever."""
    with bed.applied(SERVICE + POD.format(name="late-1", node="node2"), KEY, FIRST):
        answers(bed)
        hand = bed.new_hand("front/web")
        try:
            hand.start("keep", to=["late.back", 80], timeout=40)
            assert "sees_peer" in hand.answer()
            hand.say("one")
            assert hand.answer() == {"echo": "one\n"}
            bed.delete(FIRST)
            hand.say("two")
            assert is_refused(hand.answer(45))
        finally:
            hand.close()


@pytest.mark.parametrize("family", ["4", "6"])
def test_endpoint_that_is_gone_and_nobody_said_so(bed, family):
    """Its interface has vanished, the controller tells of it still: new connections are refused, at once."""
    with bed.applied(SERVICE + POD.format(name="late-1", node="node2"), KEY, FIRST):
        answers(bed)
        bed.call("front/other", "who", to=["late.back", 80], family=family)  # a tunnel of its own
        run("ip", "-netns", bed.names.node_netns("node2"), "link", "delete", bed.names.pod_interface("back", "late-1"))
        answer = bed.call("front/excluding", "who", seconds=5, to=["late.back", 80], family=family)  # without a tunnel so far
        assert is_refused(answer) and answer["failed"] != "TimeoutError", answer


@pytest.mark.parametrize("broken", ["its process died", "its interface vanished"])
def test_endpoint_that_fails_is_passed_over(bed, broken):
    """Before the first byte another endpoint of the Service is as good: no client notices. The client has no tunnel yet to
    the one whose interface vanished: to one that answered within the last second its first bytes would have gone."""
    second = POD.format(name="late-2", node="node2")
    if broken == "its process died":
        second = second.replace("python3 $PEERS/server.py", "true")
    with bed.applied(SERVICE + POD.format(name="late-1", node="node2") + second, KEY, FIRST, SECOND):
        answers(bed)
        before = bed.counters("node1")["outbound_retried"]
        if broken == "its interface vanished":
            run("ip", "-netns", bed.names.node_netns("node2"), "link", "delete", bed.names.pod_interface("back", "late-2"))
        for _ in range(20):
            assert bed.call("front/excluding", "who", to=["late.back", 80]).get("pod") == "late-1"
        assert bed.counters("node1")["outbound_retried"] > before, "the broken one was never tried"


def test_endpoint_whose_process_died(bed):
    with bed.applied(SERVICE + POD.format(name="late-1", node="node2").replace("python3 $PEERS/server.py", "true"), KEY, FIRST):
        answer = who(bed)
        assert is_refused(answer) and answer["failed"] != "TimeoutError", answer


def test_unknown_node_is_a_clear_error(bed):
    with pytest.raises(LabError, match="late-1.*node9"):
        bed.apply(POD.format(name="late-1", node="node9"))
    assert FIRST not in bed.state["objects"]


def test_pod_removed_leaves_no_program(bed):
    before = bed.keeper("node1", "pods")
    with bed.applied(POD.format(name="late-1", node="node1"), FIRST):
        assert len(bed.keeper("node1", "pods")) == len(before) + 1
    assert bed.keeper("node1", "pods") == before
