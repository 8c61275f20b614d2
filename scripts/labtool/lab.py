"""The verbs on a lab as a library: what the command line, the demo, the tests and the benchmarks call."""
import os
import shutil
import signal
import sys

import yaml

from . import cgroups, dns, manifests, mesh, pods, standin, state as memory, topology
from .paths import STATE_ROOT, Names, built
from .shell import LabError, wait_until


def _write_objects(names, items):
    """Written beside the directory that the controller watches and moved there in one go: it sees all of them or none."""
    staging = names.source_directory() + ".new"
    for directory in (names.source_directory(), staging):
        os.makedirs(directory, exist_ok=True)
    files = []
    for item in items:
        files.append(manifests.key(item).replace("/", "_") + ".yaml")
        with open(os.path.join(staging, files[-1]), "w") as file:
            yaml.safe_dump(item, file, sort_keys=False)
    for name in files:
        os.rename(os.path.join(staging, name), os.path.join(names.source_directory(), name))


def _remove_object(names, item):
    path = os.path.join(names.source_directory(), manifests.key(item).replace("/", "_") + ".yaml")
    if os.path.exists(path):
        os.unlink(path)


def _node_index(objects):
    nodes = sorted({item["spec"]["nodeName"] for item in objects if item["kind"] == "Pod" and item.get("spec", {}).get("nodeName")})
    return {node: index for index, node in enumerate(nodes or ["node1"], 1)}


def up(lab, paths, with_mesh=True, stand_in="before"):
    with memory.locked(lab) as names:
        if os.path.exists(os.path.join(names.state, "state.json")):
            raise LabError(f"lab '{lab}' is up already: `scripts/lab down --name {lab}` first")
        built(*(["fairlead-agent", "fairlead-controller"] if with_mesh else []), *([] if stand_in == "none" else ["fairlead-standin"]))
        objects = manifests.read(paths)
        nodes = _node_index(objects)
        state = {"nodes": nodes, "objects": {}, "mesh": with_mesh, "standin": stand_in}
        allocator = manifests.Allocator(state, objects)
        for item in objects:
            state["objects"][manifests.key(item)] = manifests.complete(item, lab, nodes, allocator, None)
        memory.save(names, state)  # from here on there is something to take down
        os.chmod(names.state, 0o755)
        try:
            _build(names, state)
        except LabError as error:
            raise LabError(f"{error}\n  What is there of it stays, to look at: scripts/lab logs controller|NODE --name {lab}; "
                           f"then: scripts/lab down --name {lab}")


def _build(names, state):
    nodes = state["nodes"]
    topology.make_hub(names)
    for node, index in nodes.items():
        topology.make_node(names, node, index, nodes)
        os.makedirs(cgroups.system(names.lab, node), exist_ok=True)
    topology.route_hub(names, nodes)
    _write_objects(names, state["objects"].values())
    dns.write(names, state)
    for pod in memory.pods(state):
        pods.create(names, pod, nodes)
    if state["standin"] == "before":
        standin.attach(names, state)
    if state["mesh"]:
        _start_mesh(names, state)
    if state["standin"] == "after":
        standin.attach(names, state)
    for pod in memory.pods(state):
        pods.start_process(names, pod)


def _start_mesh(names, state):
    mesh.start_controller(names)
    mesh.wait_for_verdict(names)
    for node in state["nodes"]:
        mesh.start_agent(names, node)
    for node in state["nodes"]:
        mesh.wait_for_agent(names, node)
    _enrol(names, state)


def _enrol(names, state):
    """Pods in the mesh are enrolled, others are not: labels come and go. An agent that is away is told when it comes back."""
    if not state["mesh"]:
        return
    changed = set()
    for node in state["nodes"]:
        if mesh.pid_of(names, f"agent-{node}") is None:
            continue
        known = {pod["uid"] for pod in mesh.keeper(names, node, "pods")}
        for pod in (pod for pod in memory.pods(state) if pod["spec"]["nodeName"] == node):
            wanted, told = manifests.is_enrolled(pod, state["objects"]), pod["metadata"]["uid"] in known
            if wanted and (not told or state.get("told", {}).get(pod["metadata"]["uid"]) != pod["metadata"].get("annotations")):
                mesh.enrol(names, pod)
                state.setdefault("told", {})[pod["metadata"]["uid"]] = pod["metadata"].get("annotations")
                changed.add(node)
            if told and not wanted:
                mesh.dismiss(names, pod)
    memory.save(names, state)
    for node in changed:
        mesh.wait_for_agent(names, node)


def _snapshot_versions(names, state):
    found = {}
    for node in state["nodes"]:
        status = mesh.quietly(mesh.proxy, names, node, "status")
        if status:
            found[node] = status["controller"]["pushes"]
    return found


def _controller_took(names, before):
    def changed():
        status = mesh.controller_status(names)
        return status.get("version", 0) != before.get("version", 0) or status.get("problems") != before.get("problems")
    return changed


def apply(lab, paths):
    with memory.locked(lab) as names:
        state = memory.load(names)
        items, new_pods = manifests.read(paths), []
        allocator = manifests.Allocator(state, items)
        before = mesh.controller_status(names)
        for item in items:
            name = manifests.key(item)
            known = state["objects"].get(name)
            state["objects"][name] = manifests.complete(item, lab, state["nodes"], allocator, known)
            if item["kind"] == "Pod" and known is None:
                new_pods.append(item)
        for pod in new_pods:
            _agent_must_run(names, state, pod)
        memory.save(names, state)
        _refresh(names, state, before, items)
        for pod in new_pods:
            pods.create(names, pod, state["nodes"])
        if new_pods and state["standin"] != "none":
            standin.attach(names, state)
        _enrol(names, state)
        for pod in new_pods:
            pods.start_process(names, pod)


