"""What the guest's kernel starts from: busybox, the modules that lead to the host's files, and the command to run."""
import lzma
import os
import shlex
import stat
import subprocess

HERE = os.path.dirname(os.path.realpath(__file__))
# What a guest needs to reach the host's files; everything else it loads from there.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
NOT_OF_THE_GUEST = {"PWD", "OLDPWD", "SHLVL", "_", "TMPDIR"}


class Archive:
    """cpio in the "newc" format, which the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self._bytes, self._count, self._directories = bytearray(), 0, set()

    def _entry(self, name, mode, data):
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._bytes += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._pad()
        self._bytes += data
        self._pad()

    def _pad(self):
        self._bytes += bytes(-len(self._bytes) % 4)

    def directory(self, name):
        if name and name not in self._directories:
            self.directory(os.path.dirname(name))
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name, data, mode=0o644):
        self.directory(os.path.dirname(name))
        self._entry(name, stat.S_IFREG | mode, data)

    def finished(self):
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._bytes)


def _modules(kernel):
    """Name and content of every module to load, in that order."""
    version = kernel.version
    told = subprocess.run(["modprobe", "-d", kernel.directory, "-S", version, "-a", "--show-depends", *MODULES],
                          text=True, capture_output=True, check=True).stdout
    paths = dict.fromkeys(line.split()[1] for line in told.splitlines() if line.startswith("insmod "))
    for path in paths:
        with (lzma.open if path.endswith(".xz") else open)(path, "rb") as file:
            yield os.path.basename(path).removesuffix(".xz"), file.read()


def _command(arguments, environment, directory):
    """The command as a script: where it runs, what it knows, what it is."""
    known = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())
             if name not in NOT_OF_THE_GUEST and name.isidentifier()]
    return "\n".join([*known, f"cd {shlex.quote(directory)} || exit 125", "exec " + shlex.join(arguments)]) + "\n"


def _own(name):
    with open(os.path.join(HERE, name), "rb") as file:
        return file.read()


def build(kernel, arguments, environment, directory, writable):
    archive = Archive()
    for name in ("dev", "proc", "sys"):
        archive.directory(name)
    with open("/bin/busybox", "rb") as busybox:
        archive.file("bin/busybox", busybox.read(), 0o755)
    archive.file("init", _own("init"), 0o755)
    order = []
    for name, content in _modules(kernel):
        archive.file("modules/" + name, content)
        order.append(name)
    archive.file("modules/order", "".join(name + "\n" for name in order).encode())
    archive.file("fairlead-vm/guest", _own("guest"))
    archive.file("fairlead-vm/command", _command(arguments, environment, directory).encode())
    archive.file("fairlead-vm/modules", os.path.join(kernel.directory, "lib/modules").encode())
    archive.file("fairlead-vm/writable", "".join(f"shared{i} {path}\n" for i, path in enumerate(writable)).encode())
    return archive.finished()
