"""A lab under test: hands inside its pods, orders to them, policies that come and go, and waiting with a deadline."""
import contextlib
import errno
import json
import os
import select
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
PEERS = os.path.join(HERE, "peers")
MANIFESTS = os.path.join(HERE, "manifests")
sys.path[:0] = [os.path.join(HERE, "..", "..", "scripts"), PEERS]

import sanitizers  # noqa: E402
from labtool import lab, mesh, pods, shell, state as memory  # noqa: E402
from labtool.paths import Names, binary  # noqa: E402
from labtool.shell import SLOWER, LabError  # noqa: E402

os.environ["PEERS"] = PEERS  # the manifests' commands find the application by it


def eventually(test, seconds=15, what="it did not become true"):
    """Polls until the test returns something true, which is returned; fails with the last value."""
    deadline, last = time.monotonic() + seconds * SLOWER, None
    while time.monotonic() < deadline:
        last = test()
        if last:
            return last
        select.select([], [], [], 0.03)
    raise AssertionError(f"{what} within {seconds} s; last: {last!r}")


class Hand:
    """One client.py somewhere: takes an order, gives the answer."""

    def __init__(self, enter):
        self._process = subprocess.Popen(["/usr/bin/python3", os.path.join(PEERS, "client.py")], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, preexec_fn=enter, start_new_session=True)

    def say(self, text):
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def start(self, op, **order):
        self.say(json.dumps({"op": op, **order}))

    def answer(self, seconds=30):
        ready, _, _ = select.select([self._process.stdout], [], [], seconds * SLOWER)
        assert ready, f"no answer within {seconds} s"
        line = self._process.stdout.readline()
        assert line, "the client ended without an answer"
        return json.loads(line)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    @property
    def output(self):
        return self._process.stdout

    @property
    def alive(self):
        return self._process.poll() is None


class Bed:
    def __init__(self, name, manifest="mesh.yaml", stand_in=None, with_mesh=True):
        self.lab, self.names = name, Names(name)
        self.manifest = os.path.join(MANIFESTS, manifest)
        self.stand_in = stand_in if stand_in is not None else ("before" if has_standin() else "none")
        self.with_mesh = with_mesh
        self._hands = {}

    # ---- life ----
    def up(self):
        lab.down(self.lab)  # a run before this one may have been cut short
        lab.up(self.lab, [self.manifest], with_mesh=self.with_mesh, stand_in=self.stand_in)
        self.wait_for_applications()
        return self

    def down(self):
        sanitizers.collect(self.names)
        for hand in self._hands.values():
            hand.close()
        self._hands.clear()
        lab.down(self.lab)

    def wait_for_applications(self):
        for pod in memory.pods(self.state):
            if "lab.fairlead.dev/run" in pod["metadata"].get("annotations", {}):
                address = pod["status"]["podIP"]
                eventually(lambda: "pod" in self.from_node(pod["spec"]["nodeName"], "who", to=[address, 8080]),
                           what=f"the application of {pod['metadata']['name']} does not answer its node")

    # ---- what there is ----
    @property
    def state(self):
        return memory.load(self.names)

    def pod(self, name):
        return memory.find_pod(self.state, name)

    def ip(self, name, family="4"):
        """Address of a pod, or of a Service given as svc/NS/NAME."""
        if name.startswith("svc/"):
            addresses = self.state["objects"]["Service/" + name[4:]]["spec"]["clusterIPs"]
        else:
            addresses = [entry["ip"] for entry in self.pod(name)["status"]["podIPs"]]
        return next(address for address in addresses if (":" in address) == (family == "6"))

    def proxy(self, node, verb):
        return mesh.proxy(self.names, node, verb)

    def keeper(self, node, verb):
        return mesh.keeper(self.names, node, verb)

    def counters(self, *nodes):
        """Sum over the nodes of every counter of proxy and keeper."""
        total = {}
        for node in nodes or ("node1", "node2"):
            for source in (self.proxy(node, "status")["counters"], self.keeper(node, "status")["bpf"]["counters"]):
                for key, value in source.items():
                    total[key] = total.get(key, 0) + value
        return total

    # ---- hands ----
    def new_hand(self, pod):
        """A client of its own inside a pod; the caller closes it."""
        found = self.pod(pod)
        return Hand(lambda: pods.enter(self.names, found))

    def node_hand(self, node):
        netns = self.names.hub if node == "hub" else self.names.node_netns(node)
        return Hand(lambda: shell.enter_netns(netns))

    def _hand(self, place, make):
        hand = self._hands.get(place)
        if hand is None or not hand.alive:
            hand = self._hands[place] = make(place)
        return hand

    def _call(self, hand, op, seconds, order):
        try:
            hand.start(op, **order)
            return hand.answer(seconds)
        except AssertionError:
            hand.close()
            raise

    def call(self, pod, op, seconds=30, **order):
        return self._call(self._hand(pod, self.new_hand), op, seconds, order)

    def from_node(self, node, op, seconds=30, **order):
        return self._call(self._hand(node, self.node_hand), op, seconds, order)

    # ---- objects ----
    def apply(self, manifest):
        with manifest_file(manifest) as path:
            lab.apply(self.lab, [path])

    def delete(self, *keys):
        lab.delete(self.lab, keys=keys)

    @contextlib.contextmanager
    def applied(self, manifest, *keys):
        """The objects are there inside the `with` and gone after it, whatever happens."""
        try:
            self.apply(manifest)
            yield
        finally:
            for key in keys:
                if key in self.state["objects"]:
                    self.delete(key)

    def log(self, name):
        with open(self.names.log(name)) as file:
            return file.read()


@contextlib.contextmanager
def manifest_file(text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield file.name


def has_standin():
    return os.access(binary("fairlead-standin"), os.X_OK)


def is_refused(answer):
    """What an application gets that the mesh does not let through: a refusal or a reset, never an answer."""
    if answer.get("errno") == errno.ENOTCONN:  # reset before the client asked for its peer's name
        return True
    return answer.get("failed") in ("ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError", "EOFError", "TimeoutError")


def is_refused_at_once(answer):
    """A Service without endpoints. Cilium's program at the root runs after ours whatever ours said, and has the last word
    about the error: EHOSTUNREACH."""
    return answer.get("errno") in (errno.ECONNREFUSED, errno.EHOSTUNREACH)