def _agent_must_run(names, state, pod):
    """A pod's process starts when the pod is captured and never before: as the CNI of a cluster would have it."""
    node = pod["spec"]["nodeName"]
    if state["mesh"] and manifests.is_enrolled(pod, state["objects"]) and mesh.pid_of(names, f"agent-{node}") is None:
        raise LabError(f"{manifests.key(pod)}: the agent of {node} does not run: `scripts/lab agent {node} start --name {names.lab}` first")


def delete(lab, paths=(), keys=()):
    """Objects named in files, or by kind/namespace/name."""
    with memory.locked(lab) as names:
        state = memory.load(names)
        before = mesh.controller_status(names)
        wanted = list(dict.fromkeys([manifests.key(item) for item in manifests.read(paths)] + list(keys)))
        for name in wanted:
            if name not in state["objects"]:
                raise LabError(f"{name} is not in lab '{lab}': nothing is deleted")
        for name in wanted:
            item = state["objects"].pop(name)
            _remove_object(names, item)
            if item["kind"] == "Pod":
                if state["mesh"]:
                    mesh.dismiss(names, item)
                pods.remove(names, item, state["nodes"])
        memory.save(names, state)
        _refresh(names, state, before, [])
        _enrol(names, state)


def _refresh(names, state, before, items):
    """Hands the objects to everybody concerned and waits until the controller and the agents have them."""
    pushes = _snapshot_versions(names, state)
    _write_objects(names, items)
    dns.write(names, state)
    if state["standin"] != "none":
        standin.refresh(names, state)
    if not state["mesh"] or mesh.pid_of(names, "controller") is None:
        return
    try:
        wait_until(_controller_took(names, before), 5, "the controller has not taken the change")
    except LabError:
        return  # nothing that concerns it changed
    if not mesh.controller_status(names).get("good", False):
        raise LabError("the controller keeps the last good state:\n" + "\n".join(mesh.controller_status(names)["problems"]))

    def pushed():
        now = _snapshot_versions(names, state)
        return any(now.get(node, 0) > count for node, count in pushes.items())
    try:
        wait_until(pushed, 1, "no agent was told")
    except LabError:
        pass  # the change does not concern the agents


def agent(lab, node, verb, only_proxy=False):
    with memory.locked(lab) as names:
        state = memory.load(names)
        if node not in state["nodes"]:
            raise LabError(f"no node {node}; there are: {', '.join(state['nodes'])}")
        if only_proxy:
            mesh.kill_proxy(names, node)
        elif verb in ("stop", "kill", "restart"):
            mesh.stop_agent(names, node, signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        if verb == "upgrade":
            mesh.upgrade_agent(names, node)
        if verb in ("start", "restart"):
            mesh.start_agent(names, node)
        if verb in ("start", "restart", "upgrade"):
            mesh.wait_for_agent(names, node)
            _enrol(names, state)


def controller(lab, verb):
    with memory.locked(lab) as names:
        memory.load(names)
        if verb in ("stop", "kill", "restart"):
            mesh.stop_controller(names, signal.SIGKILL if verb == "kill" else signal.SIGTERM)
        if verb in ("start", "restart"):
            mesh.start_controller(names)


def exec_in(lab, name, command):
    """Becomes the command inside the pod; does not return."""
    names = Names(lab)
    pod = memory.find_pod(memory.load(names), name)
    pods.enter(names, pod)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"lab: {command[0]}: command not found", file=sys.stderr)
        sys.exit(127)
    except OSError as error:
        print(f"lab: {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(126)


def down(lab):
    """Everything that carries the lab's name, whatever state it was left in. False: there was nothing."""
    memory.check_name(lab)
    names = Names(lab)
    mine = [name for name in topology.netns_names() if name.startswith(names.prefix)]
    pins = [os.path.join(parent, name) for parent in ("/sys/fs/bpf/fairlead", "/sys/fs/bpf/fairlead-standin")
            if os.path.isdir(parent) for name in os.listdir(parent) if name.startswith(names.pin_prefix)]
    found = bool(mine or pins or os.path.isdir(names.state) or os.path.isdir(cgroups.lab_root(lab)))
    cgroups.remove(cgroups.lab_root(lab))
    for path in pins:
        mesh.remove_pins(path)
    for name in mine:
        topology.remove_netns(name)
    shutil.rmtree(names.state, ignore_errors=True)
    for leftover in (names.state + ".lock",):
        if os.path.exists(leftover):
            os.unlink(leftover)
    for parent in (os.path.join(cgroups.root(), "fairlead-lab"), STATE_ROOT, "/sys/fs/bpf/fairlead", "/sys/fs/bpf/fairlead-standin"):
        try:
            os.rmdir(parent)
        except OSError:
            pass  # other labs live there, or it was never made
    return found


def labs():
    try:
        return sorted(name for name in os.listdir(STATE_ROOT) if os.path.isdir(os.path.join(STATE_ROOT, name)))
    except FileNotFoundError:
        return []
