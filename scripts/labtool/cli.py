"""The command line of the lab."""
import json
import os
import sys

from . import lab as verbs
from . import manifests, mesh, state as memory
from .paths import Names
from .shell import LabError

HELP = """Usage: scripts/lab VERB [ARGUMENTS] [--name LAB]      (LAB is "lab" unless given)

  up DIR|FILE… [--no-mesh] [--standin before|after|none]
                          nodes, pods, Services and the mesh from Kubernetes manifests; a pod's process comes from its
                          annotation lab.fairlead.dev/run
  exec NS/POD -- CMD…     run a command inside a pod (its network namespace, cgroup and names)
  apply FILE…             create or change objects      delete FILE…    remove them
  agent NODE start|stop|kill|restart [--proxy]          (stop: SIGTERM, kill: SIGKILL; --proxy: kill only its proxy)
  agent NODE upgrade      start a successor beside the agent: it takes over, and the old one ends
  controller start|stop|kill|restart
  logs NODE|controller|NS/POD                           what it printed
  fairlead NODE -- ARGS…  the CLI of that node's agent: `scripts/lab fairlead node1 -- connection list`
  status | list | down

Environment: FAIRLEAD_LOG=debug, FAIRLEAD_CERTIFICATE_TTL=20s (of workloads), FAIRLEAD_SLOWER=3 (deadlines), FAIRLEAD_SECCOMP=audit
Exit status: 0 ok, 1 failure, 2 usage; exec passes on that of its command.
"""


class Usage(Exception):
    pass


def _take_option(arguments, name, has_value=True):
    """Removes an option wherever it stands and returns its value."""
    for at, word in enumerate(arguments):
        if has_value and word.startswith(name + "="):
            arguments[at:at + 1] = [name, word[len(name) + 1:]]
    if name not in arguments:
        return None
    at = arguments.index(name)
    if not has_value:
        del arguments[at]
        return True
    if at + 1 >= len(arguments):
        raise Usage(f"{name} wants a value")
    value = arguments[at + 1]
    del arguments[at:at + 2]
    return value


def _check(verb, arguments, least, most):
    """The arguments that are left when the options are taken."""
    unknown = [word for word in arguments if word.startswith("-")]
    if unknown:
        raise Usage(f"{verb}: unknown option '{unknown[0]}'")
    if len(arguments) > most:
        raise Usage(f"{verb}: unexpected '{arguments[most]}'; a lab is named by --name")
    if len(arguments) < least:
        raise Usage(f"{verb}: something is missing")


