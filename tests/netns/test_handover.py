"""An agent is replaced by a successor beside it: what is open and what comes meanwhile, and what is left when it fails."""
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from bed import eventually, lab, mesh
import handover
from test_data import whole
from labtool.paths import binary
from labtool.shell import LabError, SLOWER, enter_netns, run

TO = ["api.front", 80]
NODES = ("node1", "node2")


def status(bed, node="node1"):
    return mesh.quietly(bed.keeper, node, "status")


def hand_overs(bed, node="node1"):
    return bed.keeper(node, "status")["handOvers"]


def who(bed):
    return bed.call("front/web", "who", to=TO, timeout=10)


def serves(bed, seconds=20):
    eventually(lambda: "pod" in who(bed), seconds, "the mesh does not serve")


def listeners(bed, pod="front/web"):
    """Inode by address of every listener in the pod's network namespace: the same inode is the same socket."""
    namespace, name = pod.split("/")
    netns = bed.names.pod_netns(namespace, name)
    found = {}
    for table in ("tcp", "tcp6"):
        for line in run("ip", "netns", "exec", netns, "cat", f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) in (15001, 15006):
                found[fields[1]] = fields[9]
    return found


def fairlead(bed, *words, node="node1"):
    return subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory(node), *words], text=True, capture_output=True,
                          check=False)


@pytest.fixture(autouse=True)
def everything_runs(own_bed):
    lab.controller(own_bed.lab, "start")
    for node in NODES:
        lab.agent(own_bed.lab, node, "start")
    serves(own_bed)


class Hand:
    """One connection through the mesh that has to go on."""

    def __init__(self, bed):
        self._hand = bed.new_hand("front/web")
        self._hand.start("keep", to=TO, timeout=30)
        assert "sees_peer" in self._hand.answer()
        self.echo("begin")

    def echo(self, word):
        self._hand.say(word)
        assert self._hand.answer(15) == {"echo": word + "\n"}

    def close(self):
        self._hand.close()


@pytest.fixture
def open_connection(own_bed):
    hand = Hand(own_bed)
    yield hand
    hand.close()


# ---- it works ----

@pytest.mark.sanitizers
@pytest.mark.parametrize("node", NODES)
def test_the_successor_has_everything(own_bed, node):
    pod = {"node1": "front/web", "node2": "front/api"}[node]
    before, sockets, told = own_bed.keeper(node, "status"), listeners(own_bed, pod), own_bed.keeper(node, "pods")
    with open(os.path.join(own_bed.names.run_directory(node), "pods.json")) as file:
        memory = file.read()
    links = {row["id"]: row for row in json.loads(fairlead(own_bed, "-o", "json", "bpf", "links", node=node).stdout)}
    lab.agent(own_bed.lab, node, "upgrade")
    after = own_bed.keeper(node, "status")
    assert after["pid"] == mesh.pid_of(own_bed.names, f"agent-{node}") != before["pid"]
    assert after["proxyPid"] != before["proxyPid"] and after["proxyReady"]
    assert after["handOvers"] == {"taken": before["handOvers"]["taken"] + 1, "failed": before["handOvers"]["failed"], "lastFailure": "",
                                  "state": "none"}
    for pid in (before["pid"], before["proxyPid"]):
        eventually(lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z", 5,
                   f"{pid} of the old agent lives")
    assert len(sockets) == 4 and listeners(own_bed, pod) == sockets, "these are other listeners"
    assert own_bed.keeper(node, "pods") == told
    with open(os.path.join(own_bed.names.run_directory(node), "pods.json")) as file:
        assert file.read() == memory
    now = {row["id"]: row for row in json.loads(fairlead(own_bed, "-o", "json", "bpf", "links", node=node).stdout)}
    mine = {number for number, row in links.items() if row["owner"] == "fairlead"}
    assert mine and mine <= set(now), "links were made anew: there was a moment without one"
    assert who(own_bed).get("pod") == "api"
    assert sorted(os.listdir(own_bed.names.run_directory(node))) == ["agent.lock", "handover.sock", "keeper.sock", "pods.json", "proxy", "proxy.sock"]
    assert os.listdir(os.path.join(own_bed.names.run_directory(node), "proxy")) == ["proxy.sock"]
    text = fairlead(own_bed, "status", node=node)
    assert text.returncode == 0 and f"hand-overs     {after['handOvers']['taken']} taken, " in text.stdout


