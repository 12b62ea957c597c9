"""Disks that a guest's door knows by their paths alone: named once, and found again whatever becomes of the path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from etcdlock.agent.namer import Namer
from etcdlock.diskfacts import Kind, Mount, Place
from etcdlock.errors import HeldElsewhere, NotIdentified, NotLocked
from etcdlock.identity import DiskIdentity, Naming, ResourceName
from etcdlock.model import LockState, Mode, Resource
from etcdlock.ports import Guest
from etcdlock.testing import FakeProcesses
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor
from tests.promises.vm import Vm
from tests.promises.world import World, domain

VM, OTHER = domain(1), domain(2)
MOUNT = Mount(kind="nfs4", source="nas:/vms", root="/", point="/", device="0:40")
HERE = Mount(kind="ext4", source="/dev/vda", root="/", point="/", device="8:1")


class Files(Namer):
    """What is at a host's paths, named at once by the real rules; they can be moved, and whoever looks is counted."""

    def __init__(self, boot: str, **files: str) -> None:
        super().__init__(Naming(DiskIdentity.AUTO, boot=boot, look=self.look))
        self.files = {f"/{path}": real for path, real in files.items()}
        self.count = 0

    async def names(self, paths: Sequence[str], /) -> dict[str, ResourceName]:
        return {path: one.name for path, one in zip(paths, self._naming.identified(paths), strict=True)}

    def look(self, paths: Sequence[str], /) -> tuple[Place, ...]:
        self.count += len(paths)
        return tuple(self._place(path) for path in paths)

    def _place(self, path: str) -> Place:
        real = self.files.get(path)
        if real is None:
            return Place(path=path, real=path, kind=Kind.ABSENT, error="no such file")
        return Place(path=path, real=real, kind=Kind.FILE, mount=HERE if real.startswith("/own") else MOUNT)


class ByPath(FakeProcesses):
    """Guests have files open by their paths on this host, as the kernel knows them, and by no name of ours."""

    def open(self, guest: Guest, resource: Resource) -> None:
        super().open(guest, Resource("", resource.path, resource.mode, ""))

    def close(self, guest: Guest, resource: Resource) -> None:
        super().close(guest, Resource("", resource.path, resource.mode, ""))

    async def has_open(self, guest: Guest, resource: Resource, /) -> bool:
        return await super().has_open(guest, Resource("", resource.path, resource.mode, ""))


async def host(world: World, name: str, files: Files) -> Hypervisor:
    made = Hypervisor(world, world.host(name))
    made.processes = ByPath(first_pid=made.processes.start().pid + 1000)
    made.namer = files
    await made.bring_up()
    return made


def at(path: str, mode: Mode = Mode.EXCLUSIVE) -> Resource:
    """As the wire says it."""
    return Resource("", "", mode, path)


def locked(host: Hypervisor) -> list[str]:
    stored = host.record(VM)
    return [] if stored is None else [f"{one.lockspace}:{one.name}" for one in stored.record.resources]


async def started(here: Hypervisor, *paths: str) -> Vm:
    """Without the judge's bookkeeping, which knows disks by their names."""
    vm = here.prepare(VM, *map(at, paths))
    for path in paths:
        await here.take(vm.owner, at(path))
    return vm


def play_unjudged(play: Play, scenario: object) -> None:
    play(scenario, judged=False)


