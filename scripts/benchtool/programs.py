"""What each BPF program costs: the kernel counts and times while the load tool makes connections, one after the other."""
import json
import os
import signal
import statistics
import subprocess
import sys
import time

from .contender import ECHO, addresses
from .scenarios import load


NODES = {"client": "node1", "server": "node2"}
WAYS = {"captured": lambda contender: contender.server, "outside the mesh": lambda contender: contender.outside}


def fairlead(contender, node, *words):
    return [os.path.join(contender.build, "userspace", "cli", "fairlead"), "--run-dir", contender.names.run_directory(node), "-o", "json", *words]


def run_times(contender, pod, seconds):
    """(side, program) -> (runs, nanoseconds), and how many connections it was."""
    # The measurement begins before and ends after the load: a connection is counted whole.
    watches = {side: subprocess.Popen(fairlead(contender, node, "bpf", "progs", "--measure", str(seconds + 2)), stdout=subprocess.PIPE, text=True)
               for side, node in NODES.items()}
    time.sleep(0.5)
    count = load(contender, "churn", ",".join(f"[{ip}]:{ECHO}" if ":" in ip else f"{ip}:{ECHO}" for ip in addresses(pod)), seconds)["count"]
    times = {}
    for side, watch in watches.items():
        for program in json.loads(watch.communicate()[0]):
            if program["owner"] == "fairlead":
                runs, total = times.get((side, program["name"]), (0, 0))  # sk_lookup: one program per pod
                times[side, program["name"]] = runs + program["runCount"], total + program["runTimeNs"]
    return times, count


def programs_once(contender, way, traced, seconds):
    tracers = [subprocess.Popen(fairlead(contender, node, "bpf", "trace"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for node in NODES.values()] if traced else []
    try:
        for tracer in tracers:
            tracer.stderr.readline()  # it has begun
        return run_times(contender, WAYS[way](contender), seconds)
    finally:
        for tracer in tracers:
            tracer.send_signal(signal.SIGINT)
            tracer.communicate()


def measure_programs(contender, repetitions, seconds):
    variants = [(way, traced) for traced in (False, True) for way in WAYS]
    samples = {}
    for repetition in range(repetitions):
        for way, traced in variants:
            times, count = programs_once(contender, way, traced, seconds)
            cells = samples.setdefault((way, traced), {})
            for key, (runs, total) in times.items():
                if runs >= count / 10:  # else it is not on this way
                    cells.setdefault(key, []).append((total / runs, runs / count))
            for side in NODES:
                cells.setdefault((side, "all, per connection"), []).append((sum(total for (where, _), (_, total) in times.items() if where == side) / count, 1.0))
            print(f"programs {repetition + 1}/{repetitions} {way}{', traced' if traced else ''}: {count} connections", file=sys.stderr, flush=True)
    return [{"way": way, "traced": traced, "side": side, "program": program, "ns": statistics.median(ns for ns, _ in values),
             "min": min(ns for ns, _ in values), "max": max(ns for ns, _ in values), "runs_per_connection": statistics.median(runs for _, runs in values)}
            for (way, traced), cells in samples.items() for (side, program), values in sorted(cells.items())]


def print_programs(rows):
    variants = list(dict.fromkeys((row["way"], row["traced"]) for row in rows))
    print("\nprograms: ns per run, median and least of the repetitions (runs per connection)")
    print(f"  {'':7}{'':22}" + "".join(f"{way + (', traced' if traced else ''):>26}" for way, traced in variants))
    for side, program in sorted(dict.fromkeys((row["side"], row["program"]) for row in rows)):
        found = {(row["way"], row["traced"]): row for row in rows if (row["side"], row["program"]) == (side, program)}
        cells = [f"{found[variant]['ns']:.0f} {found[variant]['min']:.0f} ({found[variant]['runs_per_connection']:.2g})" if variant in found else "-" for variant in variants]
        print(f"  {side:7}{program:22}" + "".join(f"{cell:>26}" for cell in cells))
