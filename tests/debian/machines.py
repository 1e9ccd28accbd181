"""Where the work is done: a guest of Ringmaster or of QEMU, or this host."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time

BEGIN = "debian: begin"
END = re.compile(r"^debian: end (\d+)$")
CMDLINE = "console=ttyS0 quiet panic=-1"

# What the host does before it enters the root: devices and processes are its own.
ENTER = """
mount --rbind /dev "$1/dev" && mount --rbind /proc "$1/proc" && mount -t tmpfs tmpfs "$1/tmp" || exit 99
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    "$(command -v chroot)" "$1" /bin/sh /test/command 2>&1 < /dev/null
"""


@dataclasses.dataclass
class Done:
    """How the work ended, and what it wrote."""

    status: int
    output: str


def of(options):
    """The machine for an engine's name."""
    return Qemu(options) if options.engine == "tcg" else Ringmaster(options)


class Ringmaster:
    """A guest of Ringmaster."""

    def __init__(self, options):
        self.options = options

    def run(self, root, memory):
        """Do the work of a root in a guest."""
        return watch([
            self.options.ringmaster, "run", "--engine", self.options.engine,
            "--kernel", str(root.kernel), "--initrd", str(root.archive), "--cmdline", CMDLINE,
            "--memory", f"{memory}M", "--timeout", str(self.options.timeout), "--on-reset", "exit",
            *self.options.words,
        ], self.options.timeout + 10)


class Qemu:
    """A guest of QEMU without hardware assistance."""

    def __init__(self, options):
        self.options = options
        if not shutil.which("qemu-system-x86_64"):
            sys.exit("debian: qemu-system-x86_64 is not installed")

    def run(self, root, memory):
        """Do the work of a root in a guest."""
        return watch([
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-m", f"{memory}M", "-kernel", str(root.kernel),
            "-initrd", str(root.archive), "-append", CMDLINE,
        ], self.options.timeout)


def watch(command, seconds):
    """Run a guest, show what it says, and keep what the work said."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said, inside, status = [], False, None
    for line in child.stdout:
        text = line.decode(errors="replace").rstrip("\r\n")
        print(f"{time.monotonic() - start:7.1f}  {text}", flush=True)
        ended = END.match(text)
        if ended:
            inside, status = False, int(ended.group(1))
        if inside:
            said.append(text)
        if text == BEGIN:
            inside = True
        if time.monotonic() - start > seconds:
            child.kill()
    code = child.wait()
    if status is None or code != 0:
        sys.exit(f"debian: the guest did not finish; the machine ended with status {code}")
    return Done(status, "\n".join(said) + "\n")


def native(root):
    """Do the work of a root on this host; None where that is not allowed."""
    enter = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    done = subprocess.run([*enter, "sh", "-c", ENTER, "sh", str(root.tree)], stdout=subprocess.PIPE)
    if done.returncode in (1, 99) and not done.stdout:
        return None
    text = done.stdout.decode(errors="replace")
    return Done(done.returncode, "\n".join(line.rstrip("\r") for line in text.splitlines()) + "\n")
