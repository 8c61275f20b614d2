"""Kubernetes manifests as users write them, completed with what a cluster would fill in: uids, addresses, timestamps."""
import ipaddress
import os
import re
import uuid

import yaml

from . import topology
from .shell import LabError

MODE_LABEL = "istio.io/dataplane-mode"
FOREIGN_ANNOTATION = "lab.fairlead.dev/foreign"  # its tunnels are ended by a program of the test
RUN_ANNOTATION = "lab.fairlead.dev/run"


class Loader(yaml.SafeLoader):
    """Says when a key is there twice: the library takes the last one, and nobody would hear of the other."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if isinstance(name, yaml.ScalarNode) and name.value != "<<" and name.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name.value}' is there twice", name.start_mark)
            seen.add(name.value if isinstance(name, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def read(paths):
    """All objects of files and directories, in order."""
    objects, places = [], {}
    for path in paths:
        files = [path]
        if os.path.isdir(path):
            files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith((".yaml", ".yml")))
            if not files:
                raise LabError(f"{path}: no *.yaml or *.yml in this directory")
        for file in files:
            for item in _read_file(file):
                if key(item) in places:
                    raise LabError(f"{file}: {key(item)} is there twice, first in {places[key(item)]}")
                places[key(item)] = file
                objects.append(item)
    return objects


def _read_file(file):
    try:
        with open(file) as stream:
            documents = list(yaml.load_all(stream, Loader))
    except FileNotFoundError:
        raise LabError(f"{file}: no such file")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise LabError(f"{file}:{mark.line + 1}: {error.problem}" if mark else f"{file}: {' '.join(str(error).split())}")
    except UnicodeDecodeError as error:
        raise LabError(f"{file}: not UTF-8: {error.reason} at byte {error.start}")
    objects = []
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        for item in items if isinstance(items, list) else [None]:
            problem = "items: want a list" if item is None else _problem(item)
            if problem:
                raise LabError(f"{file}: document {number} is no Kubernetes object: {problem}")
            objects.append(item)
    return objects


def _is_name(text, dots=True):
    return isinstance(text, str) and len(text) <= 253 and re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?" if dots
                                                                       else r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", text) is not None


def _is_strings(value):
    return value is None or isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _problem(item):
    """What keeps the lab from using an object; None: nothing. The rest is for the controller to judge."""
    if not isinstance(item, dict):
        return "want a mapping with kind and metadata.name"
    if not isinstance(item.get("kind"), str) or not re.fullmatch("[A-Za-z]+", item["kind"]):
        return "kind: want the name of a kind"
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        return "metadata: want a mapping with a name"
    if not _is_name(metadata.get("name")):
        return f"metadata.name: got {metadata.get('name')!r}, want a DNS name"
    if not _is_name(metadata.get("namespace", "default"), dots=False):
        return f"metadata.namespace: got {metadata['namespace']!r}, want a DNS label"
    for field in ("labels", "annotations"):
        if not _is_strings(metadata.get(field)):
            return f"metadata.{field}: want a mapping of strings to strings (quote numbers and true)"
        if metadata.get(field) is None:
            metadata.pop(field, None)
    if item.get("spec") is None:
        item.pop("spec", None)
    if not isinstance(item.get("spec", {}), dict):
        return "spec: want a mapping"
    return {"Pod": _pod_problem, "Service": _service_problem}.get(item["kind"], lambda _: None)(item)


def _addresses_problem(field, values):
    if not isinstance(values, list):
        return f"{field}: want a list"
    for value in values:
        try:
            ipaddress.ip_address(value if isinstance(value, str) else "")
        except ValueError:
            return f"{field}: got {value!r}, want an IP address"
    return None


def _pod_problem(pod):
    if not _is_name(pod.get("spec", {}).get("nodeName", "node1")):
        return f"spec.nodeName: got {pod['spec']['nodeName']!r}, want a DNS name"
    if not isinstance(pod.get("status") or {}, dict):
        return "status: want a mapping"
    entries = (pod.get("status") or {}).get("podIPs", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return "status.podIPs: want a list of {ip: …}"
    return _addresses_problem("status.podIPs", given_addresses(pod))


def _service_problem(service):
    return _addresses_problem("spec.clusterIPs", given_addresses(service))


def given_addresses(item):
    """Addresses that a manifest of a Pod or a Service comes with."""
    if item["kind"] == "Pod":
        status = item.get("status") or {}
        return [entry.get("ip") for entry in status.get("podIPs") or []] or ([status["podIP"]] if status.get("podIP") else [])
    if item["kind"] == "Service":
        spec = item.get("spec", {})
        found = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
        return [] if found == ["None"] else found
    return []


def key(item):
    """kind/namespace/name; the namespace is empty for a Namespace."""
    metadata = item["metadata"]
    namespace = "" if item["kind"] == "Namespace" else metadata.get("namespace", "default")
    return f"{item['kind']}/{namespace}/{metadata['name']}"


def is_enrolled(pod, objects):
    """The rule of the controller: the pod's own label, else its namespace's. A pod that another implementation serves is in
    the mesh, but no business of the node's agent."""
    metadata, namespace = pod["metadata"], pod["metadata"].get("namespace", "default")
    if pod.get("spec", {}).get("hostNetwork") or namespace == "kube-system" or FOREIGN_ANNOTATION in metadata.get("annotations", {}):
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

    def __init__(self, state, items=()):
        """`items` are about to come: the addresses that they bring are nobody else's."""
        self.used = state.setdefault("addresses", {"service": 9, "pods": {}, "clock": 0})
        self.owners = {}
        for item in [*state["objects"].values(), *items]:
            for address in given_addresses(item):
                owner = self.owners.setdefault(str(ipaddress.ip_address(address)), key(item))
                if owner != key(item):
                    raise LabError(f"{key(item)}: {address} is the address of {owner}")

    def _free(self, pair):
        return not any(address in self.owners for address in pair)

    def service(self):
        while True:
            self.used["service"] += 1
            pair = [str(self.SERVICES4[self.used["service"]]), str(self.SERVICES6[self.used["service"]])]
            if self._free(pair):
                return pair

    def pod(self, node_index):
        while True:
            number = self.used["pods"].get(str(node_index), 9) + 1
            if number > 250:
                raise LabError(f"node {node_index} has no pod address left (at most 240 pods)")
            self.used["pods"][str(node_index)] = number
            pair = [str(network[number]) for network in topology.node_ranges(node_index)]
            if self._free(pair):
                return pair

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
    addresses = given_addresses(pod)
    if known:
        _same_pod(pod, known, addresses)
        addresses = given_addresses(known)
    addresses = addresses or allocator.pod(nodes[node])
    status = pod["status"] = pod.get("status") or {}
    status["podIPs"] = [{"ip": address} for address in addresses]
    status["podIP"] = addresses[0]
    status.setdefault("phase", "Running")


def _same_pod(pod, known, addresses):
    """As in a cluster, most of a pod stays as it was made."""
    fields = [(name, pod["spec"].get(name, default), known["spec"].get(name, default))
              for name, default in (("nodeName", None), ("serviceAccountName", "default"), ("hostNetwork", False))]
    fields += [("podIPs", addresses or given_addresses(known), given_addresses(known)),
               ("uid", pod["metadata"]["uid"], known["metadata"]["uid"])]
    for name, now, before in fields:
        if now != before:
            raise LabError(f"{key(pod)}: {name} of a pod that runs cannot become {now} (it is {before}): delete the pod first")


def _complete_service(service, allocator, known):
    spec = service.setdefault("spec", {})
    if "None" in (spec.get("clusterIP"), *(spec.get("clusterIPs") or [])) or spec.get("type") == "ExternalName":
        return
    addresses = given_addresses(service) or (known or {}).get("spec", {}).get("clusterIPs") or allocator.service()
    spec["clusterIPs"] = addresses
    spec["clusterIP"] = addresses[0]
