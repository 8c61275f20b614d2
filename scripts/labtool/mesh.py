"""The controller and the agents of a lab: started in their namespaces and cgroups, asked over their sockets."""
import json
import os
import signal
import socket
import subprocess

import yaml

from . import cgroups, topology
from .paths import BPF_ROOT, binary
from .shell import SLOWER, LabError, enter_cgroup, enter_netns, run, wait_until

PROXY_UID = 65532
CONTROLLER = f"{topology.HUB4}:15012"
CERTIFICATE_TTL = os.environ.get("FAIRLEAD_CERTIFICATE_TTL", "24h")  # of workloads; renewed at half of what is left
CONTROLLER_NAME = None  # HOST:PORT by which the agents know it, where that is another


# ---- asking ---------------------------------------------------------------------------------------------------------

def query(path, line, timeout=5.0):
    """One question to keeper.sock or proxy.sock; raises LabError when nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout * SLOWER)
            client.connect(path)
            client.sendall(line.encode() + b"\n")
            answer = b""
            while chunk := client.recv(1 << 16):
                answer += chunk
    except OSError as error:
        raise LabError(f"{path}: {error}")
    document = json.loads(answer)
    if isinstance(document, dict) and "error" in document:
        raise LabError(document["error"])
    return document


def keeper(names, node, line):
    return query(os.path.join(names.run_directory(node), "keeper.sock"), line)


def proxy(names, node, line):
    return query(os.path.join(names.run_directory(node), "proxy.sock"), line)


def quietly(function, *arguments):
    try:
        return function(*arguments)
    except LabError:
        return None


# ---- processes ------------------------------------------------------------------------------------------------------

def _environment(name):
    """A sanitizer's reports of a daemon go to its log, for an agent's proxy may write no other file; nor may it be traced, as the
    search for leaks would."""
    more = ":log_path=stderr" + (":detect_leaks=0" if name.startswith("agent-") else "")
    return {key: value + more if key.endswith("SAN_OPTIONS") else value for key, value in os.environ.items()}


def _spawn(names, name, command, netns, cgroup):
    os.makedirs(os.path.dirname(names.log("x")), exist_ok=True)
    os.makedirs(cgroup, exist_ok=True)

    def enter():
        enter_cgroup(cgroup)
        enter_netns(netns)

    with open(names.log(name), "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                env=_environment(name), preexec_fn=enter)


def _start(names, name, command, netns, cgroup):
    _remember(names, name, _spawn(names, name, command, netns, cgroup).pid)


def _remember(names, name, pid):
    with open(_pid_file(names, name), "w") as file:
        file.write(str(pid))


def _pid_file(names, name):
    return os.path.join(names.state, f"{name}.pid")


def pid_of(names, name):
    """The process of `controller` or `agent-NODE`, or None when it does not run."""
    try:
        with open(_pid_file(names, name)) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/stat") as stat:
            return None if stat.read().rsplit(")", 1)[1].split()[0] in "ZX" else pid
    except (OSError, ValueError):
        return None


def _stop(names, name, number, seconds):
    pid = pid_of(names, name)
    if pid is None:
        return
    os.kill(pid, number)
    wait_until(lambda: pid_of(names, name) is None or _reaped(pid), seconds, f"{name} (pid {pid}) has not ended")


def _reaped(pid):
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid  # only when it is our own child
    except ChildProcessError:
        return False


# ---- controller -----------------------------------------------------------------------------------------------------

def controller_cgroup(names):
    return os.path.join(cgroups.lab_root(names.lab), "controller")


def controller_config(names):
    path = os.path.join(names.controller_directory(), "config.yaml")
    os.makedirs(names.controller_directory(), mode=0o755, exist_ok=True)
    os.makedirs(names.source_directory(), exist_ok=True)
    with open(path, "w") as file:
        yaml.safe_dump({"listen": CONTROLLER, "source": {"directory": names.source_directory()},
                        "certificates": {"maxTtl": CERTIFICATE_TTL},
                        "stateDirectory": os.path.join(names.controller_directory(), "state")}, file)
    return path


def start_controller(names):
    if pid_of(names, "controller"):
        return
    config = controller_config(names)
    _start(names, "controller", [binary("fairlead-controller"), "--config", config], names.hub, controller_cgroup(names))
    root = os.path.join(names.controller_directory(), "state", "root-cert.pem")
    wait_until(lambda: os.path.exists(root) or pid_of(names, "controller") is None, 10, "the controller has not started")
    if pid_of(names, "controller") is None:
        raise LabError("the controller ended at once: see `lab logs controller`")


def stop_controller(names, number=signal.SIGTERM):
    _stop(names, "controller", number, 10)


def controller_status(names):
    path = os.path.join(names.controller_directory(), "state", "status.json")
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def wait_for_verdict(names):
    """After a start: until the controller has judged the objects. What it refuses is raised."""
    status = wait_until(lambda: (lambda found: found if found.get("version") or found.get("problems") else None)(controller_status(names)),
                        10, "the controller has not read the objects")
    if not status["good"]:
        raise LabError("the controller refuses the objects:\n" + "\n".join(status["problems"]))


def remarks(names, state):
    """What the controller has to say about the objects, one line each. The stand-in reads NetworkPolicies, it does not."""
    status = controller_status(names)
    ignored = [f"{report['file']}: {report['object']}: {report['message']}" for report in status.get("reports", [])
               if report["severity"] == "info" and "not read" in report["message"]
               and not (report["object"].startswith("NetworkPolicy ") and state["standin"] != "none")]
    return status.get("problems", []) + ignored


# ---- agents ---------------------------------------------------------------------------------------------------------

def ensure_bpffs():
    with open("/proc/mounts") as mounts:
        if not any(line.split()[1:3] == [BPF_ROOT, "bpf"] for line in mounts):
            run("mount", "-t", "bpf", "bpf", BPF_ROOT)


def agent_config(names, node):
    directory = names.node_directory(node)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    controller = controller_config(names)
    token = os.path.join(directory, "token")
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(run(binary("fairlead-controller"), "token", "--config", controller, "--node", node))
    os.chown(token, PROXY_UID, PROXY_UID)
    roots = bring_roots(names, node)
    path = os.path.join(directory, "agent.yaml")
    with open(path, "w") as file:
        yaml.safe_dump({"node": node, "runDirectory": names.run_directory(node), "bpfDirectory": names.bpf_directory(node),
                        "proxy": {"user": PROXY_UID, "seccomp": os.environ.get("FAIRLEAD_SECCOMP", "enforce")},
                        "certificates": {"ttl": CERTIFICATE_TTL},
                        "drain": {"deadline": "5s"},
                        "log": {"level": os.environ.get("FAIRLEAD_LOG", "info")},
                        "controller": {"address": CONTROLLER_NAME or CONTROLLER, "roots": roots, "token": token}}, file)
    return path


def bring_roots(names, node):
    """What the controller is known by, to where the agent reads it; replaced in one go, as a projected volume would be."""
    roots = os.path.join(names.node_directory(node), "root-cert.pem")
    with open(os.path.join(names.controller_directory(), "state", "root-cert.pem")) as source, open(roots + ".new", "w") as file:
        file.write(source.read())
    os.rename(roots + ".new", roots)
    return roots


def change_root(names, step):
    """One of add, use, retire; raises LabError when it is not its turn or not its time."""
    return run(binary("fairlead-controller"), "root", step, "--config", controller_config(names))


def _agent_start(names, node):
    """What _spawn and _start want to know of an agent."""
    ensure_bpffs()
    config = agent_config(names, node)
    return (names, f"agent-{node}", [binary("fairlead-agent"), "--config", config], names.node_netns(node),
            cgroups.system(names.lab, node))


def start_agent(names, node):
    if not pid_of(names, f"agent-{node}"):
        _start(*_agent_start(names, node))


def spawn_successor(names, node):
    """A second agent beside the one that runs."""
    return _spawn(*_agent_start(names, node))


def upgrade_agent(names, node, seconds=90):
    """A successor takes over from the agent that runs, which ends; or the successor ends, and this raises LabError."""
    name = f"agent-{node}"
    old = pid_of(names, name)
    if old is None:
        raise LabError(f"the agent of {node} does not run: `scripts/lab agent {node} start` is what you want")
    successor = spawn_successor(names, node)
    wait_until(lambda: successor.poll() is not None or pid_of(names, name) is None or _reaped(old), seconds,
               f"neither the agent of {node} (pid {old}) nor its successor (pid {successor.pid}) has ended")
    if successor.poll() is not None:
        raise LabError(f"the successor of the agent of {node} has ended with status {successor.returncode}: see `lab logs {node}`")
    _remember(names, name, successor.pid)
    return successor.pid


def wait_for_agent(names, node, seconds=20):
    """Until the agent's proxy has the mesh in force and a certificate for every identity of its pods."""
    def ready():
        if pid_of(names, f"agent-{node}") is None:
            raise LabError(f"the agent of {node} ended: see `lab logs {node}`")
        status = quietly(keeper, names, node, "status")
        if not status or not status["proxyReady"]:
            return False
        certs = quietly(proxy, names, node, "certs")
        identities = {(pod["namespace"], pod["serviceAccount"]) for pod in keeper(names, node, "pods")}
        return certs is not None and len(certs) >= len(identities) and all(cert["ready"] for cert in certs)
    wait_until(ready, seconds, f"the agent of {node} is not ready")


