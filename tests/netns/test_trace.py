"""`fairlead bpf trace` on a live mesh: what it shows, and that it leaves nothing switched on however it ends."""
import json
import os
import select
import signal
import subprocess

import pytest

from bed import binary, eventually, lab, shell


class Trace:
    """One `fairlead bpf trace` that runs; its lines, as they come."""

    def __init__(self, bed, *words, node="node1", json_lines=True, ready=True):
        command = [binary("fairlead"), "--run-dir", bed.names.run_directory(node), *(["-o", "json"] if json_lines else []), "bpf", "trace", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                                        preexec_fn=lambda: shell.enter_netns(bed.names.node_netns(node)))
        self._buffers = {self.process.stdout: b"", self.process.stderr: b""}
        self.seen, self.json_lines = [], json_lines
        if ready:
            assert "tracing" in self.said(), "it did not begin"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def _line(self, pipe, seconds):
        while b"\n" not in self._buffers[pipe]:
            assert select.select([pipe], [], [], seconds)[0], f"no line within {seconds} s; seen: {self.seen[-20:]}"
            piece = os.read(pipe.fileno(), 65536)
            assert piece, f"it ended; stderr: {self._buffers[self.process.stderr]}"
            self._buffers[pipe] += piece
        line, _, self._buffers[pipe] = self._buffers[pipe].partition(b"\n")
        return line.decode()

    def said(self, seconds=10):
        return self._line(self.process.stderr, seconds)

    def next(self, seconds=10):
        line = self._line(self.process.stdout, seconds)
        self.seen.append(json.loads(line) if self.json_lines else line)
        return self.seen[-1]

    def until(self, test, seconds=10):
        while True:
            row = self.next(seconds)
            if test(row):
                return row

    def end(self, how=signal.SIGINT):
        self.process.send_signal(how)
        return self.process.wait(timeout=10)


def lease(bed, node="node1"):
    """fl_tracer.until: 0 when nobody traces."""
    directory = bed.keeper(node, "status")["bpf"]["directory"]
    dump = json.loads(shell.run("bpftool", "-j", "map", "dump", "pinned", directory + "/maps/fl_tracer"))
    return dump[0]["formatted"]["value"]["until"] if "formatted" in dump[0] else int.from_bytes(bytes(int(o, 16) for o in dump[0]["value"][:8]), "little")


def is_(hook, verdict, reason):
    return lambda row: (row.get("hook"), row.get("verdict"), row.get("reason")) == (hook, verdict, reason)


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_captured_connection_from_connect_to_the_other_pod(bed, family):
    vip = bed.ip("svc/back/far", family)
    to = f"[{vip}]:80" if family == "6" else f"{vip}:80"
    with Trace(bed, "--pod", "front/web") as client, Trace(bed, "--pod", "back/api-1", node="node2") as server:
        answer = bed.call("front/web", "who", to=[vip, 80])
        assert answer["pod"] == "api-1"
        captured = client.until(is_("connect", "captured", "mesh_destination"))
        assert captured["pod"] == "front/web" and captured["process"] == "python3" and captured["pid"] > 0
        assert captured["destination"] == to and captured["source"] is None and captured["family"] == "ipv" + family
        assert captured["loopback"].startswith("127." if family == "4" else "[::1]:")
        published = client.until(is_("sockops", "published", "captured_flow"))
        assert published["destination"] == to and published["loopback"] == captured["loopback"]
        assert published["source"].endswith(f":{answer['sees_self'][1]}")
        led = client.until(is_("lookup", "captured", "captured_flow"))
        assert {led["socketCookie"], published["socketCookie"]} == {captured["socketCookie"]}
        shown = client.until(is_("getsockname", "named", "pod_address"))
        assert shown["source"].endswith(f":{answer['sees_self'][1]}") and answer["sees_self"][0] in shown["source"]
        named = server.until(is_("getpeername", "named", "true_client"))
        assert answer["peer"][0] in named["source"] and named["pod"] == "back/api-1"
        assert {row["pod"] for row in client.seen} == {"front/web"} and {row["pod"] for row in server.seen} == {"back/api-1"}


def test_what_is_left_alone_and_why(bed):
    with Trace(bed) as trace:
        shop = bed.ip("outside/shop")
        bed.call("front/web", "who", to=[shop, 8080])
        assert trace.until(is_("connect", "passed", "not_in_mesh"))["destination"] == f"{shop}:8080"
        bed.call("front/web", "udp", to=[bed.ip("back/api-1"), 5353])
        assert trace.until(is_("connect", "passed", "not_tcp"))["protocol"] == "udp"
        bed.call("front/excluding", "who", to=[bed.ip("back/api-1"), 7000])
        assert trace.until(is_("connect", "passed", "excluded_port"))["pod"] == "front/excluding"
        bed.call("front/web", "who", to=[bed.ip("svc/back/empty"), 80])
        assert trace.until(is_("connect", "refused", "no_endpoints"))["pod"] == "front/web"


def test_inbound_plaintext(bed):
    with Trace(bed, "--verdict", "captured", node="node2") as trace:
        answer = bed.call("outside/client", "who", to=[bed.ip("back/api-1"), 8080])
        row = trace.until(is_("lookup", "captured", "from_outside"))
        assert row["source"] == f"{answer['sees_self'][0]}:{answer['sees_self'][1]}" and row["pid"] is None
        assert all(row["verdict"] == "captured" for row in trace.seen)


