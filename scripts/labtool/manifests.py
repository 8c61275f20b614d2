"""Kubernetes manifests as users write them, completed with what a cluster would fill in: uids, addresses, timestamps."""
import ipaddress
import os
import uuid

import yaml

from .shell import LabError

MODE_LABEL = "istio.io/dataplane-mode"
RUN_ANNOTATION = "lab.fairlead.dev/run"


def read(paths):
    """All objects of files and directories, in order."""
    objects = []
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith((".yaml", ".yml")))
        for file in files:
            objects += _read_file(file)
    return objects


def _read_file(file):
    try:
        with open(file) as stream:
            documents = list(yaml.safe_load_all(stream))
    except FileNotFoundError:
        raise LabError(f"{file}: no such file")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise LabError(f"{file}:{mark.line + 1 if mark else 0}: {getattr(error, 'problem', error)}")
    objects = []
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        items = document.get("items", []) if isinstance(document, dict) and document.get("kind") == "List" else [document]
        for item in items:
            if not isinstance(item, dict) or "kind" not in item or "name" not in item.get("metadata", {}):
                raise LabError(f"{file}: document {number} is no Kubernetes object (kind and metadata.name are needed)")
            objects.append(item)
    return objects


def key(item):
    """kind/namespace/name; the namespace is empty for a Namespace."""
    metadata = item["metadata"]
    namespace = "" if item["kind"] == "Namespace" else metadata.get("namespace", "default")
    return f"{item['kind']}/{namespace}/{metadata['name']}"


def is_enrolled(pod, objects):
    """The rule of the controller: the pod's own label, else its namespace's."""
    metadata, namespace = pod["metadata"], pod["metadata"].get("namespace", "default")
    if pod.get("spec", {}).get("hostNetwork") or namespace == "kube-system":
        return False
    own = metadata.get("labels", {}).get(MODE_LABEL)
    if own:
        return own == "ambient"
    found = objects.get(f"Namespace//{namespace}", {})
    return found.get("metadata", {}).get("labels", {}).get(MODE_LABEL) == "ambient"


def selects(selector, labels):
    return all(labels.get(name) == value for name, value in (selector or {}).items())


class Allocator:
    """Hands out addresses and remembers them in the lab's state."""

    SERVICES4 = ipaddress.ip_network("10.96.0.0/16")
    SERVICES6 = ipaddress.ip_network("fd00:10:96::/112")

    def __init__(self, state):
        self.used = state.setdefault("addresses", {"service": 9, "pods": {}, "clock": 0})

    def service(self):
        self.used["service"] += 1
        return [str(self.SERVICES4[self.used["service"]]), str(self.SERVICES6[self.used["service"]])]

    def pod(self, node_index):
        number = self.used["pods"].get(str(node_index), 9) + 1
        if number > 250:
            raise LabError(f"node {node_index} has no pod address left (at most 240 pods)")
        self.used["pods"][str(node_index)] = number
        return [f"10.244.{node_index}.{number}", f"fd00:10:244:{node_index:x}::{number:x}"]

    def timestamp(self):
        self.used["clock"] += 1
        clock = self.used["clock"]
        return f"2026-01-01T{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}Z"


def complete(item, lab, nodes, allocator, known):
    """Fills in what a cluster would. `nodes`: name -> index. `known`: the object under this key before, if any."""
    metadata = item["metadata"]
    if item["kind"] != "Namespace":
        metadata.setdefault("namespace", "default")
    before = (known or {}).get("metadata", {})
    metadata.setdefault("uid", before.get("uid") or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{lab}/{key(item)}")))
    metadata.setdefault("creationTimestamp", before.get("creationTimestamp") or allocator.timestamp())
    if item["kind"] == "Pod":
        _complete_pod(item, nodes, allocator, known)
    if item["kind"] == "Service":
        _complete_service(item, allocator, known)
    return item


def _complete_pod(pod, nodes, allocator, known):
    spec = pod.setdefault("spec", {})
    node = spec.setdefault("nodeName", next(iter(nodes), "node1"))
    if node not in nodes:
        raise LabError(f"{key(pod)}: node {node} is not in this lab; nodes are made by `up`: {', '.join(nodes)}")
    status = pod.setdefault("status", {})
    addresses = [entry["ip"] for entry in status.get("podIPs", [])]
    addresses = addresses or [entry["ip"] for entry in (known or {}).get("status", {}).get("podIPs", [])]
    addresses = addresses or allocator.pod(nodes[node])
    status["podIPs"] = [{"ip": address} for address in addresses]
    status["podIP"] = addresses[0]
    status.setdefault("phase", "Running")


def _complete_service(service, allocator, known):
    spec = service.setdefault("spec", {})
    if spec.get("clusterIP") == "None" or spec.get("type") == "ExternalName":
        return
    old = (known or {}).get("spec", {})
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else None)
    addresses = addresses or old.get("clusterIPs") or allocator.service()
    spec["clusterIPs"] = addresses
    spec["clusterIP"] = addresses[0]
