"""The `fairlead` command on a live mesh: every noun, every format, and what scripts may rely on (tests/golden/live)."""
import contextlib
import ctypes
import json
import os
import re
import subprocess

import pytest
import yaml

from bed import HERE, binary, eventually, lab, pods, shell

GOLDEN = os.path.join(HERE, "..", "golden", "live")
SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
BPF_ENABLE_STATS = 32
NOUNS = ["status", "pod list", "workload list", "service list", "policy list", "connection list", "cert list", "why", "bpf progs",
         "bpf maps", "bpf links", "check"]
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: golden, namespace: back}
spec: {action: DENY, selector: {matchLabels: {app: api, number: "1"}}, rules: [{from: [{source: {principals: ["*/sa/other"]}}]}]}
"""


def fairlead(bed, *words, node="node2", enter=None):
    return subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory(node), *words], text=True, capture_output=True,
                          preexec_fn=enter or (lambda: shell.enter_netns(bed.names.node_netns(node))))


def ask(bed, *words, **how):
    done = fairlead(bed, *words, "-o", "json", **how)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


@contextlib.contextmanager
def something_to_see(bed):
    """A policy, a connection that lives, a decision of either kind."""
    with bed.applied(POLICY, "AuthorizationPolicy/back/golden"):
        hand = bed.new_hand("front/web")
        try:
            eventually(lambda: "failed" in bed.call("front/other", "who", to=["far.back", 80]), 10, "the policy is not in force")
            hand.start("keep", to=["far.back", 80])
            assert "sees_peer" in hand.answer()
            yield
        finally:
            hand.close()


def shape(value):
    """Names and kinds of everything in a document; a list's items are merged into one."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [merged([shape(item) for item in value])] if value else []
    return "nothing" if value is None else type(value).__name__


def merged(kinds):
    if all(isinstance(kind, dict) for kind in kinds):
        return {key: merged([kind.get(key, "missing") for kind in kinds]) for key in set().union(*kinds)}
    if all(isinstance(kind, list) for kind in kinds):
        items = [item for kind in kinds for item in kind]
        return [merged(items)] if items else []
    return " or ".join(sorted(set(map(str, kinds))))


