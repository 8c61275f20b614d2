#!/usr/bin/python3
"""The soak: a mesh that is used, disturbed and never at rest for a given time, and then has to account for it.

  tests/netns/soak.py [--seconds 600] [--seed N] [--workers 4]        (root; `scripts/test --soak` builds and runs it)

Four pods on two nodes connect to each other at random: payloads with checksums both ways, half-closes, long silences, clients that
lose interest. Meanwhile applications, proxies, agents and the controller are killed or restarted, a pair of pods is denied and allowed
again, and every certificate is renewed each twenty seconds. At the end:
  - every connection was whole, or ended visibly at a moment when a disturbance of one of its ends explains it;
  - nobody was let through while denied, and no server took a part for the whole;
  - open files, memory and BPF maps are back where they were.
The seed decides what is done to the mesh; who is in the middle of what when it happens, the machine decides."""
import argparse
import collections
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from bed import PEERS, Bed, eventually, lab, mesh, pods, sanitizers  # noqa: E402
from soaker import LONGEST_SILENCE  # noqa: E402
from labtool import cgroups  # noqa: E402
from labtool.paths import binary  # noqa: E402
from labtool.shell import SLOWER, run  # noqa: E402

NODES = {"node1": ("a1", "a2"), "node2": ("b1", "b2")}
PODS = [pod for pair in NODES.values() for pod in pair]
CERTIFICATE_TTL = 40  # renewed when half of it is over
AFTER = 2.0 * SLOWER  # seconds that a disturbance may take to be felt
# Open files beyond what was before, tunnels that wait for use not counted. A proxy's stock of sockets goes up and down by a batch for each pod,
# family and worker.
FILES_MARGIN, SOCKET_BATCH = 8, 32
MEMORY_MARGIN = {"keeper": 1 << 10, "proxy": 8 << 10, "controller": 16 << 10}  # KiB of anonymous PSS
# Beyond what was there before. Connections that were given up before an agent took them leave their entry in an LRU map: one that starts
# cannot tell them from those that still wait for it.
MAPS_MARGIN = {"fl_origdst": 256}
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: flip, namespace: pairs}}
spec: {{selector: {{matchLabels: {{app: {to}}}}}, action: DENY, rules: [{{from: [{{source: {{principals: [cluster.local/ns/pairs/sa/{source}]}}}}]}}]}}
"""
Disturbance = collections.namedtuple("Disturbance", "what began ended covers allowed")


class Soakers:
    """A soaker in every pod, and all that they tell."""

    def __init__(self, bed, seed, workers):
        self.told, self._lock = [], threading.Lock()
        targets = {pod: [[pod, bed.ip(f"pairs/{pod}", family), 8080] for family in "46"] + [[pod, bed.ip(f"svc/pairs/{pod}"), 80]]
                   for pod in PODS}
        self._processes, self._readers = [], []
        for pod in PODS:
            found = bed.pod(f"pairs/{pod}")
            process = subprocess.Popen(["/usr/bin/python3", os.path.join(PEERS, "soaker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True, preexec_fn=lambda found=found: pods.enter(bed.names, found), start_new_session=True)
            order = {"seed": seed, "pod": pod, "workers": workers, "size_bits": 22,
                     "targets": [target for other, list_ in targets.items() if other != pod for target in list_]}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            self._processes.append(process)
            self._readers.append(threading.Thread(target=self._read, args=(process,)))
            self._readers[-1].start()

    def _read(self, process):
        for line in process.stdout:
            with self._lock:
                self.told.append(json.loads(line))

    def count(self):
        with self._lock:
            return len(self.told)

    def stop(self):
        """Lets every connection come to its end; True when all have."""
        for process in self._processes:
            process.stdin.write("stop\n")
            process.stdin.flush()
        deadline = time.monotonic() + 100 * SLOWER
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                return False
        return True

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()
        for reader in self._readers:
            reader.join()
        for process in self._processes:
            process.stdout.close()


class Usage:
    """What the mesh's processes and maps hold."""

    def __init__(self, bed):
        self.bed = bed

    def processes(self):
        found = {("controller", ""): mesh.pid_of(self.bed.names, "controller")}
        for node in NODES:
            status = self.bed.keeper(node, "status")
            found["keeper", node], found["proxy", node] = status["pid"], status["proxyPid"]
        return found

    def files(self):
        """Without the tunnels that are open: a pool keeps them for minutes."""
        found = {who: len(os.listdir(f"/proc/{pid}/fd")) for who, pid in self.processes().items()}
        for node in NODES:
            found["proxy", node] -= self.bed.proxy(node, "status")["tunnels"]["open"]
        return found

    def files_margin(self, who):
        if who[0] != "proxy":
            return FILES_MARGIN
        return FILES_MARGIN + SOCKET_BATCH * len(NODES[who[1]]) * 2 * self.bed.proxy(who[1], "status")["workers"]

    def memory(self):
        def pss(pid):  # of its own: what it shares with others it holds more of when they end
            with open(f"/proc/{pid}/smaps_rollup") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("Pss_Anon:"))
        return {who: pss(pid) for who, pid in self.processes().items()}

    def maps(self):
        """Entries by node and map, where the kernel can count them."""
        found = {}
        for node in NODES:
            text = run(binary("fairlead"), "--run-dir", self.bed.names.run_directory(node), "-o", "json", "bpf", "maps")
            found.update({(node, row["name"]): row["entries"] for row in json.loads(text) if row["owner"] == "fairlead" and row["entries"] is not None})
        return found