def test_programs_are_the_successors(own_bed):
    """Attached in place: the links are the same, what runs in them is new."""
    def programs():
        rows = json.loads(fairlead(own_bed, "-o", "json", "bpf", "links").stdout)
        return {row["id"]: row["programId"] for row in rows if row["owner"] == "fairlead" and row["pod"] == "front/web"}
    before = programs()
    assert before
    lab.agent(own_bed.lab, "node1", "upgrade")
    eventually(lambda: set(programs()) == set(before) and not set(programs().values()) & set(before.values()), 10,
               "the programs of the agent before are still there")
    assert who(own_bed).get("pod") == "api"


@pytest.mark.sanitizers
def test_pods_come_and_go_after_it(own_bed):
    pod = own_bed.pod("front/web")
    lab.agent(own_bed.lab, "node1", "upgrade")
    mesh.dismiss(own_bed.names, pod)
    assert own_bed.keeper("node1", "pods") == []
    mesh.enrol(own_bed.names, pod)
    assert [row["name"] for row in own_bed.keeper("node1", "pods")] == ["web"]
    serves(own_bed)
    lab.agent(own_bed.lab, "node1", "kill")  # what it remembers is right, too
    lab.agent(own_bed.lab, "node1", "start")
    assert [row["name"] for row in own_bed.keeper("node1", "pods")] == ["web"]
    serves(own_bed)


def test_proxy_of_a_successor_is_replaced_when_it_dies(own_bed):
    lab.agent(own_bed.lab, "node1", "upgrade")
    old = mesh.kill_proxy(own_bed.names, "node1")
    eventually(lambda: (lambda now: now["proxyReady"] and now["proxyPid"] != old)(status(own_bed)), 15, "no new proxy")
    serves(own_bed)
    eventually(lambda: mesh.quietly(own_bed.proxy, "node1", "status"), 5, "it does not answer at its socket")


def test_agent_that_took_over_drains_like_any(own_bed):
    lab.agent(own_bed.lab, "node1", "upgrade")
    lab.agent(own_bed.lab, "node1", "restart")
    assert own_bed.keeper("node1", "status")["handOvers"]["taken"] == 0
    serves(own_bed)


@pytest.mark.parametrize("node", NODES)
def test_new_connections_while_it_is_replaced(own_bed, node):
    """20 upgrades: nobody is refused, nobody reset."""
    hand = own_bed.new_hand("front/web")
    try:
        hand.start("load", to=TO, size=1 << 12, threads=6, timeout=20)
        for _ in range(20):
            lab.agent(own_bed.lab, node, "upgrade")
        hand.say("stop")
        counts = hand.answer(60)
    finally:
        hand.close()
    assert set(counts) == {"whole"} and counts["whole"] > 200, counts


def test_pods_that_come_and_go_meanwhile_are_not_lost(own_bed):
    """A pod is enrolled and removed as fast as it goes, through eight upgrades: what was answered holds, whoever answered it."""
    pod, ended, wrong = own_bed.pod("front/web"), threading.Event(), []

    def insist(line):
        deadline = time.monotonic() + 15 * SLOWER
        while time.monotonic() < deadline:
            try:
                return own_bed.keeper("node1", line)
            except LabError as error:
                # Being replaced, or gone between the question and the answer: it may have been done all the same.
                if "no pod with uid" in str(error):
                    return None
        raise AssertionError(f"nobody does it: {line}")

    def toggle():
        try:
            while not ended.is_set():
                insist("pod.remove " + json.dumps({"uid": pod["metadata"]["uid"]}))
                if insist("pods") != []:
                    wrong.append("it was removed and is there")
                insist("pod.add " + json.dumps(mesh.pod_spec(own_bed.names, pod)))
                if [row["uid"] for row in insist("pods")] != [pod["metadata"]["uid"]]:
                    wrong.append("it was enrolled and is not there")
        except Exception as error:  # a thread's exception would be lost
            wrong.append(repr(error))
    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        for _ in range(8):
            mesh.upgrade_agent(own_bed.names, "node1")  # lab.agent() would enrol the pod itself
    finally:
        ended.set()
        thread.join(30)
    assert not wrong, wrong
    assert hand_overs(own_bed)["taken"] >= 8
    serves(own_bed)


def test_the_lab_tells_when_there_is_nothing_to_upgrade(own_bed):
    lab.agent(own_bed.lab, "node1", "stop")
    with pytest.raises(LabError, match="does not run"):
        lab.agent(own_bed.lab, "node1", "upgrade")


def test_open_connection_goes_on(own_bed, open_connection):
    """Moved by every upgrade of either end: never cut."""
    for turn in range(3):
        for node in NODES:
            lab.agent(own_bed.lab, node, "upgrade")
            open_connection.echo(f"{turn} after {node}")


