"""Service names inside pods: one hosts file per namespace, kept up to date in place (it is bind-mounted)."""
import os

from .manifests import selects
from .state import pods


def directory(names):
    return os.path.join(names.state, "hosts")


def hosts_file(names, namespace):
    return os.path.join(directory(names), namespace)


def resolv_file(names):
    return os.path.join(directory(names), ".resolv.conf")


def addresses_of(service, state):
    spec = service.get("spec", {})
    if spec.get("clusterIPs") and spec["clusterIPs"] != ["None"]:
        return spec["clusterIPs"]
    namespace = service["metadata"]["namespace"]
    return [entry["ip"] for pod in pods(state)
            if pod["metadata"]["namespace"] == namespace and spec.get("selector")
            and selects(spec["selector"], pod["metadata"].get("labels", {}))
            for entry in pod["status"]["podIPs"]]


def write(names, state):
    os.makedirs(directory(names), exist_ok=True)
    services = [item for item in state["objects"].values() if item["kind"] == "Service"]
    namespaces = {pod["metadata"]["namespace"] for pod in pods(state)} | {"default"}
    with open(resolv_file(names), "w") as file:
        file.write("# names come from /etc/hosts in the lab\n")
    for namespace in namespaces:
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for service in services:
            name, home = service["metadata"]["name"], service["metadata"]["namespace"]
            spellings = [f"{name}.{home}.svc.cluster.local", f"{name}.{home}.svc", f"{name}.{home}"]
            spellings += [name] if home == namespace else []
            lines += [f"{address} {' '.join(spellings)}" for address in addresses_of(service, state)]
        # In place and not by renaming: running pods have this very file mounted.
        with open(hosts_file(names, namespace), "w") as file:
            file.write("\n".join(lines) + "\n")
