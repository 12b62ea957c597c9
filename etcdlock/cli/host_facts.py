"""What can be seen of this host's guests, its agent and its libvirt without asking any of them, or changing anything.

Guests are those that libvirt has written down and whose process lives. Whether the agent runs is told by the lock on
its file, and who listens on a socket by the kernel's own list: connecting would start what systemd starts on demand.

Not guaranteed: what this user may not read is not seen; `doctor` is for root, or for the user whose agent it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etcdlock.cli.wanted import whole
from etcdlock.domainxml import DomainXml, named_of, paths_of
from etcdlock.errors import InvalidInput, NotIdentified
from etcdlock.guard import table
from etcdlock.guard.table import Name
from etcdlock.identity import distinct, with_readonly_rule
from etcdlock.libvirt.status import RUNNING, parse_status
from etcdlock.model import DomainId, Mode, Resource

if TYPE_CHECKING:
    from etcdlock.config import Settings

Wanted = Callable[[DomainXml], tuple[Resource, ...]]
"""What a guest needs locked, by the cluster's rules. Raises `InvalidInput` and `NotIdentified`."""

LARGEST_STATUS = 8 * 2**20
_LISTENS = 0x10000
_LOCK_MANAGER = re.compile(r"""^\s*lock_manager\s*=\s*["'](.*?)["']""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SeenGuest:
    """A guest that libvirt runs. `vcpus_run` as far as libvirt has written down; `source` is where."""

    domain: DomainId
    process: Name
    vcpus_run: bool
    resources: tuple[Resource, ...]
    source: str


@dataclass(frozen=True, slots=True)
class SocketFact:
    """A socket that should be listened on. `listeners` are the programs that hold it, as far as may be seen."""

    path: str
    listened: bool
    listeners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Everything seen. `agent` is its pid, 0 if none runs; `conf` is None where libvirt has no such file; `is_shadow`
    and `locks_chains` are what its settings say.
    """

    hosts: frozenset[str]
    boot: str
    guests: tuple[SeenGuest, ...]
    unread: tuple[str, ...]
    agent: int
    api: SocketFact
    locks: SocketFact
    conf: str | None
    lock_manager: str
    is_shadow: bool = False
    locks_chains: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """Where libvirt keeps what it knows: for the system, or for a user."""

    statuses: Path
    conf: Path

    @property
    def definitions(self) -> Path:
        """Of the domains that it knows, whether they run or not."""
        return self.conf.parent / "qemu"


def places(*, uid: int, environment: Mapping[str, str]) -> Places:
    """By libvirt's own rules."""
    if uid == 0:
        return Places(Path("/run/libvirt/qemu"), Path("/etc/libvirt/qemu.conf"))
    home = environment.get("HOME", "/nonexistent")
    runtime = environment.get("XDG_RUNTIME_DIR") or f"{environment.get('XDG_CACHE_HOME') or home + '/.cache'}"
    config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return Places(Path(runtime, "libvirt/qemu/run"), Path(config, "libvirt/qemu.conf"))


def read_guests(
    folder: Path, /, *, wanted: Wanted, chains: bool = False
) -> tuple[tuple[SeenGuest, ...], tuple[str, ...]]:
    """The guests whose processes live, and what could not be read and why."""
    guests, unread = [], []
    for file in sorted(folder.glob("*.xml")):
        try:
            guest = _guest(file, wanted=wanted, chains=chains)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except OSError as error:
            unread.append(f"{file}: {error.strerror}")
        except NotIdentified as error:
            unread.append(f"{file}: {error}")
        except InvalidInput as error:
            unread.append(str(error))
        else:
            guests += [guest] if guest else []
    return tuple(guests), tuple(unread)


def _guest(file: Path, /, *, wanted: Wanted, chains: bool) -> SeenGuest | None:
    with file.open("rb") as opened:
        status = parse_status(opened.read(LARGEST_STATUS), source=str(file), chains=chains)
    process = table.look_up(status.pid)
    if process is None or not process.alive:
        return None
    return SeenGuest(status.xml.domain, process.name, status.state == RUNNING, wanted(status.xml), str(file))


def gone_of(names: frozenset[Name], /) -> frozenset[Name]:
    """Those of these processes that do not live any more."""
    found = {name: table.look_up(name.pid) for name in names}
    return frozenset(name for name, now in found.items() if now is None or now.name != name or not now.alive)


def agent_of(run_folder: str, /) -> int:
    """The pid of the agent that holds the lock on its file, 0 if nobody does."""
    file = Path(run_folder, "agent.lock")
    try:
        there, locks = file.stat(), Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return 0
    device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}"
    for held in re.finditer(rf"^\d+: FLOCK +\S+ +WRITE +(\d+) (\S+):{there.st_ino} ", locks, re.MULTILINE):
        if held[2] == device or held[1] == _written_in(file):  # some file systems have devices that only they know
            return int(held[1])
    return 0


