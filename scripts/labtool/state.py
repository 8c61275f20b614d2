"""What a lab remembers between commands: objects, nodes, addresses. One JSON file, written atomically, locked while in use."""
import contextlib
import fcntl
import json
import os
import re

from .paths import Names
from .shell import LabError


def check_name(lab):
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?", lab):
        raise LabError(f"'{lab}' is no lab name: 1 to 20 of a-z 0-9 and -")


@contextlib.contextmanager
def locked(lab):
    """One command at a time per lab."""
    check_name(lab)
    names = Names(lab)
    os.makedirs(os.path.dirname(names.state), exist_ok=True)
    with open(names.state + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield names


def load(names):
    try:
        with open(os.path.join(names.state, "state.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        raise LabError(f"no lab '{names.lab}' is up: `scripts/lab up DIR --name {names.lab}` makes one")


def save(names, state):
    os.makedirs(names.state, exist_ok=True)
    temporary = os.path.join(names.state, "state.json.tmp")
    with open(temporary, "w") as file:
        json.dump(state, file, indent=1)
    os.rename(temporary, os.path.join(names.state, "state.json"))


def pods(state):
    return [item for item in state["objects"].values() if item["kind"] == "Pod"]


def find_pod(state, name):
    """NS/POD, or POD of namespace default."""
    namespace, _, pod = name.rpartition("/")
    found = state["objects"].get(f"Pod/{namespace or 'default'}/{pod}")
    if found is None:
        raise LabError(f"no pod {name} in lab; there are: "
                       + ", ".join(f"{p['metadata']['namespace']}/{p['metadata']['name']}" for p in pods(state)))
    return found
