"""What it takes to find out what 100 disks are, as the agent does it: in a thread, all together and one by one.

The files are real ones in a temporary folder. The multipath devices are a tree in sysfs's form, two paths and a page
83h each, since this machine need not have any: reading the kernel's own costs a little more for each file. Processor
time is what is left of it on a machine that does something else besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

from benchmarks.measure import Once, interleave, seconds_of
from benchmarks.report import Row, Section
from etcdlock.adapters.devices import Devices
from etcdlock.adapters.places import Places
from etcdlock.agent.namer import Namer
from etcdlock.diskfacts import Kind, Place
from etcdlock.identity import DiskIdentity, Naming

DISKS = 100
GOAL_MILLISECONDS = 50.0
TOGETHER, APART, UNITS = "100 files, together", "100 files, one by one", "100 multipath devices, together"


def section(*, rounds: int) -> Section:
    with TemporaryDirectory() as folder:
        files = [Path(folder, f"disk-{number}.img") for number in range(DISKS)]
        for file in files:
            file.touch()
        _tree(Path(folder))
        return asyncio.run(_measured(list(map(str, files)), folder, rounds=rounds))


async def _measured(files: list[str], folder: str, *, rounds: int) -> Section:
    by_kernel = Namer(Naming(DiskIdentity.AUTO, boot="boot", look=Places()))
    by_tree = Namer(Naming(DiskIdentity.AUTO, boot="boot", look=_Units(Devices(folder))))
    units = [f"/dev/mapper/mpath{number}" for number in range(DISKS)]
    subjects = {
        TOGETHER: _together(by_kernel, files),
        APART: _apart(by_kernel, files),
        UNITS: _together(by_tree, units),
    }
    processor = {
        f"{TOGETHER}: processor time": _together(by_kernel, files, clock=process_time),
        f"{UNITS}: processor time": _together(by_tree, units, clock=process_time),
    }
    taken = await interleave(subjects | processor, rounds=rounds, passes=5)
    goals = {TOGETHER: GOAL_MILLISECONDS, UNITS: GOAL_MILLISECONDS}
    rows = [Row(name, seconds_of(taken, name).times(1000), "ms", goals.get(name)) for name in subjects]
    rows += [Row(name, seconds_of(taken, name).times(1000), "ms") for name in processor]
    return Section("What disks are called, warm", rows)


def _together(names: Namer, paths: Sequence[str], /, *, clock: Callable[[], float] = perf_counter) -> Once:
    async def once() -> float:
        begun = clock()
        found = await names.names(paths)
        taken = clock() - begun
        if len(set(found.values())) != DISKS:
            raise RuntimeError("two disks have one name")
        return taken

    return once


def _apart(names: Namer, paths: Sequence[str], /) -> Once:
    async def once() -> float:
        begun = perf_counter()
        for path in paths:
            await names.name(path)
        return perf_counter() - begun

    return once


class _Units:
    """The devices of a tree, under their names."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def __call__(self, paths: Sequence[str], /) -> tuple[Place, ...]:
        return tuple(self._at(path) for path in paths)

    def _at(self, path: str) -> Place:
        device = self._devices.read(f"253:{path.removeprefix('/dev/mapper/mpath')}", file_at=lambda _: None)
        return Place(path=path, real=path, kind=Kind.BLOCK, device=device)


def _tree(root: Path, /) -> None:
    (root / "sys/dev/block").mkdir(parents=True)
    for number in range(DISKS):
        naa = (0x600508B400105E210000900000490000 + number).to_bytes(16, "big")
        page = b"\0\x83\0\x14\x01\x03\0\x10" + naa
        paths = [f"sd{number}x{path}" for path in range(2)]
        for path, name in enumerate(paths):
            _disk(root, f"8:{2 * number + path}", name, {"device/vpd_pg83": page, "device/wwid": b"naa." + naa})
        _disk(root, f"253:{number}", f"dm-{number}", {"dm/uuid": b"mpath-3" + naa.hex().encode()}, lower=paths)


def _disk(root: Path, number: str, name: str, files: dict[str, bytes], *, lower: Sequence[str] = ()) -> None:
    folder = root / "sys/devices" / name
    for file, content in {"dev": number.encode(), **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    for below in lower:
        (folder / "slaves").mkdir(exist_ok=True)
        (folder / "slaves" / below).symlink_to(root / "sys/devices" / below)
    (root / "sys/dev/block" / number).symlink_to(f"../../devices/{name}")
