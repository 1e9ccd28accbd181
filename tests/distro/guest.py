"""A Debian guest with its console at hand: one of Ringmaster or of QEMU."""

import dataclasses
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time

CMDLINE = "console=ttyS0 root=/dev/vda rw"
MEMORY = 1024


@dataclasses.dataclass
class Disk:
    """What scripts/debian-disk has made: the disk, kernel and initial RAM disk beside it."""

    disk: str
    kernel: str
    initrd: str

    @classmethod
    def at(cls, path):
        """The one whose disk lies at a path."""
        stem = str(path).removesuffix(".qcow2")
        return cls(str(path), f"{stem}.vmlinuz", f"{stem}.initrd")


def ringmaster(program, engine, disk, scratch, words=()):
    """The command that starts a guest of Ringmaster."""
    return [
        program, "run", "--engine", engine, "--memory", f"{MEMORY}M", "--kernel", disk.kernel,
        "--initrd", disk.initrd, "--cmdline", CMDLINE, "--disk", f"{disk.disk},overlay",
        "--disk", f"{scratch},format=raw", "--net", "user", *words,
    ]


def qemu(disk, scratch):
    """The command that starts the same guest under QEMU, without hardware assistance."""
    if not shutil.which("qemu-system-x86_64"):
        sys.exit("speed: qemu-system-x86_64 is missing: apt install qemu-system-x86")
    return [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", f"{MEMORY}M", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", disk.kernel, "-initrd", disk.initrd,
        "-append", CMDLINE, "-drive", f"file={disk.disk},format=qcow2,if=virtio,snapshot=on",
        "-drive", f"file={scratch},format=raw,if=virtio", "-netdev", "user,id=net",
        "-device", "virtio-net-pci,netdev=net",
    ]


class Guest:
    """A running guest."""

    def __init__(self, command):
        self.command = command
        self.begun = time.monotonic()
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.said = ""
        self.read_to = 0
        self.asked = 0
        self.busy_to_login = 0.0

    def wait_for(self, pattern, seconds):
        """Wait until the guest has said something new that matches; the match."""
        end = time.monotonic() + seconds
        while True:
            found = re.compile(pattern, re.M).search(self.said, self.read_to)
            if found:
                self.read_to = found.end()
                return found
            left = end - time.monotonic()
            if left <= 0:
                self.fail(f"said nothing like {pattern!r} in {seconds} seconds")
            if select.select([self.child.stdout], [], [], left)[0]:
                data = os.read(self.child.stdout.fileno(), 65536)
                if not data:
                    self.fail("ended")
                self.said += data.decode(errors="replace")

    def log_in(self, seconds):
        """Wait for the login prompt, and log in; how long the prompt took from the start."""
        self.wait_for("debian login: ", seconds)
        took = time.monotonic() - self.begun
        self.busy_to_login = self.processor_time() / took
        self.type("root")
        self.wait_for(r"root@debian:~# ", seconds)
        self.type("stty -echo; PS1=")
        self.run("until ip -4 addr | grep -q 'inet 10.0.2.15'; do sleep 0.2; done", seconds)
        return took

    def type(self, line):
        """Type a line on the console."""
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def run(self, command, seconds=300):
        """What a command says in the guest's shell."""
        self.asked += 1
        self.type(f"echo begin-$(({self.asked})); {command}; echo end-$(({self.asked}))")
        self.wait_for(f"^begin-{self.asked}\r?$", seconds)
        begin = self.read_to
        end = self.wait_for(f"^end-{self.asked}\r?$", seconds)
        return self.said[begin:end.start()].replace("\r", "").strip()

    def processor_time(self):
        """Seconds of processor time that the process has used."""
        with open(f"/proc/{self.child.pid}/stat") as stat:
            fields = stat.read().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_beside_guests(self):
        """MiB that the process has in memory, without the guest's RAM."""
        total, name, size = 0, "", 0
        with open(f"/proc/{self.child.pid}/smaps") as smaps:
            for line in smaps:
                mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
                if mapping:
                    size = int(mapping.group(2), 16) - int(mapping.group(1), 16)
                elif line.startswith("Pss:") and size < MEMORY << 19:
                    total += int(line.split()[1])
        return total / 1024

    def kill(self):
        """End the process."""
        self.child.kill()
        self.child.wait()

    def fail(self, what):
        """Show what the guest has said, and end with what is wrong."""
        self.kill()
        sys.exit(f"{self.said}\nspeed: the guest of {self.command[0]} {what}")


def free_port():
    """A port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
