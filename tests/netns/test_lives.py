"""Agents and controllers that die. What an application gets is whole or visibly broken, never wrong and never in clear."""
import json
import os
import threading

import pytest

from bed import eventually, is_refused, lab, mesh
from labtool.paths import binary
from labtool.shell import run

pytestmark = pytest.mark.sanitizers
TO = ["api.front", 80]
NODES = ("node1", "node2")


def answers(bed, seconds=20, **how):
    def once():
        answer = bed.call("front/web", "who", to=TO, **how)
        return answer if "pod" in answer else None
    return eventually(once, seconds, "the mesh does not come back")


@pytest.fixture(autouse=True)
def everything_runs(own_bed):
    """Each test begins with all programs running, whatever the one before did, and with an empty log of the server."""
    lab.controller(own_bed.lab, "start")
    for node in NODES:
        lab.agent(own_bed.lab, node, "start")
    answers(own_bed)
    os.truncate(own_bed.names.log("front/api"), 0)


class Load:
    """Eight threads that exchange a quarter of a MiB each way per connection, checked, until told to stop."""

    def __init__(self, bed):
        self._hand = bed.new_hand("front/web")
        self._hand.start("load", to=TO, size=1 << 18, threads=8, timeout=20)

    def counts(self):
        self._hand.say("ping")
        return self._hand.answer()

    def wait_for_whole(self, more, seconds=40):
        floor = self.counts().get("whole", 0) + more
        eventually(lambda: self.counts().get("whole", 0) >= floor, seconds, f"{floor} whole connections")

    def stop(self):
        self._hand.say("stop")
        return self._hand.answer(60)

    def close(self):
        self._hand.close()


@pytest.fixture
def load(own_bed):
    made = Load(own_bed)
    try:
        made.wait_for_whole(20)
        yield made
    finally:
        made.close()


def check(bed, load):
    """Each connection was whole or reset: an early FIN would have told an end that was none."""
    counts = load.stop()
    assert not [key for key in counts if key not in ("whole", "broken")], counts
    assert "truncated: " not in bed.log("front/api"), "the server took a truncated request for a whole one"


@pytest.mark.parametrize("node", NODES)
def test_proxy_killed_under_load(own_bed, load, node):
    lab.agent(own_bed.lab, node, "kill", only_proxy=True)
    eventually(lambda: (mesh.quietly(own_bed.keeper, node, "status") or {}).get("proxyReady"), 15, "no new proxy")
    load.wait_for_whole(20)
    check(own_bed, load)


@pytest.mark.parametrize("node", NODES)
def test_agent_killed_and_started_under_load(own_bed, load, node):
    lab.agent(own_bed.lab, node, "kill")
    lab.agent(own_bed.lab, node, "start")
    load.wait_for_whole(20)
    check(own_bed, load)


@pytest.mark.parametrize("node", NODES)
def test_agent_restarted_under_load(own_bed, load, node):
    lab.agent(own_bed.lab, node, "restart")
    load.wait_for_whole(20)
    check(own_bed, load)


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_kills_under_load_leave_no_file_open(own_bed):
    """The keeper, which made the sockets, and the other node's proxy, which lost its peers, end as they began (but for a batch of
    its stock of sockets)."""
    keeper = mesh.pid_of(own_bed.names, "agent-node1")
    other = own_bed.keeper("node2", "status")["proxyPid"]
    load = Load(own_bed)
    try:
        load.wait_for_whole(20)
        load.stop()
    finally:
        load.close()

    def idle():
        return all(not mesh.proxy(own_bed.names, node, "connections") for node in NODES)
    eventually(idle, 15, "connections stay open")
    before = open_files(keeper), open_files(other)
    load = Load(own_bed)
    try:
        for _ in range(4):
            load.wait_for_whole(20)
            restarts = own_bed.keeper("node1", "status")["proxyRestarts"]
            lab.agent(own_bed.lab, "node1", "kill", only_proxy=True)
            eventually(lambda: (lambda status: status["proxyReady"] and status["proxyRestarts"] > restarts)(own_bed.keeper("node1", "status")),
                       15, "no new proxy")
        load.wait_for_whole(20)
        check(own_bed, load)
    finally:
        load.close()
    eventually(idle, 15, "connections stay open")
    eventually(lambda: open_files(keeper) <= before[0] and open_files(other) <= before[1] + 32, 15,
               f"more open files than {before}: {open_files(keeper)}, {open_files(other)}")


