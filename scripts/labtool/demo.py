"""The story of scripts/demo, which has installed and built by now: a two-node mesh, each line checked."""
import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, HERE)
from labtool import lab, mesh, pods, standin, state as memory  # noqa: E402
from labtool.paths import Names, binary  # noqa: E402
from labtool.shell import LabError, enter_netns, run, wait_until  # noqa: E402

EXAMPLES = os.path.join(os.path.dirname(HERE), "examples")
MARKER = "X-Secret: the-quick-brown-fairlead"
ETH_P_ALL = 3


class Wire:
    """Every packet on a node's uplink while inside the `with` block. The socket is made in the node's namespace."""

    def __init__(self, netns):
        self.packets = []
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            enter_netns(netns)
            packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            packet.bind(("up0", 0))
            socket.send_fds(theirs, [b"x"], [packet.fileno()])
            os._exit(0)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(child, 0)
        self.socket = socket.socket(fileno=fds[0])
        self.socket.settimeout(0.1)
        self.done = False

    def __enter__(self):
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        return self

    def _read(self):
        while True:
            try:
                self.packets.append(self.socket.recv(65536))
            except TimeoutError:
                if self.done:
                    return

    def __exit__(self, *_):
        self.done = True
        self.thread.join()
        self.socket.close()


def tcp_destination_ports(packets):
    """Destination ports of TCP packets, IPv4 and IPv6."""
    ports = set()
    for packet in packets:
        kind = packet[12:14]
        if kind == b"\x08\x00" and packet[23] == 6:
            at = 14 + (packet[14] & 15) * 4
        elif kind == b"\x86\xdd" and packet[20] == 6:
            at = 54
        else:
            continue
        ports.add(int.from_bytes(packet[at + 2:at + 4], "big"))
    return ports


