"""What a user may hand to the lab: told apart before anything is made, with the file and what was expected."""
import os
import subprocess

import pytest
import yaml

from bed import Bed, LabError, eventually, lab, manifest_file, mesh
from labtool import manifests, topology
from labtool.paths import Names

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio.io/dataplane-mode: ambient}}\n---\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: a}\nspec: {nodeName: node1}\n%s---\n"


def read(text):
    with manifest_file(text) as path:
        return manifests.read([path])


@pytest.mark.parametrize("text, expected", [
    ("kind: Pod\nmetadata: {name: a\n  b: [\n", ":3:"),
    ("\tx: y\n", ":1:"),
    ("kind: Pod\nmetadata:\n  name: a\n  name: b\n", ":4: 'name' is there twice"),
    ("just a string\n", "no Kubernetes object"),
    ("kind: Pod\nmetadata: oops\n", "metadata"),
    ("kind: Pod\nmetadata: null\n", "metadata"),
    ("kind: [Pod]\nmetadata: {name: a}\n", "kind"),
    ("kind: Pod\nmetadata: {name: [x]}\n", "name"),
    ("kind: Pod\nmetadata: {name: ../../tmp/evil}\n", "name"),
    ("kind: Pod\nmetadata: {name: a, namespace: B_}\n", "namespace"),
    ("kind: Pod\nmetadata: {name: a, labels: [x]}\n", "labels"),
    ("kind: Pod\nmetadata: {name: a, annotations: {x: 1}}\n", "annotations"),
    ("kind: Pod\nmetadata: {name: a}\nspec: [1]\n", "spec"),
    ("kind: Pod\nmetadata: {name: a}\nspec: {nodeName: ../x}\n", "nodeName"),
    ("kind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [{ip: 300.1.1.1}]}\n", "300.1.1.1"),
    ("kind: Pod\nmetadata: {name: a}\nstatus: {podIPs: 10.1.1.1}\n", "podIPs"),
    ("kind: Service\nmetadata: {name: a}\nspec: {clusterIPs: [x]}\n", "clusterIPs"),
    ("kind: List\nitems: null\n", "items"),
    ("kind: Pod\nmetadata: {name: p}\n---\nkind: Pod\nmetadata: {name: p}\n", "twice"),
], ids=str)
def test_broken_manifest_is_told_with_its_file(text, expected):
    with manifest_file(text) as path, pytest.raises(LabError) as error:
        manifests.read([path])
    assert str(error.value).startswith(path) and expected in str(error.value).replace(path, "", 1)


def test_a_file_that_is_no_text_is_told(tmp_path):
    for content in (b"\xff\xfe\x00\x01", b"kind: \x00\x07"):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(LabError, match="x.yaml"):
            manifests.read([str(tmp_path / "x.yaml")])


def test_a_directory_without_manifests_is_told(tmp_path):
    with pytest.raises(LabError, match="no .*yaml"):
        manifests.read([str(tmp_path)])


def completed(text, known=None):
    state = {"objects": known or {}}
    items = read(text)
    nodes = {"node1": 1, "node2": 2}
    allocator = manifests.Allocator(state, items)
    for item in items:
        key = manifests.key(item)
        state["objects"][key] = manifests.complete(item, "x", nodes, allocator, state["objects"].get(key))
    return state["objects"]


def addresses(objects, name):
    return [entry["ip"] for entry in objects[f"Pod/a/{name}"]["status"]["podIPs"]]


def test_given_addresses_are_not_given_away():
    found = completed(NAMESPACE + POD % ("p", "") + POD % ("q", "status: {podIPs: [{ip: 10.244.1.10}]}\n"))
    assert addresses(found, "q") == ["10.244.1.10"] and "10.244.1.10" not in addresses(found, "p")
    services = completed("kind: Service\nmetadata: {name: s}\n---\nkind: Service\nmetadata: {name: t}\nspec: {clusterIP: 10.96.0.10}\n")
    assert services["Service/default/t"]["spec"]["clusterIPs"] == ["10.96.0.10"]
    assert "10.96.0.10" not in services["Service/default/s"]["spec"]["clusterIPs"]


def test_one_address_for_two_pods_is_told():
    with pytest.raises(LabError, match="10.244.1.99.*Pod/a/p"):
        completed(POD % ("p", "status: {podIP: 10.244.1.99}\n") + POD % ("q", "status: {podIPs: [{ip: 10.244.1.99}]}\n"))