def main(argv):
    try:
        return _main(list(argv)) or 0
    except Usage as error:
        print(f"lab: {error}\n\n{HELP}", file=sys.stderr, end="")
        return 2
    except (LabError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _main(argv):
    command = []
    if "--" in argv:  # everything behind it belongs to the command
        command = argv[argv.index("--") + 1:]
        argv = argv[:argv.index("--")]
    lab = _take_option(argv, "--name") or "lab"
    memory.check_name(lab)
    if not argv or argv[0] in ("help", "--help", "-h"):
        print(HELP, end="")
        return 0 if argv else 2
    verb, arguments = argv[0], argv[1:]
    handler = {"up": _up, "down": _down, "exec": _exec, "apply": _apply, "delete": _delete, "agent": _agent,
               "controller": _controller, "logs": _logs, "status": _status, "list": _list, "fairlead": _fairlead}.get(verb)
    if handler is None:
        raise Usage(f"unknown verb '{verb}'")
    if os.geteuid() != 0 and verb != "list":
        raise LabError("needs root: network namespaces, cgroups and BPF")
    return handler(lab, arguments, command)


def _up(lab, arguments, _):
    no_mesh = _take_option(arguments, "--no-mesh", has_value=False)
    stand_in = _take_option(arguments, "--standin") or "before"
    if stand_in not in ("before", "after", "none"):
        raise Usage("--standin: before, after or none")
    if not arguments:
        raise Usage("up: which manifests?")
    _check("up", arguments, 1, len(arguments))
    verbs.up(lab, arguments, with_mesh=not no_mesh, stand_in=stand_in)
    _remark(lab)
    print(f"lab '{lab}' is up: `scripts/lab status --name {lab}`")


def _remark(lab):
    names = Names(lab)
    for line in mesh.remarks(names, memory.load(names)):
        print(f"lab: {line}", file=sys.stderr)


def _down(lab, arguments, _):
    _check("down", arguments, 0, 0)
    print(f"lab '{lab}' is down" if verbs.down(lab) else f"no lab '{lab}': nothing to do")


def _exec(lab, arguments, command):
    if len(arguments) != 1 or not command:
        raise Usage("exec NS/POD -- CMD…")
    verbs.exec_in(lab, arguments[0], command)


def _apply(lab, arguments, _):
    if not arguments:
        raise Usage("apply FILE…")
    _check("apply", arguments, 1, len(arguments))
    verbs.apply(lab, arguments)
    _remark(lab)


def _delete(lab, arguments, _):
    if not arguments:
        raise Usage("delete FILE…")
    _check("delete", arguments, 1, len(arguments))
    verbs.delete(lab, arguments)


def _agent(lab, arguments, _):
    only_proxy = _take_option(arguments, "--proxy", has_value=False)
    if len(arguments) != 2 or arguments[1] not in ("start", "stop", "kill", "restart", "upgrade"):
        raise Usage("agent NODE start|stop|kill|restart|upgrade")
    if only_proxy and arguments[1] != "kill":
        raise Usage("--proxy goes with kill")
    verbs.agent(lab, arguments[0], arguments[1], only_proxy=bool(only_proxy))


def _controller(lab, arguments, _):
    if len(arguments) != 1 or arguments[0] not in ("start", "stop", "kill", "restart"):
        raise Usage("controller start|stop|kill|restart")
    verbs.controller(lab, arguments[0])


def _logs(lab, arguments, _):
    if len(arguments) != 1:
        raise Usage("logs NODE|controller|NS/POD")
    names, name = Names(lab), arguments[0]
    state = memory.load(names)
    if name in state["nodes"]:
        name = f"agent-{name}"
    try:
        with open(names.log(name)) as file:
            sys.stdout.write(file.read())
    except FileNotFoundError:
        raise LabError(f"nothing was printed by '{arguments[0]}'")


def _fairlead(lab, arguments, command):
    if len(arguments) != 1 or not command:
        raise Usage("fairlead NODE -- ARGS…")
    from .paths import binary
    names = Names(lab)
    state = memory.load(names)
    if arguments[0] not in state["nodes"]:
        raise LabError(f"no node {arguments[0]}; there are: {', '.join(state['nodes'])}")
    os.execv(binary("fairlead"), ["fairlead", "--run-dir", names.run_directory(arguments[0]), *command])


def _status(lab, arguments, _):
    _check("status", arguments, 0, 0)
    names = Names(lab)
    state = memory.load(names)
    print(f"lab {lab}   controller {'runs' if mesh.pid_of(names, 'controller') else 'stopped'}   stand-in {state['standin']}")
    for remark in mesh.remarks(names, state):
        print(f"  {remark}")
    for node in state["nodes"]:
        status = mesh.quietly(mesh.proxy, names, node, "status")
        running = mesh.pid_of(names, f"agent-{node}")
        line = "stopped" if not running else "starting" if not status else \
            f"ready={json.dumps(status['ready'])} connections={sum(status['connections'].values())} tunnels={status['tunnels']['open']}"
        print(f"  {node:12} agent {line}")
    for pod in memory.pods(state):
        metadata = pod["metadata"]
        place = "mesh" if state["mesh"] and manifests.is_enrolled(pod, state["objects"]) else "outside"
        print(f"  {pod['spec']['nodeName']:12} {metadata['namespace'] + '/' + metadata['name']:32} {place:8}"
              + " ".join(entry["ip"] for entry in pod["status"]["podIPs"]))


def _list(lab, arguments, _):
    _check("list", arguments, 0, 0)
    for name in verbs.labs():
        print(name)
