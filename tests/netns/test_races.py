"""Attacks by racing: a captured pod, a second one, and a process that shares a pod's network but not its cgroup, all at once and from the
same source ports. Nobody reaches what he did not ask for, nobody passes for another, and the agent keeps nothing of it."""
import errno
import ipaddress
import json
import os
import select
import signal
import subprocess

import pytest

from bed import PEERS, binary, eventually, pods, shell

PORTS = [5960, 5961, 5962, 5963]
STOCKS = 250
ATTEMPTS = ["talk", "talk", "talk", "mute", "give_up", "dissolve", "twice", "fast_open", "duplicate", "at_the_agent"]


class Racer:
    def __init__(self, enter, **order):
        self.process = subprocess.Popen(["/usr/bin/python3", os.path.join(PEERS, "racer.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, preexec_fn=enter, start_new_session=True)
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def result(self, seconds):
        try:
            out, _ = self.process.communicate(timeout=seconds)
        finally:
            self.process.kill()
        return json.loads(out)


def agent_port6(ip, port):
    """Of [::1]: bpf/lib/agent.h."""
    value = 0
    octets = ipaddress.ip_address(ip).packed
    words = [int.from_bytes(octets[at:at + 4], "little") for at in range(0, 16, 4)]
    for word in (*words, int.from_bytes(port.to_bytes(2, "big"), "little"), 0):
        value = (value ^ word) * 0x9e3779b1 % 2**32
        value ^= value >> 15
    return 256 + value % 128


def maps(bed, node):
    out = subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory(node), "-o", "json", "bpf", "maps"], capture_output=True, text=True, check=True)
    return {entry["name"]: entry["entries"] for entry in json.loads(out.stdout) if entry["owner"] == "fairlead"}


def holdings(bed):
    """What connections leave behind if it is not cleaned up."""
    found = {}
    for node in ("node1", "node2"):
        entries = maps(bed, node)
        status = bed.proxy(node, "status")
        found[node] = {"flows": entries["fl_origdst"], "names": entries["fl_clients"], "connections": len(bed.proxy(node, "connections")),
                       "fds": len(os.listdir(f"/proc/{bed.keeper(node, 'status')['proxyPid']}/fd")) - status["tunnels"]["open"]}
    return found


@pytest.fixture
def nothing_stays(bed):
    """Pooled tunnels are not counted. The stock of unconnected sockets differs: by some dozens per pod and family, not by one per connection."""
    before = holdings(bed)
    yield

    def settled():
        now = holdings(bed)
        for node, was in before.items():
            for what, count in now[node].items():
                if count > was[what] + (STOCKS if what == "fds" else 0):
                    return False
        return True
    try:
        eventually(settled, 30, "")
    except AssertionError:
        raise AssertionError(f"leaked: before {before}, now {holdings(bed)}") from None


def targets_of(bed):
    targets = []
    for family in "46":
        for service, found in (("far", ["api-1"]), ("near", ["api-2"]), ("api", ["api-1", "api-2"]), ("hbone", ["hbone"])):
            targets.append({"to": [bed.ip(f"svc/back/{service}", family), 80], "pods": found})
        for pod, port in (("back/api-1", 8080), ("back/api-1", 7000), ("back/api-2", 8080), ("back/hbone", 8080), ("outside/shop", 8080), ("outside/shop", 7000)):
            targets.append({"to": [bed.ip(pod, family), port], "pods": [pod.split("/")[1]]})
    return targets


def test_storm(bed, nothing_stays):
    pod_targets = targets_of(bed)
    agent = [["127.0.0.1", 15001], ["::1", 15001], ["127.77.1.1", 15001]]
    agent += [["::1", agent_port6(*target["to"])] for target in pod_targets if ":" in target["to"][0]]
    seconds = 8

    def order(pod):
        return {"targets": pod_targets, "agent": agent, "ports": PORTS, "attempts": ATTEMPTS, "threads": 6, "seconds": seconds, "own": [bed.ip(pod), bed.ip(pod, "6")]}
    web, other = bed.pod("front/web"), bed.pod("front/other")
    # The third: in the pod's network, but no process of the pod's cgroup. Service addresses are nothing to it.
    bystander = {**order("front/web"), "targets": [target for target in pod_targets if target["to"][1] != 80]}
    before = bed.counters()
    racers = {
        "web": Racer(lambda: pods.enter(bed.names, web), **order("front/web")),
        "other": Racer(lambda: pods.enter(bed.names, other), **order("front/other")),
        "bystander": Racer(lambda: shell.enter_netns(bed.names.pod_netns("front", "web")), **bystander),
    }
    results = {name: racer.result(seconds + 60) for name, racer in racers.items()}
    print(json.dumps({name: result["counts"] for name, result in results.items()}, indent=1))
    assert {name: result["wrong"] for name, result in results.items()} == {"web": [], "other": [], "bystander": []}
    for name, result in results.items():
        counts = result["counts"]
        assert counts.get("answered", 0) > 50, f"{name} got nowhere: {counts}"
        assert not counts.get("the agent answered"), counts
        strange = {what for what in counts if ": " in what}
        assert not strange, counts
    assert bed.counters()["connect_captured"] > before["connect_captured"] + 4 * STOCKS, "too few to see a leak"
    owners = {bed.ip(f"front/{name}", family): name for name in ("web", "other") for family in "46"}
    judged = 0
    for node in ("node1", "node2"):
        for decision in bed.proxy(node, "decisions"):
            source = decision["source"].rpartition(":")[0].strip("[]")
            if source in owners and decision["principal"]:
                judged += 1
                assert decision["principal"].endswith(f"/sa/{owners[source]}"), decision
    assert judged > 50, "no decision to look at"


def test_names_when_the_agent_has_few_ports(bed, nothing_stays):
    """A port that one connection to the application gives back is the next one's at once, and so is its name."""
    api, web = bed.pod("back/api-1"), bed.pod("front/web")

    def ports(text=None):
        with subprocess.Popen(["/bin/sh", "-c", "cd /proc/sys/net/ipv4; cat ip_local_port_range" + (f"; echo {text} > ip_local_port_range" if text else "")],
                              stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pods.enter(bed.names, api)) as process:
            return process.stdout.read().strip()
    before = ports("40000 40023")
    try:
        targets = [{"to": [bed.ip("svc/back/far", family), 80], "pods": ["api-1"]} for family in "46"]
        racer = Racer(lambda: pods.enter(bed.names, web), targets=targets, agent=[], ports=[], attempts=["talk"], threads=10, seconds=6,
                      own=[bed.ip("front/web"), bed.ip("front/web", "6")])
        result = racer.result(60)
    finally:
        ports(before)
    print(result["counts"])
    assert not result["wrong"], result["wrong"]
    assert result["counts"].get("answered", 0) > 200, result


LISTENER = """
import json, socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6)
print("ready", flush=True)
while True:
    sock, _ = server.accept()
    data = b""
    try:
        while piece := sock.recv(4096):
            data += piece
    except OSError:
        pass
    sock.close()
    print(json.dumps(data.decode()), flush=True)
"""


def test_reset_data_is_not_delivered_elsewhere(bed, nothing_stays):
    """Two destinations of one endpoint on loopback, one source port, and an agent that is slow: see tests/bpf."""
    first = [bed.ip("svc/back/far", "6"), 80]
    address = bed.ip("back/api-2", "6")
    port = next(port for port in range(7100, 9000) if port not in (8080, 8084, 8086) and agent_port6(address, port) == agent_port6(*first))
    pod = bed.pod("back/api-2")
    listener = subprocess.Popen(["/usr/bin/python3", "-c", LISTENER, str(port)], stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pods.enter(bed.names, pod))
    proxy = bed.keeper("node1", "status")["proxyPid"]
    try:
        assert listener.stdout.readline() == "ready\n"
        answer = bed.call("front/web", "say", to=[address, port], text="warm")
        assert answer.get("ended") == "fin", answer
        assert json.loads(listener.stdout.readline()) == "warm"
        os.kill(proxy, signal.SIGSTOP)
        try:
            answer = bed.call("front/web", "say_and_reset", to=first, source_port=5970, text="for the first one alone")
            assert answer == {}, answer
            hand = bed.new_hand("front/web")
            hand.start("say", to=[address, port], source_port=5970, text="for the second one")
            select.select([hand.output], [], [], 0.5)  # its connect() is through
        finally:
            os.kill(proxy, signal.SIGCONT)
        answer = hand.answer()
        hand.close()
        assert answer.get("ended") in ("fin", "reset") or answer.get("errno") in (errno.ECONNRESET, errno.EPIPE), answer
        assert bed.call("front/web", "say", to=[address, port], text="the last")["ended"] == "fin"
        heard = []
        while "the last" not in heard:
            heard.append(json.loads(listener.stdout.readline()))
        assert set(heard) <= {"", "for the second one", "the last"}, heard
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()


@pytest.mark.parametrize("family", ["4", "6"])
def test_fork_after_connect(bed, nothing_stays, family):
    """The child goes on with the connection, its names and all, when the parent is gone from it."""
    answer = bed.call("front/web", "fork", to=[bed.ip("svc/back/far", family), 80])
    assert answer["pod"] == "api-1" and answer["peer"][0] == bed.ip("front/web", family), answer
    assert answer["sees_peer"] == [bed.ip("svc/back/far", family), 80] and answer["sees_self"] == answer["peer"]


@pytest.mark.parametrize("reuseport", [0, 1])
def test_listening_in_the_agents_place(bed, nothing_stays, reuseport):
    """At the listener itself there is no place; at the endpoints on loopback there is, and captured connections pass it by."""
    before = bed.counters("node1")
    far6 = bed.ip("svc/back/far", "6")
    ends = [["127.0.0.1", 15001, errno.EADDRINUSE], ["0.0.0.0", 15001, errno.EADDRINUSE], ["127.0.0.1", 15006, errno.EADDRINUSE], ["::1", 15001, errno.EADDRINUSE],
            ["::1", agent_port6(far6, 80), 0], ["::", agent_port6(bed.ip("svc/back/near", "6"), 80), 0]]
    answer = bed.call("front/web", "squat", reuseport=reuseport, at=[end[:2] for end in ends],
                      to=[[far6, 80], [bed.ip("svc/back/near", "6"), 80], [bed.ip("svc/back/far"), 80]])
    assert answer["errnos"] == [end[2] for end in ends], answer
    assert [entry.get("pod") for entry in answer["answers"]] == ["api-1", "api-2", "api-1"], answer
    assert answer["caught"] == 0, "a listener of the application got a captured connection"
    assert bed.counters("node1")["outbound_accepted"] == before["outbound_accepted"] + 3


def test_inbound_door_from_within(bed, nothing_stays):
    """The inbound listener, dialled over loopback with a forged tunnel greeting: it knows no client there."""
    for address in ("127.0.0.1", "::1"):
        answer = bed.call("front/web", "raw", seconds=10, to=[address, 15006], bytes=json.dumps({"do": "who"}).encode().hex() + "0a", wait=5)
        assert not answer.get("received"), answer