def stop_agent(names, node, number=signal.SIGTERM):
    _stop(names, f"agent-{node}", number, 15)


def kill_proxy(names, node):
    status = keeper(names, node, "status")
    os.kill(status["proxyPid"], signal.SIGKILL)
    return status["proxyPid"]


def pod_spec(names, pod):
    """What a keeper is told of a pod."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return {"uid": pod["metadata"]["uid"], "namespace": namespace, "name": name,
            "serviceAccount": pod["spec"].get("serviceAccountName", "default"),
            "netns": "/run/netns/" + names.pod_netns(namespace, name),
            "cgroup": cgroups.pod(names.lab, pod["spec"]["nodeName"], pod["metadata"]["uid"]),
            "annotations": pod["metadata"].get("annotations", {})}


def enrol(names, pod):
    spec = pod_spec(names, pod)
    try:
        keeper(names, pod["spec"]["nodeName"], "pod.add " + json.dumps(spec))
    except LabError as error:
        raise LabError(f"pod {spec['namespace']}/{spec['name']} is not enrolled on {pod['spec']['nodeName']}: {error}")


def dismiss(names, pod):
    quietly(keeper, names, pod["spec"]["nodeName"], "pod.remove " + json.dumps({"uid": pod["metadata"]["uid"]}))


def remove_pins(path):
    """Unpins a directory of bpffs; the links go with their pins."""
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