def test_two_hosts_that_see_one_disk_under_two_paths_exclude_each_other(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await host(world, "a", Files("a", x="/vm1")), await host(world, "b", Files("b", y="/vm1"))
        await started(a, "/x")
        vm = b.prepare(OTHER, at("/y"))
        with pytest.raises(HeldElsewhere, match="/x is held by domain vm1 on host a"):
            await b.take(vm.owner, at("/y"))

    play_unjudged(play, scenario)


def test_equal_paths_to_files_of_two_hosts_own_do_not(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await host(world, "a", Files("a", x="/own1")), await host(world, "b", Files("b", x="/own1"))
        await started(a, "/x")
        vm = b.prepare(OTHER, at("/x"))
        await b.take(vm.owner, at("/x"))

    play_unjudged(play, scenario)


@pytest.mark.parametrize("becomes", [None, "/other"], ids=["deleted", "replaced"])
@pytest.mark.parametrize("restarted", [False, True], ids=["", "agent restarted"])
def test_whatever_becomes_of_the_path_a_guest_stops_goes_on_and_gives_back_what_it_has(
    play: Play, becomes: str | None, restarted: bool
) -> None:
    async def scenario(world: World) -> None:
        files = Files("a", x="/vm1")
        a = await host(world, "a", files)
        vm = await started(a, "/x")
        assert locked(a) == ["nfs:nas:2049/vms/vm1"]
        if restarted:
            a.kill_agent()
            await a.bring_up()
        if becomes is None:
            del files.files["/x"]
        else:
            files.files["/x"] = becomes
        files.count = 0
        a.give_up(vm.owner, at("/x"))
        await asyncio.sleep(0.1)
        assert a.state(VM) is LockState.PARKED
        await a.take(vm.owner, at("//x"))
        assert (a.state(VM), locked(a)) == (LockState.HELD, ["nfs:nas:2049/vms/vm1"])
        assert files.count == 0, "nothing was looked at anew"
        a.processes.close(vm.guest, at("/x"))
        a.give_up(vm.owner, at("/x"))
        await asyncio.sleep(0.1)
        assert locked(a) == []

    play_unjudged(play, scenario)


@pytest.mark.parametrize("away", [0.1, 1.3, 1.6, 1.9, 2.2, 2.5])
def test_a_path_that_was_closed_and_is_opened_again_is_looked_at_again(play: Play, away: float) -> None:
    async def scenario(world: World) -> None:
        files = Files("a", x="/vm1", y="/vm2")
        a = await host(world, "a", files)
        vm = await started(a, "/x", "/y")
        a.host.store.cut()  # it has been closed here, and etcd does not know yet
        a.processes.close(vm.guest, at("/y"))
        a.give_up(vm.owner, at("/y"))
        await asyncio.sleep(away)
        a.host.store.mend()
        files.files["/y"] = "/vm3"
        await a.take(vm.owner, at("/y"))
        await asyncio.sleep(3.0)
        assert sorted(locked(a)) == ["nfs:nas:2049/vms/vm1", "nfs:nas:2049/vms/vm3"]

    play_unjudged(play, scenario)


def test_a_disk_under_another_path_at_the_destination_stays_locked_while_its_guest_is_suspended_there(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        a, b = await host(world, "a", Files("a", x="/vm1")), await host(world, "b", Files("b", y="/vm1"))
        vm = await started(a, "/x")
        arriving = b.prepare(VM, at("/y"), incoming=True)
        a.give_up(vm.owner, at("/x"))
        await asyncio.sleep(0.1)
        await b.take(arriving.owner, at("/y"))
        vm.guest.end()
        assert locked(b) == ["nfs:nas:2049/vms/vm1"]
        b.give_up(arriving.owner, at("/y"))
        await asyncio.sleep(0.1)
        assert (b.state(VM), locked(b)) == (LockState.PARKED, ["nfs:nas:2049/vms/vm1"])

    play_unjudged(play, scenario)


@pytest.mark.parametrize("paths", [("/x",), ("/s", "/x")], ids=["alone", "behind a shared disk"])
def test_a_file_of_the_destinations_own_is_not_taken_for_the_sources_of_that_path(
    play: Play, paths: tuple[str, ...]
) -> None:
    async def scenario(world: World) -> None:
        a, b = [await host(world, name, Files(name, x="/own1", s="/vm1")) for name in "ab"]
        vm = await started(a, *paths)
        arriving = b.prepare(VM, *map(at, paths), incoming=True)
        for path in paths:
            a.give_up(vm.owner, at(path))
        await asyncio.sleep(0.1)
        for path in paths:
            await b.take(arriving.owner, at(path))
        vm.guest.end()
        assert "local/b:8:1/own1" in locked(b)

    play_unjudged(play, scenario)


def test_a_disk_that_is_not_identified_is_refused_and_nothing_is_locked(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await host(world, "a", Files("a"))
        vm = a.prepare(VM, at("/x"))
        with pytest.raises(NotIdentified, match="no such file"):
            await a.take(vm.owner, at("/x"))
        assert locked(a) == []
        assert a.agent is not None
        with pytest.raises(NotLocked):
            a.agent.give_up(vm.owner, at("/x"))

    play_unjudged(play, scenario)
