"""QEMU: one guest from its start to the exit status of its command."""
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time

from . import initramfs

CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fairlead", "vm")
TRIAL_SECONDS = 20
PR_SET_PDEATHSIG = 1
# Whatever the kernel finds wrong with itself ends the guest, and so the run.
KERNEL_PARAMETERS = "console=ttyS0 loglevel=6 panic=-1 oops=panic audit=0 net.ifnames=0 mitigations=off random.trust_cpu=on"
# What costs an emulated CPU much and a test nothing: memory that is wiped, code that is somewhere else in each process, and
# instructions that leave the translated code or are done a byte or a lane at a time (rep movsb, stac, AVX).
EMULATED_PARAMETERS = " init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=0 norandmaps nowatchdog"
EMULATED_CPU = "max,-erms,-fsrm,-avx,-avx2,-smap,-smep,-umip,-la57"
# Where instructions are counted they are those of a machine in production, but that a byte of rep movsb would count as one.
COUNTED_CPU = "max,-erms,-fsrm"
_libc = ctypes.CDLL(None)


class VmError(Exception):
    """What went wrong, in a sentence for the user."""


class Kernel:
    def __init__(self, series):
        self.directory = os.path.join(CACHE, series)
        self.image = os.path.join(self.directory, "vmlinuz")
        if not os.path.exists(self.image):
            there = sorted(name for name in os.listdir(CACHE) if os.path.exists(os.path.join(CACHE, name, "vmlinuz"))) \
                if os.path.isdir(CACHE) else []
            raise VmError(f"no kernel {series} (there are: {', '.join(there) or 'none'}): `scripts/setup` first")
        self.version = os.listdir(os.path.join(self.directory, "lib/modules"))[0]


class Outcome:
    def __init__(self):
        self.status, self.times, self.timed_out = None, None, False


class Guest:
    def __init__(self, kernel, *, accelerator, cpus, memory, icount, console, writable):
        self._kernel, self._accelerator, self._cpus, self._memory = kernel, accelerator, cpus, memory
        self._icount, self._console, self._writable = icount, console, writable

    def _processor(self):
        """CPU, kernel parameters and accelerator go together."""
        if self._accelerator == "kvm":
            return "host", KERNEL_PARAMETERS, ["-accel", "kvm"]
        if self._icount:
            return COUNTED_CPU, KERNEL_PARAMETERS, ["-accel", "tcg,thread=single", "-icount", "shift=0"]
        return EMULATED_CPU, KERNEL_PARAMETERS + EMULATED_PARAMETERS, ["-accel", "tcg,thread=multi"]

    def _arguments(self, initrd, ports):
        cpu, parameters, accelerator = self._processor()
        options = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-machine", "q35", "-cpu", cpu, "-m", str(self._memory), "-smp", str(self._cpus), *accelerator,
                   "-kernel", self._kernel.image, "-initrd", initrd, "-append", parameters,
                   "-serial", f"file:{self._console}",
                   "-virtfs", "local,path=/,mount_tag=rootfs,security_model=none,readonly=on,multidevs=remap",
                   "-device", "virtio-serial"]
        for index, path in enumerate(self._writable):
            options += ["-virtfs", f"local,path={path.replace(',', ',,')},mount_tag=shared{index},security_model=none,multidevs=remap"]
        for index, (name, fd) in enumerate(ports.items(), 1):
            options += ["-add-fd", f"fd={fd},set={index}", "-chardev", f"file,id={name},path=/dev/fdset/{index},append=on",
                        "-device", f"virtserialport,chardev={name},name={name}"]
        return options

    def run(self, arguments, environment, directory, seconds, sinks, complaints=None):
        """`sinks`: where the command's output and errors go, as they come; `complaints`: where QEMU's own do."""
        archive = initramfs.build(self._kernel, arguments, environment, directory, self._writable)
        with tempfile.NamedTemporaryFile(prefix="fairlead-vm-") as initrd:
            initrd.write(archive)
            initrd.flush()
            pipes = {name: os.pipe() for name in ("out", "err", "status")}
            ports = {name: ends[1] for name, ends in pipes.items()}
            process = subprocess.Popen(self._arguments(initrd.name, ports), stdin=subprocess.DEVNULL, stdout=2, stderr=complaints,
                                       pass_fds=list(ports.values()), preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
            for fd in ports.values():
                os.close(fd)
            try:
                return _follow(process, {name: ends[0] for name, ends in pipes.items()}, sinks, time.monotonic() + seconds)
            finally:
                process.kill()
                process.wait()
                for ends in pipes.values():
                    os.close(ends[0])


def _follow(process, readers, sinks, deadline):
    outcome, told = Outcome(), b""
    with selectors.DefaultSelector() as selector:
        for name, fd in readers.items():
            selector.register(fd, selectors.EVENT_READ, name)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                outcome.timed_out = True
                return outcome
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.data != "status":
                    sinks[key.data](data)
                else:
                    told += data
                    if _facts(told, outcome):
                        process.kill()  # what the command wrote was taken before this was told
    return outcome


def _facts(told, outcome):
    """Reads the lines of the status port; true once the command has ended."""
    for line in told.decode(errors="replace").splitlines(keepends=True):
        words = line.split()
        if not line.endswith("\n") or not words:
            continue
        if words[0] == "times":
            outcome.times = Times([int(word) for word in words[1:]])
        elif words[0] == "exit":
            outcome.status = int(words[1])
    return outcome.status is not None


class Times:
    """Of the guest's clock, in seconds. With --icount a nanosecond is an instruction."""

    def __init__(self, numbers):
        before, after = numbers[:7], numbers[7:]
        elapsed, idle = after[0] - before[0], after[1] - before[1]
        self.elapsed = elapsed / 1e9
        self.busy = max(0, elapsed * max(1, before[2]) - idle) / 1e9
        ticks = [max(0, late - early) for early, late in zip(before[3:], after[3:])]
        user, kernel = ticks[0], sum(ticks[1:])
        share = user / (user + kernel) if user + kernel else 0
        self.user, self.kernel = self.busy * share, self.busy * (1 - share)


def kvm_works(kernel):
    """Whether this kernel boots with it; a device node alone says little. Tried once after each boot of this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/sys/kernel/random/boot_id") as file:
        known = os.path.join(CACHE, f"kvm-{file.read().strip()}-{kernel.version}")
    if os.path.exists(known):
        with open(known) as file:
            return file.read() == "yes"
    with tempfile.NamedTemporaryFile(prefix="fairlead-vm-") as console:
        guest = Guest(kernel, accelerator="kvm", cpus=1, memory=1024, icount=False, console=console.name, writable=[])
        nothing = {"out": lambda data: None, "err": lambda data: None}
        works = guest.run(["true"], {}, "/", TRIAL_SECONDS, nothing, complaints=subprocess.DEVNULL).status == 0
    for name in os.listdir(CACHE):
        if name.startswith("kvm-") and name.endswith(kernel.version):
            os.unlink(os.path.join(CACHE, name))
    with open(known, "w") as file:
        file.write("yes" if works else "no")
    return works


def to(stream):
    def write(data):
        stream.buffer.write(data)
        stream.buffer.flush()
    return write


def tail(path, lines=40):
    with open(path, errors="replace") as file:
        return "".join(file.readlines()[-lines:])
