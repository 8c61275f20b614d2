"""Certificates that are renewed and a root that is replaced, under load: nobody is refused, nobody is cut, and what is no longer
trusted does not get in."""
import os

import pytest

import h2peer
from bed import Bed, LabError, eventually, mesh
from foreign import HBONE, Identity, inside
from labtool.shell import run

NODES = ("node1", "node2")
TTL = "12s"  # so renewed every six seconds or sooner
PAIRS = (("pairs/a1", "b1"), ("pairs/b1", "a1"), ("pairs/a2", "b2"), ("pairs/b2", "a2"))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty SETTINGS
NEWCOMER = """
apiVersion: v1
kind: Pod
metadata: {{name: new-{number}, namespace: pairs, labels: {{app: new-{number}}}, annotations: {{lab.fairlead.dev/run: exec python3 $PEERS/server.py}}}}
spec: {{nodeName: {node}, serviceAccountName: new-{number}, containers: [{{name: app}}]}}
"""


@pytest.fixture(scope="module")
def short_lived():
    mesh.CERTIFICATE_TTL, before = TTL, mesh.CERTIFICATE_TTL
    made = Bed(f"ro{os.getpid()}", manifest="pairs.yaml")
    try:
        yield made.up()
    finally:
        made.down()
        mesh.CERTIFICATE_TTL = before


class Load:
    """Connections that stay and connections that come and go, in both directions, each byte checked."""

    def __init__(self, bed):
        self.bed = bed
        self.kept, self.busy = [], []
        for pod, service in PAIRS:
            to = [bed.ip(f"svc/pairs/{service}"), 80]  # by address: names are written anew with every pod that comes
            kept = bed.new_hand(pod)
            kept.start("keep", to=to, timeout=60)
            assert "sees_peer" in kept.answer()
            self.kept.append(kept)
            busy = bed.new_hand(pod)
            busy.start("load", to=to, size=1 << 16, threads=2, timeout=30)
            self.busy.append(busy)
        self.words = 0

    def go_on(self):
        """The old connections still carry a word and its echo."""
        self.words += 1
        for hand in self.kept:
            hand.say(f"word {self.words}")
        for hand in self.kept:
            assert hand.answer() == {"echo": f"word {self.words}\n"}, "a connection that was open has been cut"

    def end(self):
        totals = []
        for hand in self.busy:
            hand.say("stop")
        for hand in self.busy:
            totals.append(hand.answer(60))
        return totals

    def close(self):
        for hand in self.kept + self.busy:
            hand.close()


@pytest.fixture
def load(short_lived):
    made = Load(short_lived)
    try:
        yield made
    finally:
        made.close()


def serials(bed, node):
    """Of the pods that stay."""
    return {cert["identity"]: cert["serial"] for cert in bed.proxy(node, "certs") if "/sa/new-" not in cert["identity"]}


def ready(bed):
    return all(cert["ready"] for node in NODES for cert in bed.proxy(node, "certs"))


def knock(bed, identity, to="pairs/b1"):
    """A foreign peer's handshake with a pod: the serial that it was shown, and whether it was let in. TLS 1.3 tells a client of its
    refusal with the first read."""
    def connect():
        with h2peer.client_socket(identity, (bed.ip(to), HBONE)) as sock:
            sock.settimeout(5)
            sock.sendall(PREFACE)
            return sock.getpeercert()["serialNumber"].lower(), bool(sock.recv(1))
    try:
        return inside(bed.names.pod_netns("outside", "client"), connect)
    except OSError as error:
        return str(error), False


def certificate_shown(bed, identity):
    serial, taken = knock(bed, identity)
    assert taken, serial
    return serial


def renewed(bed, known, times, load):
    """Waits until every certificate has changed so often, and keeps the old connections talking meanwhile."""
    seen = {node: {uri: [serial] for uri, serial in known[node].items()} for node in NODES}

    def enough():
        load.go_on()
        for node in NODES:
            for uri, serial in serials(bed, node).items():
                if uri in seen[node] and seen[node][uri][-1] != serial:
                    seen[node][uri].append(serial)
        return all(len(list_) > times for node in NODES for list_ in seen[node].values())
    eventually(enough, 60, f"{times} renewals of each certificate")


def troubles(bed):
    return {name: count for name, count in bed.counters().items()
            if name in ("handshake_failed", "outbound_failed", "outbound_refused", "outbound_unresolved")}


def check(bed, load, before):
    totals = load.end()
    assert all(list(total) == ["whole"] and total["whole"] > 20 for total in totals), totals
    load.go_on()
    assert troubles(bed) == before


def newcomers(bed, number):
    """A pod that comes, on each node in turn, is called and calls: handshakes in all roles, with certificates made this moment."""
    node = NODES[number % 2]
    other = "b1" if node == "node1" else "a1"
    name = f"new-{number}"
    bed.apply(NEWCOMER.format(number=number, node=node))
    try:
        hand = bed.new_hand(f"pairs/{name}")
        try:
            hand.start("who", to=[bed.ip(f"svc/pairs/{other}"), 80])
            answer = hand.answer()
            assert answer.get("pod") == other, f"a handshake was refused: {answer}"
        finally:
            hand.close()
        address = bed.ip(f"pairs/{name}")
        eventually(lambda: "pod" in bed.from_node(node, "who", to=[address, 8080]), what="its application does not answer")
        answer = bed.call(f"pairs/{other}", "who", to=[address, 8080])
        assert answer.get("pod") == name, f"a handshake was refused: {answer}"
    finally:
        bed.delete(f"Pod/pairs/{name}")


