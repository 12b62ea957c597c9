#!/usr/bin/env python3
"""Makes stand-ins for the images that ours are built on, where none can be pulled: from this Debian's own packages.

    deploy/stand_in_images.py [IMAGE…]      make those that are not there; all of them, if none is named
    deploy/stand_in_images.py --list        name them, and what each is made from

Each gets the name that it has in the Dockerfiles and in docker-compose.yml, and the label `etcdlock.stand-in`. An image
that is there already is never replaced. Remove the stand-ins (`docker rmi`) to build on the real ones again.

`debian` here holds only what the builds call, and the packages that they install already; apt in it has no sources, so
that the builds need no network. `prom/prometheus` is the program of Debian's package of that name, whatever version.
Root is needed to read some of the files.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

LABEL = "etcdlock.stand-in"
TOOLS = (
    "apt", "bash", "coreutils", "dpkg", "findutils", "grep", "sed", "tar", "gzip", "libc-bin", "mawk", "dash",
    "diffutils", "gpgv",
)  # fmt: skip
LEFT_OUT = re.compile(r"/usr/share/(doc|man|info|locale|lintian)/|/etc/apt/auth")
LIBRARY = re.compile(r"(/\S+) \(0x")
PACKAGE = re.compile(r"^Package: (.*)$", re.MULTILINE)
INSTALLED = "\nStatus: install ok installed\n"
NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
DPKG = Path("/var/lib/dpkg")
ACCOUNTS = Path("/usr/share/base-passwd")
APTS_USER = "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"


@dataclass(frozen=True)
class StandIn:
    """An image: these packages with all that they need, these programs with their libraries, and how it is run.

    `installed` names the packages that the programs come from.
    """

    name: str
    packages: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    programs: dict[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


STAND_INS = (
    StandIn(
        "debian:bookworm-slim",
        packages=(*TOOLS, "python3-venv", "etcd-server", "etcd-client"),
        changes=('CMD ["bash"]',),
    ),
    StandIn(
        "prom/prometheus:v2.53.4",
        installed=("prometheus",),
        programs={"/usr/bin/prometheus": "/bin/prometheus", "/usr/bin/promtool": "/bin/promtool"},
        changes=("USER 65534:65534", "WORKDIR /prometheus", 'ENTRYPOINT ["/bin/prometheus"]'),
    ),
)


class Tree:
    """A root file system as a tar: every path once, below its real folder, folders first."""

    def __init__(self, out: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|")  # noqa: SIM115  # closed with the tree
        self._there: set[str] = set()

    def close(self) -> None:
        """Ends the tar, not the stream below it."""
        self._tar.close()

    def add(self, path: str, /, *, at: str = "") -> None:
        """One file, link or folder of this machine, without what is in it."""
        if LEFT_OUT.search(path) or not os.path.lexists(path):
            return
        folder, name = os.path.split((at or path).rstrip("/"))
        real = os.path.join(os.path.realpath(folder), name)
        if real in self._there or not name:
            return
        self._parents(folder)
        self._there.add(real)
        self._tar.add(path, arcname=real, recursive=False)

    def write(self, path: str, content: str, /) -> None:
        """A file that is not this machine's."""
        self._parents(os.path.dirname(path))
        self._put(path, kind=tarfile.REGTYPE, mode=0o644, content=content.encode())

    def folder(self, path: str, /, *, mode: int = 0o755, owner: int = 0) -> None:
        """An empty one."""
        self._put(path, kind=tarfile.DIRTYPE, mode=mode, owner=owner)

    def _parents(self, folder: str, /) -> None:
        if folder not in ("", "/"):
            self.add(folder)
            self.add(os.path.realpath(folder))

    def _put(self, path: str, /, *, kind: bytes, mode: int, content: bytes = b"", owner: int = 0) -> None:
        if path in self._there:
            return
        self._there.add(path)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size, entry.uid, entry.gid = kind, mode, len(content), owner, owner
        self._tar.addfile(entry, _Bytes(content))


class _Bytes:
    """As much of a file as tarfile reads."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def read(self, size: int = -1) -> bytes:
        size = len(self._left) if size < 0 else size
        taken, self._left = self._left[:size], self._left[size:]
        return taken


def output_of(*command: str) -> str:
    """What it prints; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class Packages:
    """What dpkg says is installed here."""

    def __init__(self) -> None:
        paragraphs = (DPKG / "status").read_text(encoding="utf-8").split("\n\n")
        named = ((found[1], each) for each in paragraphs if (found := PACKAGE.search(each)) and INSTALLED in each)
        self.entries = dict(named)
        self._provided = {
            name: package
            for package, entry in self.entries.items()
            for group in _named(entry, "Provides")
            for name in group
        }

    def with_needs(self, packages: Iterable[str], /) -> list[str]:
        """These and all that they depend on; where there is a choice, the first that is installed."""
        found: set[str] = set()
        left = list(packages)
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            for group in [*_named(self.entries[name], "Pre-Depends"), *_named(self.entries[name], "Depends")]:
                left += [real for each in group if (real := self._real(each))][:1]
        return sorted(found)

    def _real(self, name: str, /) -> str | None:
        return name if name in self.entries else self._provided.get(name)


