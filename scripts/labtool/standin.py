"""Drives the Cilium stand-in (tests/support/standin): tells it Services and NetworkPolicies, attaches it to nodes and pods."""
import ipaddress
import json
import subprocess

from . import cgroups
from .manifests import selects
from .paths import binary
from .shell import LabError
from .state import pods


def _service_entries(state):
    """[address, port, [[pod address, port], …]] for every ClusterIP and TCP port."""
    entries = []
    for service in (item for item in state["objects"].values() if item["kind"] == "Service"):
        spec = service.get("spec", {})
        if not spec.get("clusterIPs") or not spec.get("selector"):
            continue
        members = [pod for pod in pods(state) if pod["metadata"]["namespace"] == service["metadata"]["namespace"]
                   and selects(spec["selector"], pod["metadata"].get("labels", {}))]
        for port in spec.get("ports", []):
            for vip in spec["clusterIPs"]:
                backends = [[entry["ip"], _target_port(port, pod)] for pod in members for entry in pod["status"]["podIPs"]
                            if (":" in entry["ip"]) == (":" in vip)]
                entries.append([vip, port["port"], backends])
    return entries


def _target_port(port, pod):
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    for container in pod["spec"].get("containers", []):
        for candidate in container.get("ports", []):
            if candidate.get("name") == target:
                return candidate["containerPort"]
    return 0


def _peers(peer, namespace, state):
    """Source ranges that a NetworkPolicy peer stands for."""
    if "ipBlock" in peer:
        return [peer["ipBlock"]["cidr"]]
    wanted = peer.get("podSelector", {}).get("matchLabels", {})
    spaces = {namespace}
    if "namespaceSelector" in peer:
        labels = peer["namespaceSelector"].get("matchLabels", {})
        spaces = {item["metadata"]["name"] for item in state["objects"].values()
                  if item["kind"] == "Namespace" and selects(labels, item["metadata"].get("labels", {}))}
    return [entry["ip"] for pod in pods(state) if pod["metadata"]["namespace"] in spaces
            and selects(wanted, pod["metadata"].get("labels", {})) for entry in pod["status"]["podIPs"]]


def _policy_entries(state):
    """(protected pod addresses, [[pod address, source range, port or 0], …])."""
    protected, allowed = set(), []
    for policy in (item for item in state["objects"].values() if item["kind"] == "NetworkPolicy"):
        namespace, spec = policy["metadata"]["namespace"], policy.get("spec", {})
        wanted = spec.get("podSelector", {}).get("matchLabels", {})
        targets = [entry["ip"] for pod in pods(state) if pod["metadata"]["namespace"] == namespace
                   and selects(wanted, pod["metadata"].get("labels", {})) for entry in pod["status"]["podIPs"]]
        protected.update(targets)
        for rule in spec.get("ingress", []):
            sources = [source for peer in rule.get("from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}, {"ipBlock": {"cidr": "::/0"}}])
                       for source in _peers(peer, namespace, state)]
            ports = [port["port"] for port in rule.get("ports", [])] or [0]
            allowed += [[target, source, port] for target in targets for source in sources for port in ports
                        if ipaddress.ip_network(source, strict=False).version == ipaddress.ip_address(target).version]
    return sorted(protected), allowed


def _configuration(names, state, node):
    protected, allowed = _policy_entries(state)
    return {"pins": names.standin_directory(node), "cgroup": cgroups.node_root(names.lab, node),
            "services": _service_entries(state), "protected": protected, "allowed": allowed,
            "interfaces": [names.pod_interface(pod["metadata"]["namespace"], pod["metadata"]["name"])
                           for pod in pods(state) if pod["spec"]["nodeName"] == node]}


def _call(names, node, verb, configuration):
    done = subprocess.run(["nsenter", "--net=/run/netns/" + names.node_netns(node), binary("fairlead-standin"), verb],
                          input=json.dumps(configuration), text=True, capture_output=True)
    if done.returncode != 0:
        raise LabError(f"stand-in on {node}: {done.stderr.strip()}")
    return done.stdout


def attach(names, state):
    """Idempotent: nodes and pods that have it already keep it."""
    for node in state["nodes"]:
        _call(names, node, "attach", _configuration(names, state, node))


def refresh(names, state):
    for node in state["nodes"]:
        _call(names, node, "update", _configuration(names, state, node))


def drops(names, node):
    """Connections that the stand-in's policy refused on this node."""
    return int(_call(names, node, "drops", {"pins": names.standin_directory(node)}) or 0)