class Demo:
    def __init__(self, name):
        self.name, self.names = name, Names(name)
        self.passed = self.failed = 0

    def check(self, text, good, detail=""):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print(f"  {'✓' if good else '✗'} {text}" + (f"   [{detail}]" if detail and not good else ""), flush=True)

    def curl(self, pod, url, *options, seconds=5):
        """(exit status, body) of an HTTP request from inside a pod."""
        done = subprocess.run([os.path.join(HERE, "lab"), "exec", pod, "--name", self.name, "--", "curl", "-sS", "-m", str(seconds),
                               "-H", MARKER, *options, url], text=True, capture_output=True)
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    def address(self, pod, six=False):
        found = memory.find_pod(memory.load(self.names), pod)["status"]["podIPs"]
        return next(entry["ip"] for entry in found if (":" in entry["ip"]) == six)

    def cli(self, node, *arguments):
        done = subprocess.run([binary("fairlead"), "--run-dir", self.names.run_directory(node), "-o", "json", *arguments],
                              text=True, capture_output=True)
        return json.loads(done.stdout or "[]")

    def counters(self, node):
        return (mesh.proxy(self.names, node, "status")["counters"]["outbound_accepted"],
                mesh.keeper(self.names, node, "status")["bpf"]["counters"].get("connect_captured", 0))

    # ---- the story -------------------------------------------------------------------------------------------------

    def encrypted(self):
        with Wire(self.names.node_netns("node1")) as wire:
            status, body = self.curl("frontend/webapp", "http://api.backend/", "-4")
        self.check("webapp on node1 reaches api on node2 by its Service name", status == 0 and body.startswith("hello"), body)
        everything = b"".join(wire.packets)
        clear = [text for text in (b"the-quick-brown-fairlead", b"HTTP/1.1", b"GET /") if text in everything]
        self.check(f"{len(wire.packets)} packets between the nodes hold no byte of the request in clear",
                   wire.packets and not clear, str(clear))
        ports = tcp_destination_ports(wire.packets)
        self.check("they carry the application's own port 8080, and neither 15008 nor another tunnel port",
                   8080 in ports and 15008 not in ports, str(sorted(ports)))
        mine = self.address("frontend/webapp")
        self.check(f"the application saw the client's true address {mine}", f"hello {mine} " in body, body)

    def identities(self):
        status, body = self.curl("frontend/intruder", "http://api.backend/")
        self.check("intruder, with another identity, is refused by the AuthorizationPolicy", status != 0, body)
        denied = self.cli("node2", "why", "--denied")
        told = [row for row in denied if row["principal"].endswith("/sa/intruder") and not row["allowed"]]
        self.check("`fairlead why` on node2 says so: " + (f"{told[0]['principal']}, {told[0]['reason']}" if told else "-"), told, str(denied))
        status, body = self.curl("frontend/webapp", "http://api.backend/")
        self.check("webapp is still let in", status == 0, body)

    def plaintext(self):
        url = f"http://{self.address('backend/catalog')}:8080/"
        status, body = self.curl("legacy/visitor", url)
        self.check("visitor, outside the mesh, is accepted by catalog under PERMISSIVE (the default)", status == 0, body)
        lab.apply(self.name, [os.path.join(EXAMPLES, "mtls", "strict.yaml")])
        wait_until(lambda: any(row["policies"] for row in self.cli("node2", "workload", "list") if row["name"] == "catalog"), 5,
                   "STRICT has not reached node2")
        status, body = self.curl("legacy/visitor", url)
        self.check("under STRICT it is refused", status != 0, body)
        status, body = self.curl("frontend/webapp", "http://catalog.backend/")
        self.check("webapp, with its certificate, is not", status == 0, body)

    def outside(self):
        before = self.counters("node1")
        status, body = self.curl("frontend/webapp", "http://visitor.legacy/")
        self.check("webapp reaches a Service outside the mesh", status == 0, body)
        self.check("and that traffic never touched the agent (its counters stand still)", self.counters("node1") == before,
                   f"{before} {self.counters('node1')}")

    def network_policy(self):
        before = standin.drops(self.names, "node2")
        status, body = self.curl("frontend/webapp", f"http://{self.address('backend/api')}:9090/", seconds=2)
        drops = standin.drops(self.names, "node2") - before
        self.check(f"the stand-in for Cilium still drops port 9090 of api by NetworkPolicy ({drops} packets)", status != 0 and drops > 0, body)

    def hooks(self):
        # The kernel lists the links of both nodes; each agent knows its own, so a link is ours if either says so.
        links = [link for node in ("node1", "node2") for link in self.cli(node, "bpf", "links")]
        prefix = f"/fairlead-lab/{self.name}/"
        ours = {(link["attachType"], link["target"]) for link in links if link["owner"] == "fairlead"}
        mine = {link["id"] for link in links if link["owner"] == "fairlead"}
        others = {(link["attachType"], link["target"]) for link in links if link["id"] not in mine}
        here = {key for key in others if prefix in key[1]}
        for title, keys in (("Fairlead", ours), ("the stand-in", here)):
            kinds = {}
            for kind, target in keys:
                kinds.setdefault(kind, []).append(target)
            print(f"    {title}: " + ", ".join(f"{kind} ×{len(targets)}" for kind, targets in sorted(kinds.items())))
        state = memory.load(self.names)
        devices = sum("standin_to_pod" in run("tc", "-netns", self.names.node_netns(pod["spec"]["nodeName"]), "filter", "show", "dev",
                                              self.names.pod_interface(*pods.identity(pod)), "egress") for pod in memory.pods(state))
        print(f"    the stand-in: tc egress ×{devices}; Fairlead: none on any device")
        self.check(f"{len(ours)} hooks of ours, {len(here)} of the stand-in's: no (attach type, object) in common", ours and here and not ours & others,
                   str(ours & others))


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Brings up a two-node mesh on this machine, shows what Fairlead "
                                     "does, checks every line, cleans up.")
    parser.add_argument("--keep", action="store_true", help="leave it running to play with")
    parser.add_argument("--name", default="demo", metavar="LAB", help="name of the lab (demo)")
    arguments = parser.parse_args(argv)
    keep, name = arguments.keep, arguments.name
    started = time.monotonic()
    demo = Demo(name)
    try:
        memory.check_name(name)
    except LabError as error:
        parser.error(str(error))
    try:
        lab.down(name)
        built = time.monotonic()
        lab.up(name, [os.path.join(EXAMPLES, "demo")])
        for pod in ("backend/api", "backend/catalog", "legacy/visitor"):
            wait_until(lambda: demo.curl(pod, "http://127.0.0.1:8080/")[0] == 0, 10, f"{pod} has not started")
        print(f"the lab is up after {time.monotonic() - built:.1f} s: node1, node2, {len(memory.pods(memory.load(demo.names)))} pods\n")
        for title, chapter in (("Encrypted and unchanged", demo.encrypted), ("Identity decides", demo.identities),
                               ("Plaintext, by choice", demo.plaintext), ("The rest of the world", demo.outside),
                               ("Beside the CNI", demo.network_policy), ("Every hook", demo.hooks)):
            print(title, flush=True)
            chapter()
    except LabError as error:
        demo.check(str(error), False)
    finally:
        if keep:
            print(f"\nThe lab stays up. Try:\n  scripts/lab status --name {name}\n  scripts/lab exec frontend/webapp --name {name} -- curl api.backend"
                  f"\n  scripts/lab fairlead node2 --name {name} -- why\n  scripts/lab down --name {name}")
        else:
            lab.down(name)
    print(f"\n{demo.passed} of {demo.passed + demo.failed} checks hold, after {time.monotonic() - started:.0f} s")
    return 1 if demo.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
