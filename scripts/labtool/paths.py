"""Where things are: every name the lab makes on a machine derives from the lab's name, so that `down` finds it without memory."""
import hashlib
import os

from .shell import LabError

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
STATE_ROOT = "/run/fairlead-lab"
BPF_ROOT = "/sys/fs/bpf"


def build_directory():
    return os.environ.get("FAIRLEAD_BUILD", os.path.join(REPOSITORY, "build", "release"))


def binary(name):
    where = {"fairlead-agent": "userspace/agent", "fairlead-controller": "control/controller", "fairlead": "userspace/cli",
             "fairlead-standin": "tests/support/standin"}[name]
    return os.path.join(build_directory(), where, name)


def built(*names):
    """Tells before anything is made what cannot be started later."""
    for name in names:
        if not os.access(binary(name), os.X_OK):
            raise LabError(f"{binary(name)} is not built: run `scripts/setup && scripts/build` first")


def short(text, length=8):
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class Names:
    """All names of one lab."""

    def __init__(self, lab):
        self.lab = lab
        self.state = os.path.join(STATE_ROOT, lab)
        # The underscore is in no lab's name: no lab's things begin like another's.
        self.prefix = f"fl-{lab}_"
        self.pin_prefix = f"{lab}_"
        self.hub = self.prefix + "hub"

    def node_netns(self, node):
        return self.prefix + "n-" + node

    def pod_netns(self, namespace, pod):
        name = f"{self.prefix}p-{namespace}.{pod}"
        return name if len(name) <= 200 else f"{name[:190]}-{short(name)}"

    def pod_interface(self, namespace, pod):
        return "lxc" + short(f"{self.lab}/{namespace}/{pod}")

    def node_directory(self, node):
        return os.path.join(self.state, "nodes", node)

    def run_directory(self, node):
        return os.path.join(self.node_directory(node), "run")

    def bpf_directory(self, node):
        return f"{BPF_ROOT}/fairlead/{self._pins(node)}"

    def standin_directory(self, node):
        return f"{BPF_ROOT}/fairlead-standin/{self._pins(node)}"

    def _pins(self, node):
        return self.pin_prefix + node.replace(".", "_")  # bpffs knows no dots

    def source_directory(self):
        return os.path.join(self.state, "manifests")

    def controller_directory(self):
        return os.path.join(self.state, "controller")

    def log(self, name):
        return os.path.join(self.state, "logs", name.replace("/", ".") + ".log")