@pytest.mark.sanitizers
def test_traffic_goes_on_through_upgrades(own_bed):
    """Bulk both ways, idle ones and new ones, through upgrades of both ends: every byte is there, in order, with its end."""
    size, idle = 64 << 20, [Hand(own_bed) for _ in range(10)]
    bulk, comers = [own_bed.new_hand("front/web") for _ in range(3)], own_bed.new_hand("front/web")
    try:
        comers.start("load", to=TO, size=1 << 12, threads=2, timeout=20)
        for hand in bulk:
            hand.start("duplex", to=TO, size=size, timeout=120)
        for turn in range(8):
            lab.agent(own_bed.lab, NODES[turn % 2], "upgrade")
            for number, hand in enumerate(idle):
                hand.echo(f"{turn}.{number}")
        for hand in bulk:
            answer = hand.answer(120)
            assert whole(answer, size, "down") and whole(answer["server"], size, "up"), answer
            assert answer["rest"] == 0
        comers.say("stop")
        counts = comers.answer(60)
        assert set(counts) == {"whole"}, counts
    finally:
        for hand in (*idle, *bulk, comers):
            hand.close()


# ---- a successor that is not given the node ----

def run_agent(bed, config, node="node1", seconds=60):
    """A second agent to its end: (status, what it said)."""
    process = subprocess.Popen([binary("fairlead-agent"), "--config", config], stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env=mesh._environment("agent-second"), preexec_fn=lambda: enter_netns(bed.names.node_netns(node)))
    try:
        return process.wait(seconds * SLOWER), process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def other_config(bed, **change):
    """The agent's configuration with something else in it."""
    import yaml
    with open(os.path.join(bed.names.node_directory("node1"), "agent.yaml")) as file:
        document = yaml.safe_load(file)
    document.update(change)
    path = os.path.join(bed.names.node_directory("node1"), "other.yaml")
    with open(path, "w") as file:
        yaml.safe_dump(document, file)
    return path


def nothing_happened(bed, before):
    now = bed.keeper("node1", "status")
    assert (now["pid"], now["proxyPid"], now["proxyRestarts"]) == (before["pid"], before["proxyPid"], before["proxyRestarts"])
    assert [row["name"] for row in bed.keeper("node1", "pods")] == ["web"]
    assert mesh.proxy(bed.names, "node1", "status")["ready"]
    assert who(bed).get("pod") == "api"


@pytest.mark.sanitizers
@pytest.mark.parametrize("what", ["node", "bpfDirectory"])
def test_agent_of_another_configuration_is_refused(own_bed, open_connection, what):
    before = own_bed.keeper("node1", "status")
    change = {"node": "elsewhere"} if what == "node" else {"bpfDirectory": "/sys/fs/bpf/fairlead/elsewhere"}
    code, said = run_agent(own_bed, other_config(own_bed, **change))
    assert code == 1 and "the running agent does not hand over" in said and "elsewhere" in said, said
    nothing_happened(own_bed, before)
    open_connection.echo("goes on")


def test_agent_that_cannot_hand_over_is_left_alone(own_bed, tmp_path):
    """An agent of a version before this one has no lock: it answers at keeper.sock, and a second one must not begin."""
    import socket
    old = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old.bind(str(tmp_path / "keeper.sock"))
    old.listen()
    inode = os.stat(tmp_path / "keeper.sock").st_ino
    code, said = run_agent(own_bed, other_config(own_bed, runDirectory=str(tmp_path), bpfDirectory="/sys/fs/bpf/fairlead/none"))
    assert code == 1 and "cannot hand over" in said and f"pid {os.getpid()}" in said, said
    assert os.stat(tmp_path / "keeper.sock").st_ino == inode
    assert not os.path.exists("/sys/fs/bpf/fairlead/none")
    old.close()


def test_agent_that_holds_the_lock_and_is_deaf_is_left_alone(own_bed, tmp_path):
    running = handover.Running(str(tmp_path))
    os.unlink(tmp_path / "handover.sock")
    try:
        code, said = run_agent(own_bed, other_config(own_bed, runDirectory=str(tmp_path), bpfDirectory="/sys/fs/bpf/fairlead/none"))
        assert code == 1 and "an agent runs here and does not hand over" in said, said
    finally:
        running.close()


