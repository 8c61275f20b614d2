"""The command line of `scripts/vm`."""
import argparse
import os
import resource
import sys
import tempfile

from . import machine


def _parser(usage):
    parser = argparse.ArgumentParser(prog="scripts/vm", description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="6.12", help="a series that scripts/setup fetched: 6.12 (default) or 6.1")
    parser.add_argument("--icount", action="store_true", help="one nanosecond of the guest's time per instruction; no KVM")
    parser.add_argument("--times", action="store_true", help="tell at the end what CPU time the command took (--icount does)")
    parser.add_argument("--cpus", type=int, default=1, help="1: of two emulated CPUs each waits for the other")
    parser.add_argument("--memory", type=int, default=3072, help="MiB (3072)")
    parser.add_argument("--limit", type=int, default=1800, help="seconds until the guest is ended (1800)")
    parser.add_argument("--writable", action="append", default=[], metavar="DIRECTORY",
                        help="what the command writes there is on the host; everything else it writes is gone with the guest")
    parser.add_argument("--console", metavar="FILE", help="keep the kernel's messages there")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto: KVM where a guest boots with it")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    return parser


def _accelerator(options, kernel):
    if options.icount or options.accel == "tcg":
        return "tcg"
    if options.accel == "kvm":
        return "kvm"
    return "kvm" if machine.kvm_works(kernel) else "tcg"


def _run(options):
    kernel = machine.Kernel(options.kernel)
    with tempfile.NamedTemporaryFile(prefix="fairlead-vm-", suffix=".console") as own:
        console = os.path.realpath(options.console) if options.console else own.name
        guest = machine.Guest(kernel, accelerator=_accelerator(options, kernel), cpus=options.cpus, memory=options.memory,
                              icount=options.icount, console=console, writable=[os.path.realpath(path) for path in options.writable])
        outcome = guest.run(options.command, dict(os.environ, FAIRLEAD_VM=kernel.version), os.getcwd(), options.limit,
                            {"out": machine.to(sys.stdout), "err": machine.to(sys.stderr)})
        return _verdict(options, kernel, outcome, console)


def _verdict(options, kernel, outcome, console):
    if outcome.timed_out:
        print(f"{machine.tail(console)}vm: kernel {kernel.version} was ended after {options.limit} s", file=sys.stderr)
        return 124
    if outcome.status is None:
        print(f"{machine.tail(console, 80)}vm: kernel {kernel.version} ended before the command did", file=sys.stderr)
        return 125
    times = outcome.times
    if times and (options.icount or options.times):
        ours = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"vm: elapsed {times.elapsed:.6f} busy {times.busy:.6f} user {times.user:.6f} kernel {times.kernel:.6f} s of guest time, "
              f"{ours.ru_utime + ours.ru_stime:.0f} s of this machine's CPUs", file=sys.stderr)
    return outcome.status


def main(arguments, usage):
    options = _parser(usage).parse_args(arguments)
    try:
        return _run(options)
    except machine.VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