def test_table_and_count(bed):
    with Trace(bed, "-n", "2", "--pod", "front/web", "--verdict", "captured,published", json_lines=False) as trace:
        assert trace.next().split()[:6] == ["TIME", "POD", "PROCESS", "HOOK", "VERDICT", "REASON"]
        bed.call("front/web", "who", to=["far.back", 80], family="4")
        line = trace.next().split()
        assert line[1] == "front/web" and line[2].endswith("/python3") and line[3:6] == ["connect", "captured", "mesh_destination"]
        assert line[9].startswith("(127.")
        assert trace.next().split()[3:5] == ["sockops", "published"]
        assert trace.process.wait(timeout=10) == 0, "two events were enough"
    assert lease(bed) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_well(bed, how):
    with Trace(bed) as trace:
        assert lease(bed) != 0
        assert trace.end(how) == 0
    assert lease(bed) == 0


def test_kill_ends_tracing(bed):
    with Trace(bed) as trace:
        assert trace.end(signal.SIGKILL) == -9
    assert lease(bed) != 0, "nobody could switch it off"

    def cleared():
        bed.call("front/web", "who", to=[bed.ip("outside/shop"), 8080])
        return lease(bed) == 0
    eventually(cleared, 10, "no program cleared the dead tracer's lease")


def test_next_tracer_after_a_killed_one(bed):
    with Trace(bed) as trace:
        trace.end(signal.SIGKILL)
    bed.call("front/web", "who", to=[bed.ip("outside/shop"), 8080])
    with Trace(bed) as trace:
        bed.call("front/web", "udp", to=[bed.ip("back/api-1"), 53])
        first = trace.next()
        assert first["reason"] == "not_tcp", "events of the dead tracer's time"


def test_one_at_a_time(bed):
    with Trace(bed) as first, Trace(bed, ready=False) as second:
        assert second.process.wait(timeout=10) == 1
        assert f"process {first.process.pid} traces" in second.said()
        bed.call("front/web", "who", to=[bed.ip("outside/shop"), 8080])
        first.until(is_("connect", "passed", "not_in_mesh"))
    with Trace(bed):
        pass


def overrun(bed, count=4500):
    """True when the events of `count` connects are all told or told to be lost; false when the machine was so slow that the lease ran out."""
    with Trace(bed, "--verdict", "passed") as trace:
        trace.process.send_signal(signal.SIGSTOP)
        done = bed.call("front/web", "udp_burst", to=[bed.ip("back/api-1"), 53], count=count)
        trace.process.send_signal(signal.SIGCONT)
        assert done == {"count": count}

        def everything(row):
            return row.get("paused") or sum(row.get("lost", 0) + (row.get("reason") == "not_tcp") for row in trace.seen) == count
        if trace.until(everything).get("paused"):
            return False
        assert any("lost" in row for row in trace.seen)
        bed.call("front/web", "who", to=[bed.ip("outside/shop"), 8080])
        trace.until(is_("connect", "passed", "not_in_mesh"))
        return True


def test_overrun_is_told(bed):
    assert any(overrun(bed) for _ in range(3))


def test_reader_that_does_not_read(bed):
    """It waits with its hands full: no connection waits with it, a signal ends it, and the gap is told."""
    with Trace(bed, "--verdict", "passed") as trace:
        assert bed.call("front/web", "udp_burst", to=[bed.ip("back/api-1"), 53], count=3000) == {"count": 3000}

        def lapsed():
            bed.call("front/web", "who", to=[bed.ip("outside/shop"), 8080])
            return lease(bed) == 0
        eventually(lapsed, 15, "the lease goes on though nobody reads")
        trace.until(lambda row: row.get("paused"))
        bed.call("front/web", "udp", to=[bed.ip("back/api-1"), 53])
        trace.until(is_("connect", "passed", "not_tcp"))
        assert bed.call("front/web", "udp_burst", to=[bed.ip("back/api-1"), 53], count=3000) == {"count": 3000}
        assert trace.end() == 0
    assert lease(bed) == 0


def test_reader_that_goes(bed):
    with Trace(bed) as trace:
        trace.process.stdout.close()
        eventually(lambda: bed.call("front/web", "udp", to=[bed.ip("back/api-1"), 53]) and trace.process.poll() is not None, 10, "it talks to nobody")
        assert trace.process.returncode == 0
    assert lease(bed) == 0


@pytest.mark.parametrize("words, sentence", [
    (["--pod", "front/nobody"], "no pod front/nobody is captured here"), (["--pod", "web"], "unexpected '--pod'"),
    (["--verdict", "captured,nonsense"], "no verdict 'nonsense'"), (["-n", "0"], "unexpected '-n'"), (["-o", "yaml"], "no YAML")], ids=str)
def test_wrong_words(bed, words, sentence):
    with Trace(bed, *words, ready=False) as trace:
        assert trace.process.wait(timeout=10) == (1 if "nobody" in sentence else 2)
        assert sentence in trace.said() and "Try:" in trace.said()
    assert lease(bed) == 0


def test_needs_root(bed):
    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    done = subprocess.run([binary("fairlead"), "--run-dir", bed.names.run_directory("node1"), "bpf", "trace"], capture_output=True, text=True, preexec_fn=nobody)
    assert done.returncode == 1 and "root" in done.stderr, done


def test_agent_that_is_restarted(own_bed):
    with Trace(own_bed, "--pod", "front/web") as trace:
        lab.agent(own_bed.lab, "node1", "kill")
        try:
            assert "does not answer" in trace.said()
            answer = own_bed.call("front/web", "who", to=["api.front", 80])
            assert "failed" in answer, "fail closed"
            trace.until(is_("sockops", "withdrawn", "not_established"))
        finally:
            lab.agent(own_bed.lab, "node1", "start")
        assert "was restarted" in trace.said()
        eventually(lambda: "pod" in own_bed.call("front/web", "who", to=["api.front", 80]), 15, "the mesh is not back")
        trace.until(is_("lookup", "captured", "captured_flow"))
        assert trace.end() == 0