class Soak:
    def __init__(self, bed, seed):
        self.bed, self.rng = bed, random.Random(seed)
        self.disturbances, self.restarts = [], {node: 0 for node in NODES}
        self.passed = self.failed = 0

    def check(self, text, wrong):
        """`wrong` is what contradicts the text; nothing of it is good."""
        good = not wrong
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        print(f"  {'✓' if good else '✗'} {text}", flush=True)
        for line in (wrong if isinstance(wrong, list) else [wrong])[:12] if wrong else ():
            print(f"      {line}")
        if isinstance(wrong, list) and len(wrong) > 12:
            print(f"      … {len(wrong) - 12} more")

    # ---- disturbances: each returns when the mesh is whole again ----

    def _note(self, what, began, covers, allowed):
        self.disturbances.append(Disturbance(what, began, time.monotonic(), covers, allowed))

    def _wait_for_proxy(self, node, old):
        def ready():
            status = mesh.quietly(self.bed.keeper, node, "status")
            return status and status["proxyReady"] and status["proxyPid"] != old
        eventually(ready, 30, f"{node} has no new proxy")
        mesh.wait_for_agent(self.bed.names, node)

    def kill_application(self):
        pod = self.rng.choice(PODS)
        found, began = self.bed.pod(f"pairs/{pod}"), time.monotonic()
        for pid in cgroups.processes(pods.cgroup_of(self.bed.names, found)):
            with open(f"/proc/{pid}/cmdline") as file:
                if "server.py" in file.read():
                    os.kill(pid, signal.SIGKILL)
        pods.start_process(self.bed.names, found)
        node = found["spec"]["nodeName"]
        eventually(lambda: "pod" in self.bed.from_node(node, "who", to=[found["status"]["podIP"], 8080]), 20, "the application is not back")
        # What its kernel says for it is an end in order, if nothing was left unread.
        self._note(f"the application of {pod} killed", began, lambda one: one["to"] == pod, ("reset", "refused", "truncated"))

    def _touches(self, node):
        return lambda one: one["from"] in NODES[node] or one["to"] in NODES[node]

    def kill_proxy(self):
        node, began = self.rng.choice(list(NODES)), time.monotonic()
        old = mesh.kill_proxy(self.bed.names, node)
        self.restarts[node] += 1
        self._wait_for_proxy(node, old)
        self._note(f"the proxy of {node} killed", began, self._touches(node), ("reset", "refused"))

    def _end_agent(self, verb):
        node, began = self.rng.choice(list(NODES)), time.monotonic()
        lab.agent(self.bed.lab, node, verb)
        lab.agent(self.bed.lab, node, "start")
        self.restarts[node] = 0
        self._note(f"the agent of {node}: {verb} and start", began, self._touches(node), ("reset", "refused"))

    def kill_agent(self):
        self._end_agent("kill")

    def stop_agent(self):
        self._end_agent("stop")

    def kill_controller(self):
        began = time.monotonic()
        mesh.stop_controller(self.bed.names, signal.SIGKILL)
        select.select([], [], [], self.rng.uniform(0, 5))
        mesh.start_controller(self.bed.names)
        for node in NODES:
            eventually(lambda: self.bed.proxy(node, "status")["controller"]["connected"], 40, f"{node} does not find the controller again")
        self._note("the controller killed", began, lambda one: False, ())

    def flip_policy(self):
        source, to = self.rng.sample(PODS, 2)
        began = time.monotonic()
        self.bed.apply(DENY.format(source=source, to=to))
        denied = time.monotonic() + AFTER
        select.select([], [], [], AFTER + self.rng.uniform(1, 4))
        allowed = time.monotonic()
        self.bed.delete("AuthorizationPolicy/pairs/flip")

        def covers(one):
            return one["from"] == source and one["to"] == to
        self._note(f"{source} denied at {to}", began, covers, ("reset", "refused"))
        self._note(f"{source} denied at {to}: nobody gets through", denied,
                   lambda one: covers(one) and denied < one["began"] and one["ended"] < allowed and one["kind"] != "abandon", ("not whole",))

    def disturb(self, seconds):
        kinds = {self.kill_application: 3, self.kill_proxy: 3, self.flip_policy: 3, self.kill_controller: 1, self.kill_agent: 1, self.stop_agent: 1}
        until, counts = time.monotonic() + seconds, collections.Counter()
        while time.monotonic() < until:
            select.select([], [], [], self.rng.uniform(0.5, 4))
            kind = self.rng.choices(list(kinds), kinds.values())[0]
            kind()
            counts[kind.__name__.replace("_", " ")] += 1
        return counts

    # ---- judgement ----

    def explained(self, one):
        after = AFTER + (LONGEST_SILENCE if one["kind"] == "idle" else 0)  # who says nothing hears of it with the next word
        return any(one["outcome"] in what.allowed and what.covers(one) and one["began"] <= what.ended + AFTER and
                   what.began <= one["ended"] <= what.ended + after for what in self.disturbances)

    def judge(self, told, base, seconds):
        def line(one):
            nearest = min(self.disturbances, key=lambda what: abs(what.began - one["ended"]), default=None)
            about = f"; {one['ended'] - nearest.began:+.1f} s from: {nearest.what}" if nearest else ""
            return f"{one['from']} → {one['to']} {one['kind']} of {one['size']}: {one['outcome']} {one['text']} after " \
                   f"{one['ended'] - one['began']:.2f} s{about}"
        bad = [one for one in told if one["outcome"] != "whole"]
        self.check(f"{len(told) - len(bad)} connections were whole, byte by byte", [] if len(told) - len(bad) > seconds else ["too few"])
        self.check(f"{len(bad)} ended visibly, each explained by what was done to one of its ends", [line(one) for one in bad if not self.explained(one)])
        self.check("nobody got through while denied", [line(one) for what in self.disturbances if what.allowed == ("not whole",) for one in told
                                                       if what.covers(one) and one["outcome"] == "whole"])
        self.check("no server took a part for the whole", [text for pod in PODS for text in self.bed.log(f"pairs/{pod}").splitlines() if "truncated: " in text])
        issued = self.bed.log("controller").count("issued spiffe://")
        wanted = int(len(PODS) * seconds / CERTIFICATE_TTL)
        self.check(f"{issued} certificates were issued, none missed", [] if issued >= wanted else [f"want {wanted} and more"])
        self.after(base)

    def after(self, base):
        usage = Usage(self.bed)
        files, memory, maps = base

        def until(test, seconds):
            """The last of what is wrong; settles for as long as there is something."""
            deadline = time.monotonic() + seconds * SLOWER
            while (wrong := test()) and time.monotonic() < deadline:
                select.select([], [], [], 0.5)
            return wrong
        self.check("no connection is left", until(lambda: [f"{node}: {len(left)}" for node in NODES if (left := self.bed.proxy(node, "connections"))], 20))
        wrong = until(lambda: [f"{' '.join(who)}: {count}, before {files[who]}" for who, count in usage.files().items()
                               if count > files[who] + usage.files_margin(who)], 20)
        self.check("files: " + ", ".join(f"{' '.join(who).strip()} {count - files[who]:+}" for who, count in usage.files().items()), wrong)
        self.check("the maps are as they were", until(lambda: [
            f"{node} {name}: {count}, before {maps[node, name]}" for (node, name), count in usage.maps().items()
            if not maps[node, name] <= count <= maps[node, name] + MAPS_MARGIN.get(name, 0)], 20))
        grown = {who: kib - memory[who] for who, kib in usage.memory().items()}
        if not sanitizers.NAME:
            self.check("memory (PSS) grew by at most " + ", ".join(f"{' '.join(who).strip()} {kib:+} KiB" for who, kib in grown.items()),
                       [f"{' '.join(who)}: {kib:+} KiB" for who, kib in grown.items() if kib > MEMORY_MARGIN[who[0]]])
        self.check("no proxy ended but those that were ended", [f"{node}: {count}, want {self.restarts[node]}" for node in NODES
                                                                if (count := self.bed.keeper(node, "status")["proxyRestarts"]) != self.restarts[node]])
        self.check("no report of a sanitizer" if sanitizers.NAME else "no process complained of a bug", sanitizers.take() + self.complaints())

    def complaints(self):
        words = ("Assertion", "terminate called", "internal error")
        return [text for name in ("agent-node1", "agent-node2", "controller") for text in self.bed.log(name).splitlines()
                if any(word in text for word in words)]


