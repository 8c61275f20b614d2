"""What is measured: each scenario gives the metrics of one repetition."""
import json
import os
import subprocess
import time

from labtool import cgroups, pods
from labtool.shell import LabError
from .contender import ECHO, HTTP, IPERF, addresses

NAMES = ["keepalive16", "keepalive64", "newconn", "newconn64", "open1000", "bulk1", "bulk8", "pingpong", "idle", "outside64", "outsidenew"]
FOREIGN_LIMIT = 0.15  # cores used by others, above which a repetition is done again


def machine_seconds():
    """(CPU time of the whole machine, interrupts included; of it in user space)."""
    with open("/proc/stat") as file:
        fields = [int(value) for value in file.readline().split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, (user + nice) / tick


def pss_kib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total


def wrk(contender, connections, seconds, close=False, target=None):
    headers = ["-H", "Connection: close"] if close else []
    script = 'done=function(s,l,r) io.write(string.format("FL %d %d %.1f %.1f %d\\n", s.requests, s.duration, l:percentile(50), l:percentile(99), s.errors.connect+s.errors.read+s.errors.write+s.errors.status+s.errors.timeout)) end'
    path = os.path.join(contender.directory, "wrk.lua")
    with open(path, "w") as file:
        file.write(script)
    out = contender.run(contender.client, ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", path, *headers, f"http://{target or contender.target}:{HTTP}/1k"])
    line = next((line for line in out.stdout.splitlines() if line.startswith("FL ")), None)
    if line is None:
        raise LabError(f"wrk: {out.stdout} {out.stderr}")
    requests, duration, p50, p99, errors = line.split()[1:]
    if int(errors) > int(requests) / 1000:
        raise LabError(f"{contender.kind}: {errors} of {requests} requests failed")
    return {"requests_per_s": int(requests) / (int(duration) / 1e6), "p50_us": float(p50), "p99_us": float(p99)}, int(requests), "cpu_us_per_op"


def load(contender, *arguments):
    out = contender.run(contender.client, [contender.load_tool(), *map(str, arguments)])
    if out.returncode != 0:
        raise LabError(f"{contender.kind}: {out.stderr}")
    return json.loads(out.stdout)


def open_loop(contender, seconds):
    result = load(contender, "open", f"{contender.target}:{HTTP}", 1000, 4, seconds)
    count = result.pop("count")
    return result, count, "cpu_us_per_op"


def iperf(contender, streams, seconds):
    out = contender.run(contender.client, ["iperf3", "-c", contender.target, "-p", str(IPERF), "-P", str(streams), "-t", str(seconds), "-J"])
    result = json.loads(out.stdout)
    if "error" in result:
        raise LabError(f"{contender.kind}: iperf3: {result['error']}")
    received = result["end"]["sum_received"]
    return {"gbit_per_s": received["bits_per_second"] / 1e9}, received["bytes"] / 1e9, "cpu_s_per_gb"


def pingpong(contender, seconds):
    everybody = cgroups.processes(cgroups.lab_root(contender.lab))
    for pid in everybody:
        subprocess.run(["taskset", "-acp", "0", str(pid)], capture_output=True)
    try:
        out = contender.run(contender.client, ["taskset", "-c", "0", contender.load_tool(), "pingpong", f"{contender.target}:{ECHO}", str(seconds)])
        if out.returncode != 0:
            raise LabError(f"{contender.kind}: {out.stderr}")
        result = json.loads(out.stdout)
        count = result.pop("count")
        return result, count, "cpu_us_per_op"
    finally:
        for pid in everybody:
            subprocess.run(["taskset", "-acp", f"0-{os.cpu_count() - 1}", str(pid)], capture_output=True)


def idle(contender, connections=8000):
    if contender.kind == "direct":
        return {}, 0, None
    empty = pss_kib(contender.proxies())
    holder = subprocess.Popen([contender.load_tool(), "idle", f"{contender.target}:{ECHO}", str(connections)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, preexec_fn=lambda: pods.enter(contender.names, contender.client))
    try:
        if holder.stdout.readline().strip() != "ready":
            raise LabError(f"{contender.kind}: {holder.stderr.read()}")
        full = pss_kib(contender.proxies())
    finally:
        holder.stdin.close()
        holder.wait(timeout=60)
    return {"pss_kib": full, "pss_kib_per_connection": (full - empty) / connections}, 0, None


def outside(contender, connections, seconds, close=False):
    if contender.kind == "haproxy":  # nothing of it is on that way
        return {}, 0, None
    return wrk(contender, connections, seconds, close, addresses(contender.outside)[0])


def measure(scenario, contender, seconds):
    """One repetition with its CPU cost; None when others disturbed it."""
    (total, user), own, started = machine_seconds(), contender.user_seconds(), time.monotonic()
    runs = {"keepalive16": lambda: wrk(contender, 16, seconds), "keepalive64": lambda: wrk(contender, 64, seconds),
            "newconn": lambda: wrk(contender, 16, seconds, close=True), "newconn64": lambda: wrk(contender, 64, seconds, close=True),
            "open1000": lambda: open_loop(contender, seconds),
            "bulk1": lambda: iperf(contender, 1, seconds), "bulk8": lambda: iperf(contender, 8, seconds),
            "pingpong": lambda: pingpong(contender, seconds), "idle": lambda: idle(contender),
            "outside64": lambda: outside(contender, 64, seconds), "outsidenew": lambda: outside(contender, 16, seconds, close=True)}
    metrics, operations, cpu_metric = runs[scenario]()
    elapsed = time.monotonic() - started
    total_after, user_after = machine_seconds()
    used = total_after - total
    # By user time: interrupts of our own packets belong to no control group and would look like others' work.
    foreign = user_after - user - (contender.user_seconds() - own)
    if cpu_metric:
        metrics[cpu_metric] = used / operations * (1e6 if cpu_metric == "cpu_us_per_op" else 1)
    return metrics, foreign / elapsed


def measure_undisturbed(scenario, contender, seconds, attempts):
    for attempt in range(attempts):
        metrics, foreign = measure(scenario, contender, seconds)
        if foreign < FOREIGN_LIMIT or scenario == "idle":
            return metrics, False
    return metrics, True