def _written_in(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # it is for its owner alone
        return ""


def socket_at(path: str, /) -> SocketFact:
    """Whether somebody listens there, and who."""
    try:
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="surrogateescape").splitlines()[1:]
    except OSError:
        lines = []
    wanted = os.path.realpath(path)
    fields = (line.split(maxsplit=7) for line in lines)
    inodes = {f[6] for f in fields if len(f) == 8 and int(f[3], 16) & _LISTENS and os.path.realpath(f[7]) == wanted}
    there = bool(inodes) and Path(path).exists()
    return SocketFact(path, there, tuple(sorted(set(_holders(inodes)))) if there else ())


def _holders(inodes: set[str]) -> Iterator[str]:
    named = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) in named for link in (process / "fd").iterdir()):  # noqa: PTH115 - it names no path
                yield (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue


def lock_manager_in(conf: Path, /) -> tuple[str | None, str]:
    """The file's path if there is one, and what it says; the last of several lines counts, as for libvirt."""
    try:
        found = _LOCK_MANAGER.findall(conf.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None, ""
    return str(conf), found[-1] if found else ""


def own_hosts(settings: Settings, /) -> frozenset[str]:
    """The host ids that this user's programs have in the cluster; an agent that is not root's has one of its own."""
    from etcdlock.wiring import host_id

    host, uid = host_id(settings), os.geteuid()
    return frozenset({host} | ({f"{host}.user-{uid}"} if uid else set()))


def wanted_by(settings: Settings, /) -> Wanted:
    """By the settings' rules."""
    from etcdlock.wiring import namer

    names = namer(settings)

    def wanted(parsed: DomainXml) -> tuple[Resource, ...]:
        xml = whole(settings, parsed)
        paths = paths_of(xml)
        found = {path: one.name for path, one in zip(paths, names.identified(paths), strict=True)}
        named = named_of(xml, identify=found.__getitem__)
        resources = with_readonly_rule(distinct(named), rule=settings.readonly_disks)
        return tuple(resource for resource in resources if resource.mode is not Mode.READ_ONLY)

    return wanted


def guests_here(settings: Settings, /) -> tuple[tuple[SeenGuest, ...], tuple[str, ...]]:
    """Of this user's libvirt: the guests whose processes live, and what could not be read and why."""
    folder = places(uid=os.geteuid(), environment=os.environ).statuses
    return read_guests(folder, wanted=wanted_by(settings), chains=settings.backing_chain != "none")


def see_host(settings: Settings, /) -> HostFacts:
    """All of it."""
    from etcdlock.adapters.machine import read_machine

    guests, unread = guests_here(settings)
    conf, lock_manager = lock_manager_in(places(uid=os.geteuid(), environment=os.environ).conf)
    return HostFacts(
        hosts=own_hosts(settings),
        boot=read_machine().boot,
        guests=guests,
        unread=unread,
        agent=agent_of(settings.run_folder),
        api=socket_at(settings.api_path),
        locks=socket_at(settings.lock_socket),
        conf=conf,
        lock_manager=lock_manager,
        is_shadow=settings.is_shadow,
        locks_chains=settings.backing_chain != "none",
    )
