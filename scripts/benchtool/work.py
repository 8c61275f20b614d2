"""Instructions of a whole machine per byte and per message, records in user space and in the kernel: run by scripts/work inside a guest
whose clock counts them."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from benchtool.contender import ECHO, IPERF, Contender  # noqa: E402
from labtool import lab, mesh  # noqa: E402
from labtool.shell import LabError  # noqa: E402

HZ = os.sysconf("SC_CLK_TCK")


def busy():
    """Seconds that the one processor was not idle, which is exact, and the ticks in user space and in the kernel, which are samples."""
    with open("/proc/stat") as file:
        user, nice, system, idle, wait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return time.monotonic() - (idle + wait) / HZ, user + nice, system + irq + softirq


def counted(contender, command):
    before = busy()
    done = contender.run(contender.client, command, timeout=3000)
    after = busy()
    if done.returncode != 0:
        raise LabError(f"{command[0]}: {done.stdout}{done.stderr}")
    total, user, kernel = (late - early for early, late in zip(before, after))
    share = user / (user + kernel) if user + kernel else 0
    return {"instructions": total * 1e9, "user": total * 1e9 * share, "kernel": total * 1e9 * (1 - share)}


def counters(contender):
    total = {}
    for node in ("node1", "node2"):
        for name, value in mesh.proxy(contender.names, node, "status")["counters"].items():
            total[name] = total.get(name, 0) + value
    return total


def main(mib, rounds):
    contender = Contender("fairlead", os.environ["FAIRLEAD_BUILD"])
    try:
        contender.up()
        for mode in ("off", "on"):
            for node in ("node1", "node2"):
                mesh.proxy(contender.names, node, f"set ktls={mode}")
            for name, command in (("bulk", ["iperf3", "-c", contender.target, "-p", str(IPERF), "-n", f"{mib}M", "-J"]),
                                  ("rounds", [contender.load_tool(), "rounds", f"{contender.target}:{ECHO}", str(rounds), "1024"])):
                before = counters(contender)
                found = counted(contender, command)
                after = counters(contender)
                found.update({"what": name, "ktls": mode, "spliced": after["bytes_spliced"] - before["bytes_spliced"],
                              "moved": after["ktls_transmit"] + after["ktls_receive"] - before["ktls_transmit"] - before["ktls_receive"]})
                print(json.dumps(found), flush=True)
    finally:
        lab.down(contender.lab)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