@pytest.mark.parametrize("change", [{"nodeName": "node2"}, {"serviceAccountName": "other"}], ids=str)
def test_what_a_running_pod_cannot_change_is_told(change):
    known = completed(POD % ("p", ""))
    text = yaml.safe_dump({"kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "node1", **change}})
    with pytest.raises(LabError, match=f"Pod/a/p.*{next(iter(change))}.*delete"):
        completed(text, known)


def test_names_of_labs_do_not_run_into_each_other():
    """`down` finds what is a lab's by the beginning of its name: no lab's may begin with another's."""
    for one, other in (("a", "a-n"), ("a-n", "a"), ("a", "a-p"), ("lab", "lab-2")):
        theirs = Names(other)
        for name in (theirs.hub, theirs.node_netns("x"), theirs.pod_netns("x", "y")):
            assert not name.startswith(Names(one).prefix)
        for path in (theirs.bpf_directory("x"), theirs.standin_directory("x")):
            assert not os.path.basename(path).startswith(Names(one).pin_prefix)


def test_pod_names_that_are_long_stay_apart():
    names, long = Names("x"), "n" * 240
    assert names.pod_netns("a", long + "1") != names.pod_netns("a", long + "2")
    assert len(names.pod_netns("a", long)) < 255


# ---- on the machine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    made = Bed(f"ni{os.getpid()}", manifest="small.yaml")
    try:
        yield made
    finally:
        made.down()


def up(bed, text, **how):
    lab.down(bed.lab)
    with manifest_file(text) as path:
        lab.up(bed.lab, [path], stand_in=bed.stand_in, **how)
    return bed


def test_what_the_controller_refuses_ends_up_at_once(fresh):
    policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: r, namespace: a}\nspec: {rulez: []}\n"
    with pytest.raises(LabError, match="(?s)AuthorizationPolicy_a_r.yaml:.*rulez.*lab down"):
        up(fresh, NAMESPACE + POD % ("p", "") + policy)


def test_a_pod_that_cannot_be_enrolled_is_named(fresh):
    bad = ("kind: Pod\nmetadata: {name: p, namespace: a, annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: http}}\n"
           "spec: {nodeName: node1}\n")
    with pytest.raises(LabError, match="a/p.*'http' is not a port"):
        up(fresh, NAMESPACE + bad)


def test_addresses_out_of_the_nodes_range_are_routed(fresh):
    pods = (NAMESPACE + "kind: Pod\nmetadata: {name: p, namespace: a}\nspec: {nodeName: node1}\nstatus: {podIPs: [{ip: 192.168.77.5}, {ip: fd77::5}]}\n---\n"
            "kind: Pod\nmetadata: {name: q, namespace: a, annotations: {lab.fairlead.dev/run: exec python3 $PEERS/server.py}}\n"
            "spec: {nodeName: node2}\nstatus: {podIP: 192.168.77.5, podIPs: [{ip: 192.168.78.5}, {ip: fd78::5}]}\n")
    up(fresh, pods).wait_for_applications()
    for family in "46":
        answer = fresh.call("a/p", "who", to=[fresh.ip("a/q", family), 8080])
        assert answer.get("pod") == "q" and answer["peer"][0] == fresh.ip("a/p", family), answer


def test_mesh_label_comes_and_goes_on_running_pods(fresh):
    fresh.up()
    uid = fresh.pod("outside/client")["metadata"]["uid"]

    def enrolled():
        return uid in [pod["uid"] for pod in fresh.keeper("node1", "pods")]
    assert not enrolled()
    fresh.apply("kind: Namespace\napiVersion: v1\nmetadata: {name: outside, labels: {istio.io/dataplane-mode: ambient}}\n")
    assert enrolled()
    before = fresh.counters("node1")["outbound_accepted"]
    eventually(lambda: fresh.call("outside/client", "who", to=["api.front", 80]).get("pod") == "api", 10, "it is enrolled and reaches nobody")
    assert fresh.counters("node1")["outbound_accepted"] > before
    fresh.apply("kind: Namespace\napiVersion: v1\nmetadata: {name: outside}\n")
    assert not enrolled()
    # While its agent is away, it is told when it comes back.
    lab.agent(fresh.lab, "node1", "stop")
    fresh.apply("kind: Namespace\napiVersion: v1\nmetadata: {name: outside, labels: {istio.io/dataplane-mode: ambient}}\n")
    lab.agent(fresh.lab, "node1", "start")
    assert enrolled()
    fresh.delete("Namespace//outside")
    assert not enrolled()


def test_exclusions_change_on_a_running_pod(fresh):
    fresh.up()
    fresh.apply("kind: Pod\napiVersion: v1\nmetadata: {name: web, namespace: front, labels: {app: web}, annotations: "
                "{traffic.sidecar.istio.io/excludeOutboundPorts: '8080'}}\nspec: {nodeName: node1, serviceAccountName: web}\n")
    told, = [pod for pod in fresh.keeper("node1", "pods") if pod["name"] == "web"]
    assert told["excludedOutboundPorts"] == [8080]


def test_delete_of_something_unknown_deletes_nothing(fresh):
    fresh.up()
    with pytest.raises(LabError, match="Pod/front/nobody"):
        lab.delete(fresh.lab, keys=["Pod/front/web", "Pod/front/nobody"])
    assert fresh.call("front/web", "who", to=["api.front", 80]).get("pod") == "api"


def test_a_lab_whose_name_goes_on_survives(fresh):
    """`down` of lab X must leave X-n alone."""
    longer = Bed(fresh.lab + "-n", manifest="small.yaml", stand_in="none")
    try:
        fresh.up()
        longer.up()
        fresh.down()
        assert longer.call("front/web", "who", to=["api.front", 80]).get("pod") == "api"
        assert len(mesh.keeper(longer.names, "node1", "pods")) == 1 and os.path.isdir(longer.names.bpf_directory("node1"))
    finally:
        longer.down()


def test_node_with_a_dotted_name(fresh):
    up(fresh, NAMESPACE + POD.replace("node1", "ip-10.example.com") % ("p", ""))
    assert fresh.keeper("ip-10.example.com", "status")["proxyReady"]


def script(*arguments, **environment):
    path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "scripts", "lab")
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


