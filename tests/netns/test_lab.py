"""The lab itself: it leaves nothing behind, labs live side by side, errors say what to do."""
import json
import os
import subprocess

import pytest

from bed import HERE, MANIFESTS, Bed, LabError, eventually, lab, memory, mesh

SCRIPT = os.path.join(HERE, "..", "..", "scripts", "lab")


def traces(name):
    """Everything on the machine that carries the lab's name."""
    found = {"netns": [ns for ns in os.listdir("/run/netns")] if os.path.isdir("/run/netns") else [],
             "cgroups": [path for path, _, _ in os.walk(lab.cgroups.root())],
             "pins": [os.path.join(path, file) for path, _, files in os.walk("/sys/fs/bpf") for file in files],
             "mounts": open("/proc/self/mounts").read().splitlines(),
             "state": [path for path, _, _ in os.walk("/run/fairlead-lab")]}
    processes = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup") as groups, open(f"/proc/{pid}/cmdline") as command, open(f"/proc/{pid}/stat") as stat:
                text = groups.read() + command.read()
                dead = stat.read().rsplit(")", 1)[1].split()[0] in "ZX"  # `up` ran in this process, which does not wait for them
        except OSError:
            continue
        if dead:
            continue
        processes += [pid] if f"/{name}" in text else []
    return {**{kind: sorted(line for line in lines if name in line) for kind, lines in found.items()}, "processes": processes}


def bpftool(*arguments):
    done = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}


def links_of(name):
    """(link id, program id) of every link that the lab has pinned."""
    found = set()
    for path in traces(name)["pins"]:
        link = bpftool("link", "show", "pinned", path)
        if isinstance(link, dict) and "prog_id" in link:
            found.add((link["id"], link["prog_id"]))
    return found


def alive(links):
    return [link for link in links if "id" in bpftool("prog", "show", "id", str(link[1]))]


def fds():
    return len(os.listdir("/proc/self/fd"))


NOTHING = {"netns": [], "cgroups": [], "pins": [], "mounts": [], "state": [], "processes": []}


@pytest.fixture
def fresh():
    made = Bed(f"nl{os.getpid()}", manifest="small.yaml")
    try:
        yield made
    finally:
        made.down()


def answers(bed):
    return eventually(lambda: bed.call("front/web", "who", to=["api.front", 80]).get("pod"), 15, "no answer")


def test_down_leaves_nothing(fresh):
    assert traces(fresh.lab) == NOTHING
    open_before = fds()
    fresh.up()
    answers(fresh)
    there = traces(fresh.lab)
    assert all(there[kind] for kind in NOTHING if kind != "mounts"), there
    links = links_of(fresh.lab)
    assert len(links) > 10 and len(alive(links)) == len(links)
    fresh.down()
    assert traces(fresh.lab) == NOTHING
    assert fds() == open_before
    eventually(lambda: not alive(links), 10, "BPF programs stay loaded")


def test_down_after_everything_was_killed(fresh):
    fresh.up()
    answers(fresh)
    for node in fresh.state["nodes"]:
        lab.agent(fresh.lab, node, "kill")
    lab.controller(fresh.lab, "kill")
    os.unlink(os.path.join(fresh.names.state, "state.json"))  # as if `up` had died before it wrote it
    fresh.down()
    assert traces(fresh.lab) == NOTHING


@pytest.mark.parametrize("step", ["topology.make_hub", "topology.route_hub", "pods.create", "mesh.start_controller",
                                  "mesh.start_agent", "mesh.enrol", "pods.start_process"])
def test_down_after_up_failed_half_way(fresh, step, monkeypatch):
    module, name = step.split(".")
    real = getattr(getattr(lab, module), name)

    def fails(*arguments):
        real(*arguments)
        raise KeyboardInterrupt
    monkeypatch.setattr(getattr(lab, module), name, fails)
    with pytest.raises(KeyboardInterrupt):
        fresh.up()
    fresh.down()
    assert traces(fresh.lab) == NOTHING


def test_two_labs_side_by_side(fresh, bed):
    """The same addresses in both; neither hears of the other."""
    fresh.up()
    assert answers(fresh) == "api"
    assert bed.call("front/web", "who", to=["far.back", 80])["pod"] == "api-1"
    assert fresh.lab in lab.labs() and bed.lab in lab.labs()
    fresh.down()
    assert bed.call("front/web", "who", to=["far.back", 80])["pod"] == "api-1"


def test_without_mesh(fresh):
    fresh.with_mesh = False
    fresh.up()
    answer = fresh.call("front/web", "who", to=[fresh.ip("front/api"), 8080])
    assert answer["pod"] == "api" and answer["peer"] == answer["sees_self"]
    assert mesh.pid_of(fresh.names, "controller") is None
    fresh.down()
    assert traces(fresh.lab) == NOTHING


def test_up_twice_is_an_error(bed):
    with pytest.raises(LabError, match="is up already"):
        lab.up(bed.lab, [MANIFESTS])


# ---- the command line -----------------------------------------------------------------------------------------------------


def script(*arguments, **how):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60, **how)


def test_exec_passes_status_and_streams(bed):
    done = script("exec", "front/web", "--name", bed.lab, "--", "sh", "-c", "cat; echo err >&2; exit 7", input="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")


def test_exec_runs_in_the_pods_world(bed):
    done = script("--name", bed.lab, "exec", "front/web", "--", "sh", "-c", "cat /proc/self/cgroup; getent hosts far.back; ip -o addr")
    uid = bed.pod("front/web")["metadata"]["uid"]
    assert f"kubepods/pod{uid}" in done.stdout and bed.ip("front/web") in done.stdout
    assert bed.ip("svc/back/far", "6") in done.stdout or bed.ip("svc/back/far") in done.stdout


def test_short_names_hold_in_their_own_namespace_only(bed):
    assert script("exec", "back/api-1", "--name", bed.lab, "--", "getent", "hosts", "near").returncode == 0
    assert script("exec", "front/web", "--name", bed.lab, "--", "getent", "hosts", "near").returncode != 0


@pytest.mark.parametrize("arguments, status, text", [
    (["fly"], 2, "unknown verb"), ([], 2, "Usage"), (["exec", "front/web"], 2, "exec"), (["up"], 2, "which manifests"),
    (["up", "/no/such"], 1, "no such file"), (["status"], 1, "no lab"), (["up", "x", "--standin", "maybe"], 2, "standin"),
    (["status", "--name", "Nope!"], 1, "lab name")], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_usage(arguments, status, text):
    name = [] if "--name" in arguments else ["--name", f"none{os.getpid()}"]
    done = script(*arguments, *name)
    try:
        assert done.returncode == status, done
        assert text in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    finally:
        script("down", *name)


def test_down_of_an_unknown_lab(bed):
    done = script("down", "--name", "nobody-knows-it")
    assert done.returncode == 0 and "nothing to do" in done.stdout


def test_manifest_error_has_file_and_line(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: Pod\nmetadata: {name: a\n  b: [\n")
    done = script("up", str(broken), "--name", f"none{os.getpid()}")
    assert done.returncode == 1 and f"{broken}:" in done.stderr and "Traceback" not in done.stderr
    assert script("down", "--name", f"none{os.getpid()}").returncode == 0


def test_status_and_logs(bed):
    status = script("status", "--name", bed.lab).stdout
    assert "front/web" in status and "node2" in status and "ready=true" in status
    assert "enrolled" in script("logs", "node1", "--name", bed.lab).stdout
    assert "accepted" in script("logs", "back/api-1", "--name", bed.lab).stdout
    assert script("logs", "no/body", "--name", bed.lab).returncode == 1