def test_without_controller_the_old_agent_goes_on(own_bed, open_connection):
    """The successor gets neither the mesh nor certificates; it says so and goes."""
    before = own_bed.keeper("node1", "status")
    lab.controller(own_bed.lab, "stop")
    with pytest.raises(LabError, match="has ended with status 1"):
        lab.agent(own_bed.lab, "node1", "upgrade")
    assert "is the controller reachable?" in hand_overs(own_bed)["lastFailure"]
    nothing_happened(own_bed, before)
    open_connection.echo("goes on")
    lab.controller(own_bed.lab, "start")
    eventually(lambda: own_bed.proxy("node1", "status")["controller"]["connected"], 40, "the controller is not found again")


def test_cleanup_of_a_running_agent_is_refused(own_bed):
    before = own_bed.keeper("node1", "status")
    config = os.path.join(own_bed.names.node_directory("node1"), "agent.yaml")
    done = subprocess.run([binary("fairlead-agent"), "cleanup", "--config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "stop it first" in done.stderr, done
    nothing_happened(own_bed, before)


# ---- the running agent, and a successor that misbehaves at each step ----

class Successor:
    """A hand-over of node1 asked for by the test."""

    def __init__(self, bed, run_directory=None, bpf_directory=None):
        self.bpf = bpf_directory or bed.names.bpf_directory("node1")
        self.line = handover.successor(os.path.join(run_directory or bed.names.run_directory("node1"), "handover.sock"))

    def ask(self, **how):
        self.line.send(handover.ask(how.pop("node", "node1"), self.bpf, **how))
        return self.line

    def offered(self):
        self.ask().expect(handover.OFFER)
        _, fds = self.line.until(handover.ALL_PODS)
        return fds

    def take(self):
        """The old proxy's line."""
        import socket
        self.offered()
        self.line.send(handover.PREPARED)
        _, fds = self.line.until(handover.TAKE)
        return handover.Line(socket.socket(fileno=fds[0]))


def silent(successor):
    return successor.line.refusal()


def garbage(successor):
    successor.line.send(b"\xff\xff\xff")


def unknown_version(successor):
    assert "versions" in successor.ask(newest=9, oldest=8).refusal()


def other_node(successor):
    assert "this is node node1" in successor.ask(node="elsewhere").refusal()


def other_maps(successor):
    assert "maps" in successor.ask(maps=1).refusal()


def later_version_goes(successor):
    """What a later version appends is no reason to refuse it."""
    successor.line.send(handover.ask("node1", successor.bpf, newest=9) + b"and more")
    body, _ = successor.line.expect(handover.OFFER)
    assert body[:4] == b"\0\0\0\1"


def gone_when_offered(successor):
    successor.offered()


def failed_when_offered(successor):
    successor.offered()
    successor.line.send(bytes([handover.FAILED]) + handover.text("told so"))


def prepared_at_once(successor):
    successor.line.send(handover.PREPARED)


def fds_out_of_place(successor):
    successor.offered()
    successor.line.send(handover.PREPARED, [0])


def mine_too_early(successor):
    successor.offered()
    successor.line.send(handover.MINE)


BEFORE_THE_PROXIES = {silent: "in time", garbage: "malformed", unknown_version: "speaks versions", other_node: "node", other_maps: "maps",
                      later_version_goes: "gone", gone_when_offered: "gone", failed_when_offered: "told so",
                      prepared_at_once: "breaks the protocol", fds_out_of_place: "fds", mine_too_early: "breaks the protocol"}


@pytest.mark.sanitizers
@pytest.mark.parametrize("step", BEFORE_THE_PROXIES, ids=lambda step: step.__name__)
def test_successor_that_fails_before_the_proxies(own_bed, open_connection, step):
    before = own_bed.keeper("node1", "status")
    successor = Successor(own_bed)
    try:
        step(successor)
    finally:
        successor.line.close()
    eventually(lambda: hand_overs(own_bed)["failed"] == before["handOvers"]["failed"] + 1, 10, "it is not counted")
    assert BEFORE_THE_PROXIES[step] in hand_overs(own_bed)["lastFailure"]
    assert hand_overs(own_bed)["state"] == "none"
    nothing_happened(own_bed, before)
    open_connection.echo("goes on")


def gone_when_taking(successor):
    successor.take().close()
    successor.line.close()


def proxy_gone_when_taking(successor):
    proxy = successor.take()
    proxy.until(handover.END)  # else a send may meet it first, and tell it in other words
    proxy.close()
    assert "gone" in successor.line.refusal()


def proxy_refuses(successor):
    proxy = successor.take()
    proxy.expect(handover.BEGIN)
    proxy.send(bytes([handover.PROXY_REFUSED]) + handover.text("too strange"))
    assert "too strange" in successor.line.refusal()


def proxy_talks_nonsense(successor):
    proxy = successor.take()
    proxy.until(handover.END)  # nothing is under way that it could be told by instead
    proxy.send(b"\x7f")
    assert "malformed" in successor.line.refusal()


def proxy_counts_wrong(successor):
    proxy = successor.take()
    proxy.until(handover.END)
    proxy.send(bytes([handover.PROXY_PREPARED]) + b"\0\0\0\x63")
    assert "breaks the protocol" in successor.line.refusal()


def proxy_stalls(successor):
    proxy = successor.take()
    assert "in time" in successor.line.refusal()
    proxy.close()


def keeper_says_failed(successor):
    proxy = successor.take()
    successor.line.send(bytes([handover.FAILED]) + handover.text("my proxy died"))
    proxy.close()


def proxy_gone_when_prepared(successor):
    """It says Prepared and is gone: nobody can be told to commit."""
    proxy = successor.take()
    totals, _ = proxy.until(handover.END)
    proxy.sock.shutdown(0)  # reads no more: Commit meets EPIPE
    proxy.send(bytes([handover.PROXY_PREPARED]) + totals[:4])
    successor.line.refusal()


AMONG_THE_PROXIES = {gone_when_taking: "", proxy_gone_when_taking: "gone", proxy_refuses: "too strange", proxy_talks_nonsense: "malformed",
                     proxy_counts_wrong: "breaks the protocol", proxy_stalls: "in time", keeper_says_failed: "my proxy died",
                     proxy_gone_when_prepared: ""}


@pytest.mark.sanitizers
@pytest.mark.parametrize("step", AMONG_THE_PROXIES, ids=lambda step: step.__name__)
def test_successor_that_fails_among_the_proxies(own_bed, step):
    before = own_bed.keeper("node1", "status")
    successor = Successor(own_bed)
    try:
        step(successor)
    finally:
        successor.line.close()
    eventually(lambda: hand_overs(own_bed)["failed"] == before["handOvers"]["failed"] + 1, 15, "it is not counted")
    assert AMONG_THE_PROXIES[step] in hand_overs(own_bed)["lastFailure"]
    nothing_happened(own_bed, before)


def test_successor_that_dies_behind_the_point_of_no_return(own_bed):
    """What it was given is gone, as with any proxy that dies; the agent that gave it is still there and serves with a new one."""
    before = own_bed.keeper("node1", "status")
    successor = Successor(own_bed)
    proxy = successor.take()
    totals, _ = proxy.until(handover.END)
    proxy.send(bytes([handover.PROXY_PREPARED]) + totals[:4])  # as many parcels as it says there were
    proxy.expect(handover.COMMIT)
    _, lock = successor.line.until(handover.YOURS)
    os.close(lock[0])
    successor.line.close()
    proxy.close()
    serves(own_bed)
    now = eventually(lambda: (lambda told: told if told and told["proxyReady"] else None)(status(own_bed)), 15, "no new proxy")
    assert now["pid"] == before["pid"] and now["proxyPid"] != before["proxyPid"]
    lab.agent(own_bed.lab, "node1", "upgrade")  # and its names are its own again
    serves(own_bed)


def test_one_successor_at_a_time(own_bed):
    before = own_bed.keeper("node1", "status")
    first, second = Successor(own_bed), Successor(own_bed)
    try:
        first.offered()
        assert "another successor" in second.line.refusal()
        assert hand_overs(own_bed)["state"] == "offered"
    finally:
        first.line.close()
        second.line.close()
    eventually(lambda: hand_overs(own_bed)["state"] == "none", 5, "it does not notice")
    nothing_happened(own_bed, before)


def test_offered_pods_come_with_their_handles(own_bed):
    """One namespace and four listeners; what is enrolled or removed meanwhile is told."""
    pod = own_bed.pod("front/web")
    successor = Successor(own_bed)
    try:
        successor.ask().expect(handover.OFFER)
        body, fds = successor.line.expect(handover.OFFERED_POD)
        assert pod["metadata"]["uid"].encode() in body and len(fds) == 5
        netns = os.fstat(fds[0]).st_ino
        assert netns == os.stat("/run/netns/" + own_bed.names.pod_netns("front", "web")).st_ino
        for fd in fds:
            os.close(fd)
        successor.line.expect(handover.ALL_PODS)
        mesh.dismiss(own_bed.names, pod)
        body, _ = successor.line.expect(handover.POD_GONE)
        assert pod["metadata"]["uid"].encode() in body
        mesh.enrol(own_bed.names, pod)
        _, fds = successor.line.expect(handover.OFFERED_POD)
        for fd in fds:
            os.close(fd)
    finally:
        successor.line.close()
    serves(own_bed)


def test_only_root_reaches_the_socket(own_bed):
    """By its mode; and where that was widened, by who asks."""
    path = os.path.join(own_bed.names.run_directory("node1"), "handover.sock")
    assert os.stat(path).st_mode & 0o777 == 0o600
    program = "import sys; sys.path[:0] = sys.argv[2:]; import handover; line = handover.successor(sys.argv[1]); print(line.receive()[0])"

    def as_proxy():
        return subprocess.run(["/usr/bin/python3", "-c", program, path, os.path.dirname(handover.__file__)], user=mesh.PROXY_UID,
                              group=mesh.PROXY_UID, extra_groups=[], capture_output=True, text=True, check=False)
    assert "PermissionError" in as_proxy().stderr
    os.chmod(path, 0o666)
    try:
        told = as_proxy()
        assert told.stdout.strip() == "None", told
        assert f"is user {mesh.PROXY_UID}" in own_bed.log("agent-node1")
    finally:
        os.chmod(path, 0o600)


def test_proxy_that_hangs_does_not_keep_its_agent(own_bed):
    """The old proxy answers nothing: the hand-over fails, and the agent replaces what hangs."""
    before = own_bed.keeper("node1", "status")
    os.kill(before["proxyPid"], signal.SIGSTOP)
    with pytest.raises(LabError, match="has ended with status 1"):
        lab.agent(own_bed.lab, "node1", "upgrade")
    serves(own_bed)
    now = own_bed.keeper("node1", "status")
    assert now["pid"] == before["pid"] and now["proxyPid"] != before["proxyPid"] and "in time" in now["handOvers"]["lastFailure"]


def test_agent_whose_proxy_is_dead_is_replaced(own_bed):
    """Nothing to move is no reason to keep an agent that does not serve."""
    keeper = own_bed.keeper("node1", "status")
    lab.controller(own_bed.lab, "stop")
    mesh.kill_proxy(own_bed.names, "node1")  # the next one will not know the mesh
    eventually(lambda: status(own_bed)["proxyPid"] not in (keeper["proxyPid"], -1), 10, "no next proxy")
    os.kill(status(own_bed)["proxyPid"], signal.SIGSTOP)
    assert not status(own_bed)["proxyReady"]
    lab.controller(own_bed.lab, "start")
    lab.agent(own_bed.lab, "node1", "upgrade")
    serves(own_bed)
    assert own_bed.keeper("node1", "status")["pid"] != keeper["pid"]


VICTIMS = ["old keeper", "old proxy", "new keeper", "new proxy"]


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.replace(" ", "-"))
def test_killed_at_any_moment(own_bed, victim):
    """kill -9 anywhere in a hand-over: somebody is the node's agent afterwards, or nobody; never two."""
    dice = random.Random(victim)
    for _ in range(6):
        lab.agent(own_bed.lab, "node1", "start")
        old = own_bed.keeper("node1", "status")
        successor = mesh.spawn_successor(own_bed.names, "node1")
        time_to_die = time.monotonic() + dice.uniform(0, 0.2) * SLOWER
        eventually(lambda: time.monotonic() >= time_to_die, 5)
        target = {"old keeper": lambda: old["pid"], "old proxy": lambda: old["proxyPid"], "new keeper": lambda: successor.pid,
                  "new proxy": lambda: child_of(successor.pid)}[victim]()
        if target:
            kill(target)
        if target == successor.pid:
            successor.wait(10)
        eventually(lambda: successor.poll() is not None or not alive(old["pid"]), 40, "two agents")
        if alive(old["pid"]):
            assert successor.poll() not in (None, 0)
        else:  # it is in charge, or ends: the old one had not committed
            eventually(lambda: successor.poll() is not None or (status(own_bed) or {}).get("pid") == successor.pid, 20,
                       "the successor neither ends nor answers")
            if successor.poll() is None:
                mesh._remember(own_bed.names, "agent-node1", successor.pid)
        lab.agent(own_bed.lab, "node1", "start")
        serves(own_bed, 30)
        assert [row["name"] for row in own_bed.keeper("node1", "pods")] == ["web"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def child_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return next((int(word) for word in file.read().split()), None)
    except OSError:
        return None


# ---- the successor, and a running agent that misbehaves at each step ----

class Newcomer:
    """An agent in a run directory of its own, where the test plays the one that runs, or none does."""

    def __init__(self, bed, directory, alone=False, **change):
        self.directory = str(directory)
        self.running = None if alone else handover.Running(self.directory)
        self.bpf = "/sys/fs/bpf/fairlead/" + bed.names.pin_prefix + "newcomer"
        config = other_config(bed, runDirectory=self.directory, bpfDirectory=self.bpf, **change)
        self.process = subprocess.Popen([binary("fairlead-agent"), "--config", config], stderr=subprocess.PIPE, text=True,
                                        start_new_session=True, env=mesh._environment("agent-newcomer"),
                                        preexec_fn=lambda: enter_netns(bed.names.node_netns("node1")))

    def ended(self, seconds=40):
        code = self.process.wait(seconds * SLOWER)
        return code, self.process.stderr.read()

    def close(self):
        self.process.kill()
        self.process.communicate()
        if self.running is not None:
            self.running.close()
        if os.path.isdir(self.bpf):
            mesh.remove_pins(self.bpf)


@pytest.fixture
def open_path(tmp_path):
    """A directory that the proxy's user reaches."""
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/"):
            os.chmod(directory, 0o755)
    return tmp_path


@pytest.fixture
def newcomer(own_bed, open_path):
    made = Newcomer(own_bed, open_path)
    yield made
    made.close()


def refuses(running):
    running.accept().send(bytes([handover.REFUSED]) + handover.text("because"))


def closes(running):
    running.accept().close()


def answers_nonsense(running):
    running.accept().send(b"\x63")


def offers_in_an_unknown_version(running):
    running.accept().send(handover.offer(version=7))


def gives_pods_before_it_offers(running):
    running.accept().send(handover.ALL_PODS)


def offers_a_pod_without_handles(running):
    running.accept().send(handover.offer())
    running.line.send(handover.offered_pod("uid-1", 7), [0])


def offers_what_is_no_listener(running):
    running.accept().send(handover.offer())
    running.line.send(handover.offered_pod("uid-1", 7), [0, 0, 0])


def closes_when_it_prepares(running):
    line = running.accept()
    line.send(handover.offer())
    line.send(handover.ALL_PODS)
    line.close()


def closes_when_it_is_prepared(running):
    running.offer_nothing().close()


def refuses_when_it_is_prepared(running):
    running.offer_nothing().send(bytes([handover.REFUSED]) + handover.text("not now"))


def proxy_is_another_version(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin(99))
    assert b"unknown" in proxy.expect(handover.PROXY_REFUSED)[0]


def proxy_sends_nonsense(running):
    running.offer_nothing()
    running.take().send(b"\x63")


def proxy_commits_too_early(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin())
    proxy.send(handover.COMMIT)


def parcel_is_cut(running):
    running.offer_nothing()
    proxy = running.take()
    for message in (handover.begin(), handover.part(b"half", last=False), handover.end(1, 8)):
        proxy.send(message)
    assert b"lost" in proxy.expect(handover.PROXY_REFUSED)[0]


def parcel_is_missing(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin())
    proxy.send(handover.end(1, 8))
    assert b"lost" in proxy.expect(handover.PROXY_REFUSED)[0]


def fds_are_missing(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin())
    proxy.send(handover.part(b"xx", fds=2), [0])
    assert b"fds" in proxy.expect(handover.PROXY_REFUSED)[0]


def parcel_is_nonsense(running):
    running.offer_nothing()
    proxy = running.take()
    for message in (handover.begin(), handover.part(b"nonsense"), handover.end(1, 8)):
        proxy.send(message)
    proxy.expect(handover.PROXY_REFUSED)


def proxy_takes_it_back(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin())
    proxy.send(handover.end())
    proxy.expect(handover.PROXY_PREPARED)
    proxy.close()


def proxy_stalls_when_prepared(running):
    running.offer_nothing()
    proxy = running.take()
    proxy.send(handover.begin())
    proxy.send(handover.end())
    proxy.expect(handover.PROXY_PREPARED)
    while proxy.receive(15)[0] is not None:
        pass
    try:
        proxy.send(handover.COMMIT)
        raise AssertionError("it may still be told to commit")
    except BrokenPipeError:
        pass


def never_begins(running):
    running.offer_nothing()
    while running.line.receive(40)[0] is not None:
        pass


def closes_and_lives_behind_the_commit(running):
    """It has the lock: it is the agent, whatever the proxies did."""
    running.offer_nothing()
    proxy = running.take()
    for message in (handover.begin(), handover.end(), handover.COMMIT):
        proxy.send(message)
        if message == handover.end():
            proxy.expect(handover.PROXY_PREPARED)
    running.line.expect(handover.TAKEN)
    running.line.close()


NEWCOMER = {refuses: "because", closes: "gone", answers_nonsense: "malformed", offers_in_an_unknown_version: "version 7",
            gives_pods_before_it_offers: "breaks the protocol", offers_a_pod_without_handles: "fds", offers_what_is_no_listener: "",
            closes_when_it_prepares: "gone", closes_when_it_is_prepared: "gone", refuses_when_it_is_prepared: "not now",
            proxy_is_another_version: "version 99", proxy_sends_nonsense: "malformed", proxy_commits_too_early: "breaks the protocol",
            parcel_is_cut: "lost", parcel_is_missing: "lost", fds_are_missing: "fds", parcel_is_nonsense: "",
            proxy_takes_it_back: "taken it back", proxy_stalls_when_prepared: "in time", never_begins: "did not begin in time",
            closes_and_lives_behind_the_commit: "neither ended nor finished"}


@pytest.mark.sanitizers
@pytest.mark.parametrize("step", NEWCOMER, ids=lambda step: step.__name__)
def test_running_agent_that_fails(own_bed, newcomer, step):
    """The newcomer ends, says why, and leaves the names that it found."""
    try:
        step(newcomer.running)
    except AssertionError as error:
        raise AssertionError(newcomer.ended()) from error
    code, said = newcomer.ended()
    assert code == 1, said
    assert NEWCOMER[step] in said, said
    assert not set(os.listdir(newcomer.directory)) & {"keeper.sock", "keeper.sock.new", "handover.sock.new"}
    proxy = os.path.join(newcomer.directory, "proxy")
    assert not os.path.isdir(proxy) or not os.listdir(proxy)


def test_running_agent_that_dies_behind_the_commit(own_bed, newcomer):
    """The proxies have done it and the lock is free: the successor is in charge."""
    newcomer.running.offer_nothing()
    proxy = newcomer.running.take()
    proxy.send(handover.begin())
    proxy.send(handover.end())
    proxy.expect(handover.PROXY_PREPARED)
    proxy.send(handover.COMMIT)
    newcomer.running.line.expect(handover.TAKEN)
    newcomer.running.line.close()
    newcomer.running.free_lock()
    path = os.path.join(newcomer.directory, "keeper.sock")
    told = eventually(lambda: mesh.quietly(mesh.query, path, "status"), 10, "it does not take charge")
    assert told["pid"] == newcomer.process.pid and told["handOvers"]["taken"] == 5 and told["handOvers"]["failed"] == 2


def test_nobody_to_take_over_from(own_bed, newcomer):
    """The running agent has no proxy that serves: the successor's serves at once."""
    running = newcomer.running
    running.offer_nothing()
    running.line.send(handover.TAKE)
    running.line.expect(handover.TAKEN)
    running.line.send(handover.YOURS, [running.lock])
    running.free_lock()
    running.line.expect(handover.MINE)
    told = mesh.query(os.path.join(newcomer.directory, "keeper.sock"), "status")
    assert told["proxyReady"] and told["handOvers"]["taken"] == 5
    assert mesh.query(os.path.join(newcomer.directory, "proxy.sock"), "status")["ready"]
    with pytest.raises(BlockingIOError):  # the lock is its own now
        handover.Running(newcomer.directory)


def test_agent_that_is_to_stay_holds_nothing(own_bed, open_path):
    """Where an agent that ends would be started anew: it waits for its signal, and the node is the successor's."""
    agent = Newcomer(own_bed, open_path, alone=True, handOver={"afterwards": "stay"})
    try:
        path = os.path.join(agent.directory, "keeper.sock")
        eventually(lambda: (mesh.quietly(mesh.query, path, "status") or {}).get("proxyReady"), 15, "it is not ready")
        successor = Successor(own_bed, agent.directory, agent.bpf)
        proxy = successor.take()
        proxy.until(handover.END)
        proxy.send(bytes([handover.PROXY_PREPARED]) + b"\0\0\0\0")
        proxy.expect(handover.COMMIT)
        _, lock = successor.line.until(handover.YOURS)
        successor.line.send(handover.MINE)
        proxy.send(handover.PROXY_TAKEN)
        assert successor.line.receive()[0] is None
        eventually(lambda: child_of(agent.process.pid) is None, 5, "its proxy lives")
        os.close(lock[0])
        handover.Running(agent.directory).close()  # the lock is free
        assert agent.process.poll() is None
        agent.process.terminate()
        assert agent.ended(5)[0] == 0
    finally:
        agent.close()