def soak(seconds, seed, workers):
    mesh.CERTIFICATE_TTL = f"{CERTIFICATE_TTL}s"
    bed = Bed(f"soak{os.getpid()}", manifest="pairs.yaml")
    soakers = None
    try:
        bed.up()
        run_ = Soak(bed, seed)
        print(f"the mesh is up; {workers} workers in each of {len(PODS)} pods", flush=True)
        soakers = Soakers(bed, f"{seed} warm", workers)  # what is made once is made now
        select.select([], [], [], 8 * SLOWER)
        soakers.stop()
        soakers.close()
        eventually(lambda: not any(bed.proxy(node, "connections") for node in NODES), 20, "connections stay open")
        usage = Usage(bed)
        base = usage.files(), usage.memory(), usage.maps()
        soakers = Soakers(bed, seed, workers)
        counts = run_.disturb(seconds)
        run_.check("every connection came to its end", [] if soakers.stop() else ["some hang"])
        soakers.close()
        print("done: " + ", ".join(f"{count} × {name}" for name, count in sorted(counts.items())))
        outcomes = collections.Counter((one["kind"], one["outcome"]) for one in soakers.told)
        print("seen: " + ", ".join(f"{kind} {end} {count}" for (kind, end), count in sorted(outcomes.items())))
        print(f"      {sum(one['size'] for one in soakers.told if one['outcome'] == 'whole') >> 20} MiB towards servers in whole connections")
        run_.judge(soakers.told, base, seconds)
        return run_
    finally:
        if soakers is not None:
            soakers.close()
        bed.down()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {arguments.seconds:.0f} s (again: scripts/test --soak {arguments.seconds:.0f} --seed {seed})", flush=True)
    began, done = time.monotonic(), None
    try:
        done = soak(arguments.seconds, seed, arguments.workers)
    except (AssertionError, lab.LabError) as error:
        print(f"  ✗ {error}")
    print(f"after {time.monotonic() - began:.0f} s, seed {seed}")
    print(f"{done.passed if done else 0} passed, {done.failed if done else 1} failed, 0 skipped")
    return 0 if done and not done.failed else 1


if __name__ == "__main__":
    sys.exit(main())
