"""A guest dies with the cgroup that it has for itself, and with no other: in real cgroups."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.host_processes import HostProcesses
from etcdlock.escalation import Action, Charge
from etcdlock.guard import cgroup, table
from tests.faults.guarding import BUDGET_SECONDS, CLOCK, comes_true, limits, lives, run

OUTER = r"machine-qemu\x2d1\x2douter.scope"
SCOPE = r"machine-qemu\x2d7\x2dvm.scope"
IN_CLOSE_WRITE = 0x8


class Scene:
    """A slice of our own, and processes in its cgroups."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._stack = ExitStack()

    def process(self, where: str = "") -> int:
        """One that nobody is related to, in this cgroup of the slice."""
        process = self._stack.enter_context(subprocess.Popen(["sleep", "300"], start_new_session=True))
        self._stack.callback(process.kill)
        if where:
            self.move(process.pid, where)
        return process.pid

    def move(self, pid: int, where: str) -> None:
        folder = self.top / where
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def close(self) -> None:
        (self.top / "cgroup.kill").write_text("1", encoding="ascii")
        self._stack.close()
        folders = [Path(folder) for folder, _, _ in os.walk(self.top, topdown=False)]
        assert comes_true(lambda: not any(map(lives, self._left())))
        for folder in folders:
            folder.rmdir()

    def _left(self) -> list[int]:
        files = self.top.rglob("cgroup.procs")
        return [int(pid) for file in files for pid in file.read_text(encoding="ascii").split()]


@pytest.fixture
def scene() -> Iterator[Scene]:
    mount = cgroup.hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8")).get("")
    top = Path(mount or "/nowhere") / f"etcdlock-test-{uuid4().hex[:8]}.slice"
    try:
        top.mkdir()
        if not (top / "cgroup.kill").exists():
            raise FileNotFoundError(top / "cgroup.kill")
    except OSError as error:
        with suppress(OSError):
            top.rmdir()
        pytest.skip(f"needs cgroups of version 2 that may be made: {error}")
    made = Scene(top)
    yield made
    made.close()


def struck(
    guest: int, *, other: int = 0, action: Action = Action.KILL, guard_in: Callable[[int], None] | None = None
) -> None:
    """Come back when a guard has struck this guest at its deadline, and has done what else it does about it; the guest
    `other` is proven all the while.
    """

    async def scenario() -> None:
        link = await GuardLink.start(limits=limits(BUDGET_SECONDS, kill_seconds=2.0))
        if guard_in is not None:
            guard_in(link.pid)
        processes = HostProcesses()
        await link.prove("lost", at=CLOCK.now() - BUDGET_SECONDS / 2)
        await link.arm(processes.attach(guest), session="lost", charge=Charge(action))
        if other:
            await link.prove("proven", at=CLOCK.now())
            await link.arm(processes.attach(other), session="proven")
        begun = CLOCK.now()
        while (lives(guest) or CLOCK.now() < begun + BUDGET_SECONDS) and not standing(guest):
            await CLOCK.sleep(0.05)
            await link.prove("proven", at=CLOCK.now())
        if other:
            await link.disarm(processes.attach(other))
        await link.close()

    run(scenario())


def standing(pid: int) -> bool:
    process = table.look_up(pid)
    return process is not None and process.stopped


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (rf"/machine.slice/{SCOPE}/libvirt/emulator", rf"/machine.slice/{SCOPE}"),
        ("/machine/qemu-1-vm.libvirt-qemu/emulator", "/machine/qemu-1-vm.libvirt-qemu"),
        ("/qemu.slice/100.scope", "/qemu.slice/100.scope"),
        (rf"/{OUTER}/a/{SCOPE}", rf"/{OUTER}/a/{SCOPE}"),
        ("/", None),
        ("/system.slice/libvirtd.service", None),
        ("/system.slice/etcdlock-agent.service", None),
        ("/user.slice/user-0.slice/session-3.scope", None),
        ("/machine.slice/machine-container.scope/payload", None),
        ("/user.slice/100.scope", None),
        (rf"/machine.slice/{SCOPE}x/a", None),
    ],
)
def test_only_what_is_made_for_one_machine_is_one_guests_own(path: str, own: str | None) -> None:
    assert cgroup.own_part(path) == own


@pytest.mark.parametrize("where", [SCOPE, f"{SCOPE}/libvirt/emulator", "qemu-7-vm.libvirt-qemu/emulator"])
def test_a_guest_takes_along_whatever_is_in_the_cgroup_that_is_its_own(scene: Scene, where: str) -> None:
    guest, helper = scene.process(where), scene.process(where.partition("/")[0])
    neighbour = scene.process("other.scope")
    struck(guest)
    assert comes_true(lambda: not lives(helper))
    assert lives(neighbour)