def test_renewal_cuts_and_refuses_nobody(short_lived, load, tmp_path):
    bed, somebody = short_lived, foreign_identity(short_lived, tmp_path)
    before = troubles(bed)
    first = certificate_shown(bed, somebody)
    for number in range(3):
        newcomers(bed, number)
        renewed(bed, {node: serials(bed, node) for node in NODES}, 1, load)

    def shows_the_newest():
        return certificate_shown(bed, somebody) in [serial.lower() for uri, serial in serials(bed, "node2").items() if uri.endswith("/b1")]
    eventually(shows_the_newest, 5, "handshakes are made with another certificate than the newest")
    assert certificate_shown(bed, somebody) != first
    check(bed, load, before)


def test_signer_that_is_away_for_a_while(short_lived, load, tmp_path):
    """The certificate that is there serves on, to its end; the next one is asked for until it comes."""
    bed, somebody = short_lived, foreign_identity(short_lived, tmp_path)
    before, known = troubles(bed), {node: serials(bed, node) for node in NODES}
    mesh.stop_controller(bed.names)
    try:
        eventually(lambda: any(cert["lastError"] for node in NODES for cert in bed.proxy(node, "certs")), 15, "no renewal has failed")
        load.go_on()
        assert ready(bed), "the old certificate is no longer used"
        assert certificate_shown(bed, somebody) in [serial.lower() for serial in serials(bed, "node2").values()]
    finally:
        mesh.start_controller(bed.names)
    renewed(bed, known, 2, load)
    assert ready(bed)
    check(bed, load, before)


def foreign_identity(bed, directory):
    os.makedirs(directory, exist_ok=True)
    return Identity(bed, "pairs", "a1", str(directory))


def replace(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def test_root_files_that_are_broken_change_nothing(short_lived, load):
    """A bundle without the root that signs: certificates by it would be refused by who is to hold them."""
    bed = short_lived
    before = troubles(bed)
    path = os.path.join(bed.names.controller_directory(), "state", "root-cert.pem")
    with open(path) as file:
        good = file.read()
    stranger = run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                   "-subj", "/CN=stranger", "-keyout", "/dev/null")
    replace(path, stranger)
    try:
        eventually(lambda: "the roots stay as they are" in bed.log("controller"), 10, "the controller does not tell")
        renewed(bed, {node: serials(bed, node) for node in NODES}, 1, load)
        newcomers(bed, 100)
    finally:
        replace(path, good)
    renewed(bed, {node: serials(bed, node) for node in NODES}, 1, load)
    check(bed, load, before)


@pytest.mark.sanitizers
def test_root_is_replaced_without_a_refused_handshake(short_lived, load, tmp_path):
    bed, number = short_lived, 200
    before = troubles(bed)
    state = os.path.join(bed.names.controller_directory(), "state")
    with open(os.path.join(state, "root-cert.pem")) as file:
        old_root = file.read()
    by_old_root = foreign_identity(bed, tmp_path / "old")
    assert knock(bed, by_old_root)[1]

    def step_when_it_is_time(step):
        nonlocal number
        with pytest.raises(LabError, match="are valid for"):
            mesh.change_root(bed.names, step)

        def taken():
            nonlocal number
            newcomers(bed, number)
            load.go_on()
            number += 1
            try:
                return mesh.change_root(bed.names, step)
            except LabError as error:
                assert "are valid for" in str(error)
                return None
        eventually(taken, 60, step)

    mesh.change_root(bed.names, "add")
    for node in NODES:
        mesh.bring_roots(bed.names, node)
    step_when_it_is_time("use")
    # The controller itself is known by the new root now; who knew only the old one is told by root-cert.pem.
    eventually(lambda: "another root signs" in bed.log("controller"), 10, "the controller has not noticed")
    assert knock(bed, by_old_root)[1], "the old root is trusted as long as there are certificates of it"
    step_when_it_is_time("retire")
    for node in NODES:
        mesh.bring_roots(bed.names, node)
    with open(os.path.join(state, "root-cert.pem")) as file:
        bundle = file.read()
    assert bundle.count("BEGIN CERTIFICATE") == 1 and bundle != old_root
    renewed(bed, {node: serials(bed, node) for node in NODES}, 2, load)
    newcomers(bed, number)
    check(bed, load, before)
    # An identity of the mesh by all names, signed by what was its root: valid in time, trusted no more.
    refused = bed.counters("node2")["handshake_failed"]
    by_old_root.root = os.path.join(state, "root-cert.pem")
    assert not knock(bed, by_old_root)[1], "a certificate of the old root gets in"
    assert bed.counters("node2")["handshake_failed"] == refused + 1
    assert knock(bed, foreign_identity(bed, tmp_path / "new"))[1]
    restarts = {node: bed.keeper(node, "status")["proxyRestarts"] for node in NODES}
    assert restarts == {node: 0 for node in NODES}
