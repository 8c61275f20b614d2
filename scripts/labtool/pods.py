"""A pod's life: namespace, cgroup, enrolment, process."""
import os
import subprocess

from . import cgroups, dns, topology
from .manifests import RUN_ANNOTATION
from .paths import REPOSITORY
from .shell import enter_cgroup, enter_netns, private_files


def identity(pod):
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def cgroup_of(names, pod):
    return cgroups.pod(names.lab, pod["spec"]["nodeName"], pod["metadata"]["uid"])


def _addresses(pod):
    return [entry["ip"] for entry in pod["status"]["podIPs"]]


def create(names, pod, nodes):
    namespace, name = identity(pod)
    os.makedirs(cgroup_of(names, pod), exist_ok=True)
    topology.make_pod(names, namespace, name, pod["spec"]["nodeName"], _addresses(pod))
    topology.route_pod(names, nodes, pod["spec"]["nodeName"], _addresses(pod))


def enter(names, pod):
    """Makes the calling process one of the pod's."""
    namespace, name = identity(pod)
    enter_cgroup(cgroup_of(names, pod))
    enter_netns(names.pod_netns(namespace, name))
    private_files({"/etc/hosts": dns.hosts_file(names, namespace), "/etc/resolv.conf": dns.resolv_file(names)})


def start_process(names, pod):
    command = pod["metadata"].get("annotations", {}).get(RUN_ANNOTATION)
    if not command:
        return
    namespace, name = identity(pod)
    os.makedirs(os.path.dirname(names.log("x")), exist_ok=True)
    with open(names.log(f"{namespace}/{name}"), "ab") as log:
        subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                         preexec_fn=lambda: enter(names, pod), env={"FAIRLEAD_EXAMPLES": os.path.join(REPOSITORY, "examples"), **os.environ,
                              "POD_NAME": name, "POD_NAMESPACE": namespace})


def remove(names, pod, nodes):
    namespace, name = identity(pod)
    topology.route_pod(names, nodes, pod["spec"]["nodeName"], _addresses(pod), verb="del")
    cgroups.remove(cgroup_of(names, pod))
    topology.remove_netns(names.pod_netns(namespace, name))