def _named(entry: str, field_name: str, /) -> list[list[str]]:
    """The groups of a relation, each a choice of packages."""
    found = re.search(rf"^{field_name}: (.*)$", entry, re.MULTILINE)
    groups = found[1].split(",") if found else []
    return [[NAME.match(each.strip())[0] for each in group.split("|")] for group in groups]  # type: ignore[index]


def add_packages(tree: Tree, wanted: Iterable[str], /) -> None:
    """Their files, and what dpkg and apt know of them, and nothing of what else is installed here."""
    installed = Packages()
    packages = installed.with_needs(wanted)
    for path in output_of("dpkg-query", "-L", *packages).splitlines():
        if path.startswith("/"):
            tree.add(path)
    known = set(packages)
    tree.write(str(DPKG / "status"), "\n\n".join(installed.entries[name] for name in packages) + "\n")
    for path in sorted((DPKG / "info").iterdir()):
        if path.name.partition(".")[0].partition(":")[0] in known or path.name.rpartition(".")[0] in known:
            tree.add(str(path))
    for name, more in (("passwd", APTS_USER), ("group", "")):
        master = (ACCOUNTS / f"{name}.master").read_text(encoding="ascii")
        tree.write(f"/etc/{name}", master + more)
    for folder in ("/var/log/apt", "/var/lib/apt/lists/partial", "/var/cache/apt/archives/partial"):
        tree.folder(folder)


def add_programs(tree: Tree, programs: dict[str, str], /) -> None:
    """Each at its place, and the libraries it is linked with."""
    for program, place in programs.items():
        for library in libraries(program):
            tree.add(library)
            tree.add(os.path.realpath(library))
        tree.add(os.path.realpath(program), at=place)
    tree.write("/etc/passwd", "nobody:x:65534:65534:nobody:/:/bin/false\n")
    tree.write("/etc/group", "nogroup:x:65534:\n")
    tree.folder("/prometheus", owner=65534)
    tree.folder("/etc/prometheus")


def libraries(program: str, /) -> Iterator[str]:
    """As the loader finds them; none for one that is linked with none."""
    found = subprocess.run(["ldd", program], check=False, capture_output=True, text=True)
    yield from LIBRARY.findall(found.stdout)


def is_there(image: str, /) -> bool:
    """Whether the engine has an image of this name."""
    return subprocess.run(["docker", "image", "inspect", image], check=False, capture_output=True).returncode == 0


def make(stand_in: StandIn, /) -> None:
    """Hand the engine a tree of this machine's files under the image's name."""
    changes = [word for change in (f"LABEL {LABEL}=true", *stand_in.changes) for word in ("--change", change)]
    with subprocess.Popen(
        ["docker", "import", *changes, "-", stand_in.name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as importing:
        into = cast("IO[bytes]", importing.stdin)
        tree = Tree(into)
        if stand_in.packages:
            add_packages(tree, stand_in.packages)
        if stand_in.programs:
            add_programs(tree, stand_in.programs)
        tree.folder("/tmp", mode=0o1777)  # noqa: S108  # a place in the image
        tree.folder("/run")
        tree.close()
        into.close()
    if importing.returncode:
        raise SystemExit(f"stand-in images: docker import of {stand_in.name} failed ({importing.returncode})")
    print(f"stand-in images: made {stand_in.name} of this machine's packages")


def missing_here(stand_in: StandIn, /) -> list[str]:
    """What must be installed first."""
    wanted = (*stand_in.packages, *stand_in.installed)
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *wanted]
    found = subprocess.run(query, check=False, capture_output=True, text=True).stdout.splitlines()
    return [package for package in wanted if f"installed {package}" not in found]


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--list", action="store_true", help="name them, and what each is made from")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="only these; all, if none is named")
    asked = parser.parse_args()
    if asked.list:
        for stand_in in STAND_INS:
            print(stand_in.name, *stand_in.packages, *stand_in.programs)
        return
    for stand_in in STAND_INS:
        if is_there(stand_in.name) or (asked.images and stand_in.name not in asked.images):
            continue
        if missing := missing_here(stand_in):
            sys.exit(f"stand-in images: {stand_in.name} needs packages that are not installed: {' '.join(missing)}")
        make(stand_in)


if __name__ == "__main__":
    main()
