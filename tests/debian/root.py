"""A root file system out of Debian packages, as a folder and as a cpio archive."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Left out of every root: nothing there is executed.
USELESS = ["usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "var"]


@dataclasses.dataclass
class Recipe:
    """What a root is made of."""

    packages: list
    files: list
    memory: int
    # The package whose documents are wanted; those of others are dropped.
    keep_documents: str = ""


@dataclasses.dataclass
class Root:
    """A finished one."""

    tree: Path
    archive: Path
    kernel: Path


def make(recipe, folder, words, ringmaster):
    """Gives the root of a recipe, with /test/command made for `words`."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / "tree"
    known = folder / "packages"
    wanted = " ".join(recipe.packages)
    if not known.exists() or known.read_text() != wanted:
        unpack(recipe, folder)
        known.write_text(wanted)
    put_work(recipe, tree, words)
    archive = folder / "root.cpio"
    with open(archive, "wb") as file:
        write_cpio(tree, file)
    return Root(tree, archive, kernel_from(ringmaster))


def kernel_from(ringmaster):
    """Debian's cloud kernel, out of the cache of `ringmaster demo`."""
    done = subprocess.run(
        [ringmaster, "fetch", "linux-image-cloud-amd64", "boot/vmlinuz-*"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit("debian: the kernel cannot be had")
    return Path(done.stdout.splitlines()[0])


def unpack(recipe, folder):
    """Fetch the packages with all that they depend on, and unpack them."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for package in fetch(Path(work), recipe.packages):
            subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    documents = tree / "usr/share/doc"
    for entry in documents.iterdir() if documents.exists() else ():
        if entry.name != recipe.keep_documents:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for useless in USELESS:
        shutil.rmtree(tree / useless, ignore_errors=True)
    for name in ("dev", "proc", "sys", "tmp", "run", "root", "test", "var/tmp", "etc"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shell = tree / "bin/sh"
    if not shell.is_symlink():
        shell.symlink_to("dash")
    # What the packages' scripts would have made, and programs ask for.
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for name, program in (("awk", "mawk"), ("python3", "python3.11"), ("cc", "gcc")):
        if (tree / "usr/bin" / program).exists() and not (tree / "usr/bin" / name).exists():
            (tree / "usr/bin" / name).symlink_to(program)


def fetch(work, packages):
    """The .deb files of the packages and of all that they need.

    The host's apt with its sources and keys, but with a state of its own in
    which nothing is installed.
    """
    for name in ("lists/partial", "archives/partial", "log"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "status").write_text("")
    apt = ["apt-get", "-q", "-y"]
    for option in (
        f"Dir::State={work}", f"Dir::State::lists={work}/lists", f"Dir::State::status={work}/status",
        f"Dir::Cache={work}", f"Dir::Cache::archives={work}/archives", f"Dir::Log={work}/log",
        "APT::Architecture=amd64", "APT::Architectures=amd64", "APT::Install-Recommends=false",
        "APT::Sandbox::User=", "Acquire::Languages=none", "Acquire::Retries=2",
        "APT::Update::Post-Invoke=", "APT::Update::Post-Invoke-Success=", "DPkg::Post-Invoke=",
    ):
        apt += ["-o", option]
    for arguments in ["update"], ["install", "--download-only", *packages]:
        done = subprocess.run(apt + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit("debian: apt could not fetch the packages: " + done.stdout.strip().splitlines()[-1])
    return sorted((work / "archives").glob("*.deb"))


def put_work(recipe, tree, words):
    """Put the scripts into /test, and /init beside them."""
    test = tree / "test"
    shutil.rmtree(test)
    test.mkdir()
    for file in recipe.files:
        (shutil.copytree if file.is_dir() else shutil.copy)(file, test / file.name)
    (test / "command").write_text(" ".join(["exec /bin/sh", f"/test/{recipe.files[0].name}", *words]) + "\n")
    shutil.copy(HERE / "init", tree / "init")
    (tree / "init").chmod(0o755)


def write_cpio(tree, file):
    """Write the tree in the "newc" format, owned by root."""
    number = 0
    # Linux opens /dev/console for /init before anything is mounted.
    entries = [("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)), ("dev/null", stat.S_IFCHR | 0o666, b"", (1, 3))]
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(tree))
        if stat.S_ISLNK(status.st_mode):
            entries.append((name, status.st_mode, os.readlink(path).encode(), (0, 0)))
        elif stat.S_ISREG(status.st_mode):
            entries.append((name, status.st_mode, path, (0, 0)))
        elif stat.S_ISDIR(status.st_mode):
            entries.append((name, status.st_mode, b"", (0, 0)))
    # Folders before what is in them, /dev included.
    entries.sort(key=lambda entry: entry[0])
    entries.append(("TRAILER!!!", 0, b"", (0, 0)))
    for name, mode, data, device in entries:
        number += 1
        data = data.read_bytes() if isinstance(data, Path) else data
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name.encode()) + 1, 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        file.write(header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4))