def check_golden(name, text):
    path = os.path.join(GOLDEN, name)
    if os.environ.get("FAIRLEAD_UPDATE_GOLDEN"):
        os.makedirs(GOLDEN, exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
    with open(path) as file:
        assert text == file.read(), f"{name}: if this is meant, FAIRLEAD_UPDATE_GOLDEN=1 records it"


@pytest.mark.parametrize("noun", NOUNS)
def test_noun(bed, noun):
    with something_to_see(bed):
        words = noun.split()
        document = ask(bed, *words)
        assert document, "nothing to see"
        check_golden(noun.replace(" ", "-") + ".json", json.dumps(shape(document), indent=1, sort_keys=True) + "\n")
        as_yaml = yaml.safe_load(fairlead(bed, *words, "-o", "yaml").stdout)
        assert shape(as_yaml) == shape(document)
        table = fairlead(bed, *words)
        assert table.returncode == 0 and table.stdout, table
        if noun not in ("status", "why"):
            headers = re.split(" {2,}", table.stdout.splitlines()[0])
            check_golden(noun.replace(" ", "-") + ".txt", "\n".join(headers) + "\n")


def test_a_filter_finds_the_connection_on_either_side(bed):
    with something_to_see(bed):
        client = next(row for row in ask(bed, "connection", "list") if row["direction"] == "inbound" and row["peer"].endswith("/sa/web"))
        assert client["remoteAddress"] in (bed.ip("front/web"), bed.ip("front/web", "6"))
        seen = ask(bed, "connection", "list", "--filter",
                   f"namespace=back,peer~*/ns/front/sa/web,remoteAddress={client['remoteAddress']},remotePort={client['remotePort']},ageMs<1h")
        assert [row["id"] for row in seen] == [client["id"]]
        out = ask(bed, "connection", "list", "--filter", "direction=outbound,pod=front/web,service~back/far.*,tunnel!=none", node="node1")
        assert out and all(row["endpoint"] in (f"{row['remoteAddress']}:{row['remotePort']}", f"[{row['remoteAddress']}]:{row['remotePort']}")
                           for row in out), out
        assert ask(bed, "connection", "list", "--filter", "pod~back/*,peer~*/sa/other") == []
        assert all(not row["allowed"] for row in ask(bed, "why", "--filter", "allowed=false,policy=back/golden,time>-10m"))


@pytest.mark.parametrize("noun", ["bpf progs", "bpf maps", "bpf links", "check"])
def test_every_key_of_what_the_kernel_tells_can_be_filtered_by(bed, noun):
    rows = ask(bed, *noun.split())
    for key in set().union(*rows):
        done = fairlead(bed, *noun.split(), "-o", "json", "--filter", f"{key}!=", "--filter", f"{key}=")
        assert done.returncode == 0 and json.loads(done.stdout) == [], (key, done)
    some = ask(bed, *noun.split(), "--filter", "state!=fail" if noun == "check" else "owner=fairlead")
    assert 0 < len(some) <= len(rows)


def test_links_name_their_pods(bed):
    links = [link for link in ask(bed, "bpf", "links") if link["owner"] == "fairlead"]
    assert len(links) == 8 * len(bed.keeper("node2", "pods"))
    assert {link["attachType"] for link in links} == {
        "cgroup_inet4_connect", "cgroup_inet6_connect", "cgroup_inet4_getpeername", "cgroup_inet6_getpeername",
        "cgroup_inet4_getsockname", "cgroup_inet6_getsockname", "cgroup_sock_ops", "sk_lookup"}
    enrolled = {f"{pod['namespace']}/{pod['name']}" for pod in bed.keeper("node2", "pods")}
    assert {link["pod"] for link in links} == enrolled, "a link of ours belongs to no pod"
    assert all(link["targetKind"] in ("cgroup", "netns") for link in links)


def test_links_of_others_are_there_too(bed):
    if bed.stand_in == "none":
        pytest.skip("nobody else holds hooks")
    others = [link for link in ask(bed, "bpf", "links") if link["owner"] == "other" and f"/{bed.lab}/node2" in link["target"]]
    assert {"standin_conn4", "standin_conn6"} <= {link["program"] for link in others}


def test_map_fill_is_told(bed):
    maps = {entry["name"]: entry for entry in ask(bed, "bpf", "maps") if entry["owner"] == "fairlead"}
    assert maps["fl_pods"]["entries"] == len(bed.keeper("node2", "pods"))
    assert 0 < maps["fl_dests"]["entries"] <= maps["fl_dests"]["maxEntries"]


@contextlib.contextmanager
def run_statistics():
    """bpf(BPF_ENABLE_STATS): as long as the fd is open, and whatever others do meanwhile."""
    attributes = ctypes.create_string_buffer(128)  # type 0: run time
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_BPF, BPF_ENABLE_STATS, attributes, len(attributes))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(fd)


def test_programs_tell_how_long_they_run(bed):
    with run_statistics():
        bed.call("front/web", "who", to=["far.back", 80], family="4")
    progs = {entry["name"]: entry for entry in ask(bed, "bpf", "progs", node="node1") if entry["owner"] == "fairlead"}
    for name in ("fl_connect4", "fl_sockops"):
        assert progs[name]["runCount"] > 0 and progs[name]["runTimeNs"] > 0 and progs[name]["nsPerRun"] > 0


def test_programs_are_measured_for_a_while(bed):
    """Statistics are on for as long as the command runs, and what ran before is not counted."""
    def switched_on():
        with open("/proc/sys/kernel/bpf_stats_enabled") as file:
            return file.read().strip() == "1"
    with run_statistics():
        bed.call("front/web", "who", to=["far.back", 80], family="4")
    earlier = {entry["id"]: entry["runCount"] for entry in ask(bed, "bpf", "progs", node="node1")}
    watch = subprocess.Popen([binary("fairlead"), "--run-dir", bed.names.run_directory("node1"), "-o", "json", "bpf", "progs", "--measure", "2"],
                             stdout=subprocess.PIPE, text=True)
    before = switched_on()

    def measured():  # it holds an fd of the kernel's statistics, has read the counts once, and sleeps until the second time
        with open(f"/proc/{watch.pid}/wchan") as file:
            sleeps = "nanosleep" in file.read()
        return sleeps and any("bpf-stats" in os.readlink(f"/proc/{watch.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{watch.pid}/fd"))
    eventually(measured, 5, "it does not measure")
    for _ in range(3):
        bed.call("front/web", "who", to=["far.back", 80], family="4")
    progs = {entry["name"]: entry for entry in json.loads(watch.communicate(timeout=30)[0]) if entry["owner"] == "fairlead"}
    assert watch.returncode == 0 and switched_on() == before
    assert progs["fl_connect4"]["runCount"] == 3 < 3 + earlier[progs["fl_connect4"]["id"]] and progs["fl_connect4"]["nsPerRun"] > 0
    assert progs["fl_connect6"]["runCount"] == 0 and progs["fl_connect6"]["nsPerRun"] == 0
    done = fairlead(bed, "bpf", "progs", "--measure", "0")
    assert done.returncode == 2 and "Try:" in done.stderr, done


