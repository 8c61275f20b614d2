"""Beside Cilium: a stand-in that holds Cilium's hooks, attached before ours and after ours. Neither notices the other."""
import json
import os
import subprocess

import pytest

from bed import Bed, binary, eventually, is_refused, lab, shell

pytestmark = pytest.mark.standin

NETWORK_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-web, namespace: front}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{protocol: TCP, port: 8080}]
"""
KEY = "NetworkPolicy/front/only-web"


@pytest.fixture(scope="module", params=["before", "after"])
def both(request):
    made = Bed(f"ns{os.getpid()}-{request.param}", manifest="small.yaml", stand_in=request.param)
    try:
        yield made.up()
    finally:
        made.down()


def drops(bed):
    return sum(lab.standin.drops(bed.names, node) for node in bed.state["nodes"])


@pytest.mark.parametrize("family", ["4", "6"])
def test_services_in_and_out_of_the_mesh(both, family):
    vip = both.ip("svc/front/api", family)
    before = both.counters("node1")["outbound_accepted"]
    for source, captured in (("front/web", 1), ("outside/client", 0)):
        answer = both.call(source, "who", to=[vip, 80])
        assert answer.get("pod") == "api", answer
        assert answer["peer"][0] == both.ip(source, family)
        assert answer["sees_peer"] == [vip, 80], "getpeername() shows a rewrite"
        assert both.counters("node1")["outbound_accepted"] == before + captured
        before += captured


def test_v4_mapped_out_of_the_mesh(both):
    answer = both.call("outside/client", "who", to=[both.ip("front/api"), 8080], mapped=True)
    assert answer.get("pod") == "api", answer


def test_network_policy_holds_inside_the_mesh(both):
    """The tunnel runs on the application's port, from the pod's own address: the policy judges what it was written for."""
    with both.applied(NETWORK_POLICY, KEY):
        count = drops(both)
        for family in "46":
            assert both.call("front/web", "who", to=[both.ip("front/api", family), 8080]).get("pod") == "api"
        assert drops(both) == count
        for source, port in (("front/web", 9000), ("outside/client", 8080)):
            answer = both.call(source, "raw", seconds=20, to=[both.ip("front/api"), port], bytes="", timeout=3, wait=15)
            assert is_refused(answer) or answer.get("ended") == "reset", answer
        eventually(lambda: drops(both) > count, 5, "the stand-in has not seen them")
    answer = both.call("outside/client", "who", to=[both.ip("front/api"), 8080])
    assert answer.get("pod") == "api", answer


def links(bed, node):
    out = subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory(node), "bpf", "links", "-o", "json"],
                         capture_output=True, text=True,
                         preexec_fn=lambda: shell.enter_netns(bed.names.node_netns(node))).stdout
    return [link for link in json.loads(out) if f"/{bed.lab}/" in link["target"] or bed.names.prefix in link["target"]]


@pytest.mark.skipif(not os.access(binary("fairlead"), os.X_OK), reason="the CLI is not built")
def test_hooks_do_not_meet(both):
    found = links(both, "node1") + links(both, "node2")
    ours = {(link["attachType"], link["target"]) for link in found if link["program"].startswith("fl_")}
    theirs = {(link["attachType"], link["target"]) for link in found if link["program"].startswith("standin_")}
    assert ours and theirs
    assert not ours & theirs
    pods = os.path.join("kubepods", "pod")
    assert all(pods in target for kind, target in ours if kind.startswith("cgroup")), "something of ours is not on a pod"
    for link in found:
        assert link["program"].startswith(("fl_", "standin_")), link


def test_stand_in_alone_serves_a_lab_without_mesh():
    made = Bed(f"ns{os.getpid()}-alone", manifest="small.yaml", stand_in="before", with_mesh=False)
    try:
        made.up()
        answer = made.call("front/web", "who", to=["api.front", 80])
        assert answer.get("pod") == "api" and answer["peer"] == answer["sees_self"]
    finally:
        made.down()


def test_traffic_goes_on_under_the_stand_in_when_the_mesh_is_taken_away():
    """Removing Fairlead leaves the node as it was: an unenrolled pod is reached by Service as before."""
    made = Bed(f"ns{os.getpid()}-gone", manifest="small.yaml", stand_in="before")
    try:
        made.up()
        assert made.call("front/web", "who", to=["api.front", 80]).get("pod") == "api"
        for node in ("node1", "node2"):
            for pod in made.keeper(node, "pods"):
                made.keeper(node, "pod.remove " + json.dumps({"uid": pod["uid"]}))
            lab.agent(made.lab, node, "stop")
        answer = made.call("front/web", "who", to=["api.front", 80])
        assert answer.get("pod") == "api" and answer["peer"] == answer["sees_self"], answer
    finally:
        made.down()