@pytest.mark.parametrize("arguments", [["down", "extra"], ["status", "extra"], ["list", "extra"], ["up", "--bogus", "x"],
                                       ["apply", "--bogus"], ["delete", "--bogus"], ["--bogus", "status"]], ids=" ".join)
def test_arguments_too_many_are_refused(fresh, arguments):
    """Above all `down NAME` must not take down the lab that it does not name."""
    fresh.up()
    done = script(*arguments, "--name", fresh.lab)
    assert done.returncode == 2, done
    assert fresh.call("front/web", "who", to=["api.front", 80]).get("pod") == "api"


def test_name_with_an_equals_sign(bed):
    assert "front/web" in script("status", f"--name={bed.lab}").stdout
    assert "front/web" in script(f"--name={bed.lab}", "status").stdout


def test_not_built_says_what_to_do(fresh):
    done = script("up", os.path.join(os.path.dirname(__file__), "manifests"), "--name", fresh.lab, FAIRLEAD_BUILD="/nonexistent")
    assert done.returncode == 1 and "scripts/build" in done.stderr, done
    assert fresh.lab not in lab.labs()


def test_exec_of_what_cannot_run(bed):
    for command in ("/nonexistent", "/etc/passwd"):
        done = script("exec", "front/web", "--name", bed.lab, "--", command)
        assert done.returncode in (126, 127) and command in done.stderr, done


def test_what_nothing_reads_is_told(fresh):
    deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: a}\nspec: {}\n"
    with manifest_file(NAMESPACE + POD % ("p", "") + deployment) as path:
        done = script("up", path, "--name", fresh.lab)
    assert done.returncode == 0 and "Deployment" in done.stderr and "not read" in done.stderr, done
    assert "Deployment" in script("status", "--name", fresh.lab).stdout


def test_the_example_of_the_readme_runs_as_it_stands(fresh):
    """`scripts/lab up examples/demo` needs nothing in the environment."""
    environment = {key: value for key, value in os.environ.items() if key not in ("FAIRLEAD_EXAMPLES", "PEERS")}
    root = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..")
    done = subprocess.run([os.path.join(root, "scripts", "lab"), "up", os.path.join(root, "examples", "demo"), "--name", fresh.lab],
                          env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    eventually(lambda: script("exec", "frontend/webapp", "--name", fresh.lab, "--", "curl", "-sS", "api.backend").stdout.startswith("hello"),
               10, "the README's first command fails")


def test_topology_knows_which_addresses_are_a_nodes():
    assert topology.is_of_node("10.244.2.7", 2) and not topology.is_of_node("10.244.2.7", 1)
    assert topology.is_of_node("fd00:10:244:2::7", 2) and not topology.is_of_node("fd01::7", 2)
