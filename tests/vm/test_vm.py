"""`scripts/vm` itself: what a command's caller sees, and what becomes of kernels that do not come to their end."""
import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def vm(*arguments, **more):
    return subprocess.run([os.path.join(ROOT, "scripts/vm"), *arguments], text=True, capture_output=True, timeout=300, **more)


@pytest.mark.parametrize("kernel", ["6.12", "6.1"])
def test_a_command_is_as_at_home(tmp_path, kernel):
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    kept.mkdir()
    lost.mkdir()
    script = f"""pwd; echo "$FAIRLEAD_WORD"; id -u; echo aside >&2; echo x > {kept}/x; echo x > {lost}/x; uname -r
                 stat -fc %T /sys/fs/cgroup; exit 7"""
    done = vm("--kernel", kernel, "--writable", str(kept), "--", "bash", "-c", script, cwd=tmp_path,
              env={**os.environ, "FAIRLEAD_WORD": "it's $here\nand there"})
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [str(tmp_path), "it's $here", "and there", "0"] and lines[5] == "cgroup2fs", lines
    assert lines[4].startswith(kernel + "."), lines
    assert done.stderr == "aside\n"
    assert os.listdir(kept) == ["x"] and os.listdir(lost) == []


def test_a_panic_is_a_failure_with_the_kernels_words():
    done = vm("--", "bash", "-c", "echo before; echo c > /proc/sysrq-trigger")
    assert done.returncode == 125 and done.stdout == "before\n"
    assert "sysrq triggered crash" in done.stderr.lower() and "ended before the command did" in done.stderr


def test_a_hang_has_an_end():
    done = vm("--limit", "60", "--", "bash", "-c", "echo before; sleep infinity")
    assert done.returncode == 124 and "ended after 60 s" in done.stderr and done.stdout == "before\n"


def test_output_that_a_daemon_holds_open_does_not_hold_the_guest():
    done = vm("--", "bash", "-c", "sleep 1000 & echo done")
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_instructions_are_counted():
    """A loop of so many instructions more takes so much longer, whatever this machine does meanwhile."""
    def busy(rounds):
        done = vm("--icount", "--", "/usr/bin/python3", "-S", "-c", f"for i in range({rounds}): pass")
        assert done.returncode == 0, done.stderr
        words = done.stderr.split()
        return {word: float(words[words.index(word) + 1]) for word in ("busy", "user", "kernel")}
    little, much = busy(1_000_000), busy(3_000_000)
    assert 0.2 < much["busy"] - little["busy"] < 2, (little, much)  # callgrind counts 393 instructions in each round
    assert much["user"] > much["kernel"]


def test_a_kernel_that_is_not_there():
    done = vm("--kernel", "2.4", "--", "true")
    assert done.returncode == 125 and "no kernel 2.4" in done.stderr and "scripts/setup" in done.stderr