def test_killed_proxy_leaves_no_names_behind(own_bed):
    """The clients' names lie in a map that outlives the proxy: what the dead one published, the next one removes."""
    def names():
        text = run(binary("fairlead"), "--run-dir", own_bed.names.run_directory("node2"), "-o", "json", "bpf", "maps")
        return next(row["entries"] for row in json.loads(text) if (row["owner"], row["name"]) == ("fairlead", "fl_clients"))
    eventually(lambda: names() == 0, 15, "names of connections that have ended")
    hand = own_bed.new_hand("front/web")
    try:
        hand.start("keep", to=TO)
        assert "sees_peer" in hand.answer()
        assert names() == 1
        old = own_bed.keeper("node2", "status")["proxyPid"]
        lab.agent(own_bed.lab, "node2", "kill", only_proxy=True)
        eventually(lambda: (lambda status: status["proxyReady"] and status["proxyPid"] != old)(own_bed.keeper("node2", "status")), 15, "no new proxy")
        assert names() == 0
    finally:
        hand.close()


def test_new_connections_wait_for_the_next_proxy(own_bed):
    """The keeper holds the listeners: who connects while no proxy lives is served late, not refused."""
    for _ in range(5):
        lab.agent(own_bed.lab, "node1", "kill", only_proxy=True)
        assert own_bed.call("front/web", "who", to=TO).get("pod") == "api"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_client_side_without_agent_fails_closed(own_bed, how):
    lab.agent(own_bed.lab, "node1", how)
    assert mesh.pid_of(own_bed.names, "agent-node1") is None
    for to in (TO, [own_bed.ip("front/api"), 8080], [own_bed.ip("front/api", "6"), 8080]):
        answer = own_bed.call("front/web", "who", seconds=20, to=to, timeout=10)
        assert is_refused(answer), f"it went out past the mesh: {answer}"
    # Outside of the mesh nothing has happened.
    assert own_bed.call("outside/client", "who", to=[own_bed.ip("front/api"), 8080]).get("pod") == "api"
    lab.agent(own_bed.lab, "node1", "start")
    assert answers(own_bed, family="4")["peer"][0] == own_bed.ip("front/web")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_server_side_without_agent_fails_closed(own_bed, how):
    lab.agent(own_bed.lab, "node2", how)
    for family in "46":
        answer = own_bed.call("outside/client", "who", seconds=20, to=[own_bed.ip("front/api", family), 8080], timeout=3)
        assert is_refused(answer), f"it came in past the mesh: {answer}"
    # Probes of the node are the application's own business still.
    assert own_bed.from_node("node2", "who", to=[own_bed.ip("front/api"), 8080]).get("pod") == "api"
    lab.agent(own_bed.lab, "node2", "start")
    answers(own_bed)


def test_open_connection_does_not_outlive_its_proxy(own_bed):
    hand = own_bed.new_hand("front/web")
    try:
        hand.start("keep", to=TO)
        assert "sees_peer" in hand.answer()
        hand.say("one")
        assert hand.answer() == {"echo": "one\n"}
        lab.agent(own_bed.lab, "node2", "kill", only_proxy=True)
        hand.say("two")
        assert is_refused(hand.answer(30)), "an end that is no reset, or silence"
    finally:
        hand.close()
        answers(own_bed)


