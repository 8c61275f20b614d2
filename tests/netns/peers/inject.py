"""Makes a running process do a system call, as somebody would who has taken it over: a debugger's seat (root), registers set,
one step. x86-64. The process must be waiting in a system call with nothing else to do."""
import ctypes
import os
import platform
import signal

SUPPORTED = platform.machine() == "x86_64"
GETREGS, SETREGS, SINGLESTEP, DETACH, SEIZE, INTERRUPT = 12, 13, 9, 17, 0x4206, 0x4207
WALL = 0x40000000
SYSCALL = b"\x0f\x05"
RED_ZONE = 4096  # bytes below the stack pointer that stay as they are
NAMES = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs").split()
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in NAMES]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request, pid, data=None):
    if _libc.ptrace(request, pid, None, data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _killed_by(status):
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None


def syscall(pid, number, *arguments):
    """What the call gives (a negative errno for a refusal), or the name of the signal that the process died of. An argument
    of bytes is put into its memory."""
    _ptrace(SEIZE, pid)
    _ptrace(INTERRUPT, pid)
    _, status = os.waitpid(pid, WALL)
    assert os.WIFSTOPPED(status), status
    saved, registers = Registers(), Registers()
    _ptrace(GETREGS, pid, ctypes.byref(saved))
    _ptrace(GETREGS, pid, ctypes.byref(registers))
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(saved.rip - len(SYSCALL))
        assert memory.read(len(SYSCALL)) == SYSCALL, "it does not wait in a system call"
        place = (saved.rsp - RED_ZONE) & ~0xf
        for name, value in zip(ARGUMENTS, arguments):
            if isinstance(value, bytes):
                place = (place - len(value)) & ~0xf
                memory.seek(place)
                memory.write(value)
                value = place
            setattr(registers, name, value & (1 << 64) - 1)
    registers.rax, registers.orig_rax, registers.rip = number, (1 << 64) - 1, saved.rip - len(SYSCALL)
    _ptrace(SETREGS, pid, ctypes.byref(registers))
    _ptrace(SINGLESTEP, pid)
    _, status = os.waitpid(pid, WALL)
    if not os.WIFSTOPPED(status):
        return _killed_by(status)
    _ptrace(GETREGS, pid, ctypes.byref(registers))
    saved.orig_rax = (1 << 64) - 1  # what was interrupted ended with EINTR: nothing to start again
    _ptrace(SETREGS, pid, ctypes.byref(saved))
    _ptrace(DETACH, pid)
    return ctypes.c_int64(registers.rax).value
