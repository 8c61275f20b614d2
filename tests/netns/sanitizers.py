"""Reports of AddressSanitizer, UBSan and ThreadSanitizer: found wherever a program of a lab may have left them."""
import functools
import os
import re
import subprocess

from labtool.paths import STATE_ROOT, binary

NAME = os.environ.get("FAIRLEAD_SANITIZER", "")  # "asan" or "tsan": what the programs are built with, by scripts/test --preset
REPORTS = os.environ.get("FAIRLEAD_SANITIZER_REPORTS", "")  # where those write them that have no log: the CLI, the stand-in
MARK = re.compile(r"ERROR: (Address|Leak)Sanitizer|runtime error: |(WARNING|FATAL|ERROR): ThreadSanitizer|UndefinedBehaviorSanitizer: ")
FRAME = re.compile(r"\((?:[^()]*/)?([\w-]+)\+(0x[0-9a-f]+)\).*")
PROGRAMS = ("fairlead-agent", "fairlead-controller", "fairlead", "fairlead-standin")
LINES = 80
_seen = {}  # bytes by file
_found = []


def _read(path):
    """The first report in what was added to a file since the last look; logs are cut short by some tests."""
    try:
        with open(path, errors="replace") as file:
            if _seen.get(path, 0) <= os.fstat(file.fileno()).st_size:
                file.seek(_seen.get(path, 0))
            text = file.read()
            _seen[path] = file.tell()
    except OSError:
        return
    if match := MARK.search(text):
        lines = text[text.rfind("\n", 0, match.start()) + 1:].splitlines()
        _found.append(f"{path}:\n" + "\n".join(map(_with_name, lines[:LINES])))


@functools.lru_cache(maxsize=None)
def _name(program, address):
    """Where that is in the sources: neither a proxy that is locked in nor a machine without a symbolizer tells."""
    if program not in PROGRAMS:
        return ""
    done = subprocess.run(["addr2line", "-Cfpe", binary(program), address], text=True, capture_output=True)
    return done.stdout.strip()


def _with_name(line):
    found = FRAME.search(line)
    return f"{line[:found.start()]} {_name(found[1], found[2])}" if found and _name(found[1], found[2]) else line


def collect(names):
    """Everything in a lab's logs, which its end removes."""
    directory = os.path.join(names.state, "logs")
    for name in os.listdir(directory) if NAME and os.path.isdir(directory) else ():
        _read(os.path.join(directory, name))


def take():
    """What was reported since the last time, by any program of this run's labs."""
    for lab in os.listdir(STATE_ROOT) if NAME and os.path.isdir(STATE_ROOT) else ():
        if str(os.getpid()) in lab:
            directory = os.path.join(STATE_ROOT, lab, "logs")
            for name in os.listdir(directory) if os.path.isdir(directory) else ():
                _read(os.path.join(directory, name))
    for name in os.listdir(REPORTS) if REPORTS else ():
        _read(os.path.join(REPORTS, name))
    taken = _found[:]
    _found.clear()
    return taken
