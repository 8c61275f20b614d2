"""A mesh that is large elsewhere: objects which concern neither of the two pods that are measured. They are there for the
controller and for the agents, and nowhere in the lab's network."""
import itertools
import os

from labtool import mesh
from labtool.shell import wait_until

POLICIES, WORKLOADS = 10_000, 50_000
PER_FILE = 5_000
KINDS = ("policies", "workloads")
NAMESPACES = 10
NAMESPACE = """---
apiVersion: v1
kind: Namespace
metadata: {{name: crowd-{0}, labels: {{istio.io/dataplane-mode: ambient}}}}
"""
# Half of them bind every workload of the mesh's other namespaces, half one application there.
POLICY = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: policy-{1}, namespace: crowd-{0}}}
spec: {{action: {2}, {3}rules: [{{from: [{{source: {{principals: ["cluster.local/ns/crowd-{0}/sa/a-{1}"], ipBlocks: ["10.{0}.0.0/16"]}}}}], to: [{{operation: {{ports: ["{4}"]}}}}]}}]}}
"""
POD = """---
apiVersion: v1
kind: Pod
metadata: {{name: pod-{1}, namespace: crowd-{0}, uid: crowd-{1}, labels: {{app: app-{2}}}}}
spec: {{nodeName: far-{2}, serviceAccountName: account-{2}, containers: [{{name: app}}]}}
status: {{phase: Running, podIP: {3}, podIPs: [{{ip: {3}}}], conditions: [{{type: Ready, status: "True"}}]}}
"""


def _namespaces():
    return [NAMESPACE.format(number) for number in range(NAMESPACES)]


def _policies(count):
    for number in range(count):
        selector = "" if number % 2 else f"selector: {{matchLabels: {{app: app-{number}}}}}, "
        yield POLICY.format(number % NAMESPACES, number, ("ALLOW", "DENY")[number // 2 % 2], selector, 1024 + number)


def _pods(count):
    for number in range(count):
        yield POD.format(number % NAMESPACES, number, number % 500, f"10.200.{number // 250}.{number % 250 + 1}")


def add(names, kind):
    """`kind`: policies or workloads. Back when both agents have been told of all."""
    items = _policies(POLICIES) if kind == "policies" else _pods(WORKLOADS)
    parts = [_namespaces()]
    while part := list(itertools.islice(items, PER_FILE)):
        parts.append(part)
    for number, part in enumerate(parts):
        path = os.path.join(names.source_directory(), f"crowd-{number:02}.yaml")
        with open(path + ".new", "w") as file:
            file.writelines(part)
        os.rename(path + ".new", path)
    count = POLICIES if kind == "policies" else WORKLOADS
    for node in ("node1", "node2"):
        wait_until(lambda: mesh.proxy(names, node, "status")["snapshot"][kind] >= count, 180, f"{node} has not been told of the {kind}")