def test_stop_lets_open_connections_finish(own_bed):
    """SIGTERM drains: what is open goes on to its end within the drain deadline (5 s here)."""
    hand = own_bed.new_hand("front/web")
    stopping = None
    try:
        hand.start("keep", to=TO)
        assert "sees_peer" in hand.answer()
        stopping = threading.Thread(target=lab.agent, args=(own_bed.lab, "node1", "stop"))
        stopping.start()
        eventually(lambda: "draining" in own_bed.log("agent-node1").rsplit("controller", 1)[-1] or "stopping" in own_bed.log("agent-node1"),
                   5, "the agent does not say that it stops")
        hand.say("still here")
        assert hand.answer() == {"echo": "still here\n"}
        hand.say("end")
        assert hand.answer() == {}
        stopping.join(15)
        assert mesh.pid_of(own_bed.names, "agent-node1") is None
    finally:
        hand.close()
        if stopping:
            stopping.join(30)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_controller_down_traffic_continues(own_bed, how):
    lab.controller(own_bed.lab, how)
    assert mesh.pid_of(own_bed.names, "controller") is None
    eventually(lambda: not own_bed.proxy("node1", "status")["controller"]["connected"], 15, "the agent has not noticed")
    for _ in range(20):
        assert own_bed.call("front/web", "who", to=TO).get("pod") == "api"
    lab.controller(own_bed.lab, "start")
    for node in NODES:
        eventually(lambda: own_bed.proxy(node, "status")["controller"]["connected"], 30, f"{node} does not find the controller again")
    assert own_bed.call("front/web", "who", to=TO).get("pod") == "api"


def test_controller_restarted_brings_what_changed_meanwhile(own_bed):
    strict = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode, namespace: front}
spec: {mtls: {mode: STRICT}}
"""
    def from_outside():
        return own_bed.call("outside/client", "who", to=[own_bed.ip("front/api"), 8080])
    lab.controller(own_bed.lab, "stop")
    with own_bed.applied(strict, "PeerAuthentication/front/mode"):
        assert from_outside().get("pod") == "api", "a change is in force that nobody told"
        lab.controller(own_bed.lab, "start")
        eventually(lambda: is_refused(from_outside()), 30, "the change does not arrive")
    eventually(lambda: from_outside().get("pod") == "api", 10, "the removal does not arrive")


def test_proxy_without_controller_after_a_crash_does_not_open_up(own_bed):
    """The new proxy knows nothing: connections wait or fail, they are never let through unjudged."""
    lab.controller(own_bed.lab, "stop")
    lab.agent(own_bed.lab, "node2", "kill", only_proxy=True)
    answer = own_bed.call("outside/client", "who", seconds=20, to=[own_bed.ip("front/api"), 8080], timeout=3)
    assert is_refused(answer), answer
    lab.controller(own_bed.lab, "start")
    answers(own_bed, 40)


@pytest.mark.parametrize("talking", [False, True], ids=["idle", "talking"])
def test_dead_node_is_noticed_within_ten_seconds(own_bed, talking):
    """The other node vanishes without a word: the connection is reset, whether anything was under way or not."""
    hand = own_bed.new_hand("front/web")
    try:
        hand.start("keep", to=TO, timeout=30)
        assert "sees_peer" in hand.answer()
        hand.say("one")
        assert hand.answer() == {"echo": "one\n"}
        assert mesh.proxy(own_bed.names, "node1", "connections")
        run("ip", "-netns", own_bed.names.hub, "link", "set", "n2", "down")
        if talking:
            hand.say("two")
            assert is_refused(hand.answer(10))
        eventually(lambda: not mesh.proxy(own_bed.names, "node1", "connections"), 10, "the connection still stands")
        if not talking:
            hand.say("two")
            assert is_refused(hand.answer(5))
    finally:
        run("ip", "-netns", own_bed.names.hub, "link", "set", "n2", "up")
        hand.close()