def test_a_guests_cgroup_is_killed_at_one_stroke_so_that_nothing_born_meanwhile_escapes(scene: Scene) -> None:
    guest, helper = scene.process(f"{SCOPE}/libvirt/emulator"), scene.process(SCOPE)
    with watched(scene.top / SCOPE / cgroup.KILL_FILE) as was_written:
        struck(guest)
        assert comes_true(was_written)
    assert comes_true(lambda: not lives(helper))


@contextmanager
def watched(file: Path) -> Iterator[Callable[[], bool]]:
    """Whether anybody has written to it since."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    with FileIO(descriptor) as events:
        assert libc.inotify_add_watch(descriptor, os.fsencode(file), IN_CLOSE_WRITE) >= 0
        yield lambda: bool(events.read(4096))


def test_what_was_born_before_the_guest_and_moved_in_later_dies_too(scene: Scene) -> None:
    helper = scene.process()
    guest = scene.process("libvirtd.service")
    scene.move(guest, SCOPE)
    scene.move(helper, SCOPE)
    struck(guest)
    assert comes_true(lambda: not lives(helper))


def test_a_cgroup_that_bears_no_machines_name_is_nobodys_own(scene: Scene) -> None:
    guest, daemon = scene.process("libvirtd.service"), scene.process("libvirtd.service")
    struck(guest)
    assert lives(daemon)


def test_version_2_is_looked_at_before_systemds_own_hierarchy_and_what_is_mounted_in_part_is_not() -> None:
    lines = (
        "31 25 0:26 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd",
        "32 25 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu",
        "33 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
        "34 25 0:28 /part /mnt rw - cgroup2 cgroup2 rw",
    )
    found = cgroup.hierarchies("\n".join(lines))
    assert list(found.items()) == [("", "/sys/fs/cgroup/unified"), ("name=systemd", "/sys/fs/cgroup/systemd")]


def test_a_cgroup_is_left_alone_in_which_another_guest_is(scene: Scene) -> None:
    guest, other, helper = (scene.process(SCOPE) for _ in range(3))
    struck(guest, other=other)
    assert lives(other)
    assert lives(helper)


def test_a_cgroup_is_left_alone_in_which_the_guard_itself_is_or_whoever_it_guards_for(scene: Scene) -> None:
    for who in ("guard", "agent"):
        guest, helper = scene.process(SCOPE), scene.process(SCOPE)
        if who == "guard":
            struck(guest, guard_in=lambda pid: scene.move(pid, SCOPE))
        else:
            scene.move(os.getpid(), SCOPE)
            try:
                struck(guest)
            finally:
                (scene.top.parent / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        assert lives(helper)


def test_where_the_kernel_cannot_kill_a_cgroup_at_once_its_members_are_killed_one_by_one(
    scene: Scene, tmp_path: Path
) -> None:
    """As before 5.14: a folder without that file, which no write can make."""
    guest, helper, stranger = scene.process(SCOPE), scene.process(f"{SCOPE}/below"), scene.process("x.scope")
    mounts = cgroup.hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    groups = cgroup.Cgroups(never=(), mounts=mounts)
    name = table.look_up(guest)
    assert name is not None
    groups.find(name.name)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cgroup, "KILL_FILE", "cgroup.no-such-file")
        groups.kill(name.name, others=())
    assert comes_true(lambda: not lives(guest) and not lives(helper))
    assert lives(stranger)


def test_a_cgroup_made_anew_under_the_same_name_is_another_guests(scene: Scene) -> None:
    guest = scene.process(SCOPE)
    name = table.look_up(guest)
    assert name is not None
    groups = cgroup.Cgroups(never=(), mounts=cgroup.hierarchies(Path("/proc/self/mountinfo").read_text("utf-8")))
    groups.find(name.name)
    assert groups.members(name.name, others=()) == {guest}
    scene.move(guest, "elsewhere.scope")
    (scene.top / SCOPE).rmdir()
    later = scene.process(SCOPE)
    assert groups.members(name.name, others=()) == frozenset()
    groups.kill(name.name, others=())
    assert lives(later)


def test_a_guest_that_must_stand_stands_with_all_of_its_cgroup(scene: Scene) -> None:
    guest, helper = scene.process(SCOPE), scene.process(SCOPE)
    struck(guest, action=Action.FREEZE)
    assert comes_true(lambda: standing(helper))