def test_run_counts_that_are_off_are_no_silent_zeros(bed):
    with open("/proc/sys/kernel/bpf_stats_enabled") as file:
        off = file.read().strip() == "0"
    assert ("bpf_stats_enabled" in fairlead(bed, "bpf", "progs").stderr) == off


def test_why_tells_who_was_refused_and_by_what(bed):
    with something_to_see(bed):
        denied = ask(bed, "why", "--denied", "-n", "1")
        assert len(denied) == 1 and not denied[0]["allowed"]
        assert denied[0]["policy"] == "back/golden" and denied[0]["rule"] == 0 and denied[0]["principal"].endswith("/sa/other")
        assert "DENIED" in fairlead(bed, "why", "--denied", "-n", "1").stdout


def test_check_is_content_with_this_node(bed):
    rows = {row["check"]: row for row in ask(bed, "check")}
    for name in ("cgroup2", "bpffs", "root-cgroup-ours", "root-cgroup-exclusive", "collisions", "agent"):
        assert rows[name]["state"] == "ok", rows[name]
    assert all(row["remedy"] for row in rows.values() if row["state"] != "ok"), "something is wrong and nothing is to be done"


def test_check_finds_somebody_else_on_a_hook_of_ours(bed):
    """Attached without a link, as older programs are."""
    if bed.stand_in == "none":
        pytest.skip("needs a program to attach")
    program = next(link["programId"] for link in ask(bed, "bpf", "links")
                   if link["program"] == "standin_conn4" and link["target"].endswith(f"/{bed.lab}/node2"))
    cgroup = pods.cgroup_of(bed.names, bed.pod("back/api-1"))
    shell.run("bpftool", "cgroup", "attach", cgroup, "cgroup_inet4_connect", "id", str(program), "multi")
    try:
        done = fairlead(bed, "check", "-o", "json")
        row = next(row for row in json.loads(done.stdout) if row["check"] == "collisions")
        assert row["state"] == "fail" and row["remedy"] and f"cgroup_inet4_connect on {cgroup}" in row["found"], row
        assert done.returncode == 1
        shown, = [link for link in ask(bed, "bpf", "links") if link["target"] == cgroup and link["owner"] == "other"]
        assert shown["program"] == "standin_conn4" and shown["id"] is None and shown["pod"] == "back/api-1"
    finally:
        shell.run("bpftool", "cgroup", "detach", cgroup, "cgroup_inet4_connect", "id", str(program))
    assert fairlead(bed, "check").returncode == 0


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if not noun.startswith("bpf") and noun != "check"])
def test_other_users_are_told_to_be_root(bed, noun):
    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    done = fairlead(bed, *noun.split(), enter=nobody)
    assert done.returncode == 3 and done.stdout == "" and "sudo" in done.stderr, done
    done = fairlead(bed, "bpf", "links", enter=nobody)
    assert done.returncode == 1 and "root" in done.stderr, done


def test_without_an_agent_the_kernel_is_shown_all_the_same(own_bed):
    lab.agent(own_bed.lab, "node2", "kill")
    try:
        assert fairlead(own_bed, "status").returncode == 3
        assert ask(own_bed, "bpf", "links") and ask(own_bed, "bpf", "maps") and ask(own_bed, "bpf", "progs")
        rows = {row["check"]: row for row in ask(own_bed, "check")}
        assert rows["agent"]["state"] == "warn" and rows["agent"]["remedy"]
        assert rows["collisions"]["state"] == "ok"
    finally:
        lab.agent(own_bed.lab, "node2", "start")
