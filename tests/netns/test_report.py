"""`why --watch`, connections that could not be made, and `dump`: on a mesh that lives, and on one that is half dead."""
import glob
import json
import os
import select
import signal
import stat
import subprocess

from bed import binary, eventually, is_refused, lab
from test_cli import POLICY, ask, fairlead, something_to_see

SECTIONS = {"keeper", "proxy", "configuration", "pods", "workloads", "services", "policies", "connections", "certificates", "decisions", "check",
            "bpfPrograms", "bpfMaps", "bpfLinks"}


class Watch:
    """`fairlead why --watch` at work."""

    def __init__(self, bed, *words, node="node2"):
        self.child = subprocess.Popen([binary("fairlead"), "--run-dir", bed.names.run_directory(node), "why", "--watch", *words],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        self._pending = {self.child.stdout: b"", self.child.stderr: b""}

    def line(self, stream=None, seconds=20):
        stream = stream or self.child.stdout
        while b"\n" not in self._pending[stream]:
            ready, _, _ = select.select([stream], [], [], seconds)
            assert ready, f"no line came; so far {self._pending}"
            got = os.read(stream.fileno(), 65536)
            assert got, f"it ended: {self.child.wait(5)} {self.child.stderr.read()}"
            self._pending[stream] += got
        text, _, self._pending[stream] = self._pending[stream].partition(b"\n")
        return text.decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.child.stdout.close()
        self.child.stderr.close()


def refusal(bed, reason, node="node1"):
    def found():
        rows = ask(bed, "why", "--filter", "direction=outbound", node=node)
        return next((row for row in rows if row["reason"] == reason), None) or print(rows[:2])
    return eventually(found, 10, f"why does not tell of: {reason}")


def test_decisions_are_shown_as_they_come(bed):
    with bed.applied(POLICY, "AuthorizationPolicy/back/golden"):
        eventually(lambda: "failed" in bed.call("front/other", "who", to=["far.back", 80]), 10, "the policy is not in force")
        with Watch(bed, "-n", "0", "-o", "json", "--filter", "namespace=back") as every, \
                Watch(bed, "-n", "0", "--denied", "--filter", "principal~*/sa/other") as refused:
            # Both have begun to look when they show one that came later than they.
            sync = bed.call("front/web", "who", to=["far.back", 80])
            assert sync["pod"] == "api-1"
            eventually(lambda: bed.call("front/web", "who", to=["far.back", 80]) and select.select([every.child.stdout], [], [], 0.3)[0], 20,
                       "nothing is shown")
            assert is_refused(bed.call("front/other", "who", to=["far.back", 80]))
            row = json.loads(every.line())
            while row["allowed"]:
                assert row["principal"].endswith("/sa/web") and row["namespace"] == "back", row
                row = json.loads(every.line())
            assert row["principal"].endswith("/sa/other") and row["policy"] == "back/golden"
            assert "DENIED" in refused.line()
            for watch in (every, refused):
                watch.child.send_signal(signal.SIGINT)
                assert watch.child.wait(10) == 0
                assert watch.child.stderr.read() == b""


def test_why_tells_what_a_pod_could_not_reach(bed):
    web = "front/web"
    vip, address = bed.ip("svc/back/far"), bed.ip("back/api-1")
    assert is_refused(bed.call(web, "who", to=[vip, 81]))
    row = refusal(bed, "the service has no endpoint for this port")
    assert row["pod"] == web and row["destination"] == f"{vip}:81" and row["service"].startswith("back/far") and not row["allowed"]
    assert row["principal"].endswith("/ns/front/sa/web")
    assert is_refused(bed.call(web, "who", to=[address, 9]))
    row = refusal(bed, "the application did not accept")
    assert row["endpoint"] == f"{address}:9" and "503" in row["detail"]
    with bed.applied(POLICY, "AuthorizationPolicy/back/golden"):
        eventually(lambda: "failed" in bed.call("front/other", "who", to=["far.back", 80]), 10, "the policy is not in force")
        row = refusal(bed, "the policy of the destination does not let it in")
        assert row["pod"] == "front/other"
    table = fairlead(bed, "why", "--denied", "--filter", "direction=outbound,detail~*503*", node="node1").stdout
    assert "DENIED   front/web from" in table and f"to {address}:9: the application did not accept (the peer answered 503)" in table


def dump(bed, path, node="node2"):
    done = fairlead(bed, "dump", str(path), node=node)
    with open(path) as file:
        return done, file.read()


def test_a_dump_holds_everything_and_no_secret(bed, tmp_path):
    with something_to_see(bed):
        done, text = dump(bed, tmp_path / "report.json")
    assert done.returncode == 0 and done.stdout == "", done
    assert stat.S_IMODE(os.stat(tmp_path / "report.json").st_mode) == 0o600
    document = json.loads(text)
    assert set(document) == SECTIONS | {"fairlead", "time", "kernel", "runDirectory"}
    for name in SECTIONS:
        assert set(document[name]) == {"data"} and document[name]["data"], name
    assert {pod["name"] for pod in document["pods"]["data"]} == {pod["name"] for pod in bed.keeper("node2", "pods")}
    token_file = document["configuration"]["data"]["controller"]["tokenFile"]
    with open(token_file) as file:
        token = file.read().strip()
    assert len(token) > 20 and "PRIVATE KEY" not in text
    for part in [token, *(part for part in token.split(".") if len(part) > 20)]:
        assert part not in text, "the agent's token is in the dump"
    keys = [path for path in glob.glob(os.path.join(bed.names.controller_directory(), "**"), recursive=True)
            if os.path.isfile(path) and b"PRIVATE KEY" in open(path, "rb").read()]
    assert keys, "the development CA has a key somewhere"
    for path in keys:
        for line in open(path).read().splitlines():
            assert len(line) < 40 or line not in text, f"a line of {path} is in the dump"
    again, _ = dump(bed, tmp_path / "report.json")
    assert again.returncode == 1 and "exists" in again.stderr, "what is there stays"
    assert json.loads(fairlead(bed, "dump").stdout)["keeper"] and json.loads(fairlead(bed, "dump", "-").stdout)["keeper"]


def test_half_a_dump_is_better_than_none(own_bed, tmp_path):
    lab.agent(own_bed.lab, "node2", "kill")
    try:
        done, text = dump(own_bed, tmp_path / "dead.json")
        assert done.returncode == 3, done
        document = json.loads(text)
        assert "error" in document["keeper"] and "error" in document["connections"] and document["bpfLinks"]["data"] and document["check"]["data"]
        assert is_refused(own_bed.call("front/web", "who", to=["api.front", 80], seconds=60))
        row = refusal(own_bed, "no tunnel to the endpoint")
        assert row["pod"] == "front/web" and row["service"].startswith("front/api") and row["detail"]
    finally:
        lab.agent(own_bed.lab, "node2", "start")
    # A proxy that stands still answers nobody; its keeper does.
    eventually(lambda: own_bed.keeper("node2", "status")["proxyReady"], 20)
    pid = own_bed.keeper("node2", "status")["proxyPid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = fairlead(own_bed, "--timeout", "1", "dump")
        assert done.returncode == 1 and "in time" in done.stderr, done
        document = json.loads(done.stdout)
        assert document["keeper"]["data"]["proxyPid"] == pid and document["pods"]["data"] and "in time" in document["workloads"]["error"]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_watch_outlives_the_proxy(own_bed):
    pid = eventually(lambda: own_bed.keeper("node2", "status")["proxyReady"] and own_bed.keeper("node2", "status")["proxyPid"], 20)
    assert own_bed.call("front/web", "who", to=["api.front", 80])["pod"] == "api"
    with Watch(own_bed, "-n", "1", "-o", "json") as watch:
        assert json.loads(watch.line())["pod"] == "front/api"
        os.kill(pid, signal.SIGKILL)
        said = watch.line(watch.child.stderr)
        if "waiting" in said:
            said = watch.line(watch.child.stderr)
        assert "restarted" in said, said
        eventually(lambda: own_bed.call("front/web", "who", to=["api.front", 80]).get("pod") == "api", 30, "the mesh is not back")
        assert json.loads(watch.line())["pod"] == "front/api"
        watch.child.send_signal(signal.SIGINT)
        assert watch.child.wait(10) == 0
