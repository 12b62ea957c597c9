"""A watchdog that runs on beside guests whose guard was killed is opened, and so fed, by nobody who may not know them.

Its place takes a file. It is no watchdog, which a guard finds out by opening it; and what a guard gives up it stops for
good, which can be read in the file.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.guard_record import GuardRecord
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.config import Settings
from etcdlock.errors import GuardLost, InvalidSetting
from etcdlock.timing import Timing
from etcdlock.watching import start_agents_guard
from tests.cli.hosts import Cluster
from tests.cli.site import on_host

STOPPED = b"V"
LEFT = 5.0


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "watchdog"
    path.touch()
    return path


def written(device: Path) -> bytes:
    return device.read_bytes()


def dead_guard(folder: Path, *, watches: bool = True) -> None:
    """One that an earlier agent of a host with a watchdog has started, and that was killed."""
    with subprocess.Popen(["sleep", "60"]) as guard:
        GuardRecord(str(folder)).add(guard.pid, watchdog_seconds=LEFT, watches=watches)
        guard.kill()


async def started(folder: Path, device: Path, *, mode: str = "automatic") -> tuple[KeptGuard, Timing]:
    return await start_agents_guard(settings_of(folder, device, mode=mode), GuardRecord(str(folder)))


def settings_of(folder: Path, device: Path, *, mode: str = "automatic") -> Settings:
    return Settings(watchdog=mode, watchdog_device=str(device), run_folder=str(folder))  # type: ignore[arg-type]


def test_it_is_not_opened_before_all_guests_are_known_and_the_host_goes_by_its_time_until_then(
    tmp_path: Path, device: Path
) -> None:
    async def program() -> tuple[float, bytes, bytes]:
        guard, timing = await started(tmp_path, device)
        before = written(device)
        await guard.knows_all()
        await guard.close()
        return timing.watchdog_seconds, before, written(device)

    dead_guard(tmp_path)
    assert asyncio.run(program()) == (LEFT, b"", STOPPED)


def test_nor_by_the_next_agent_after_one_that_did_not_come_to_know_them(tmp_path: Path, device: Path) -> None:
    async def program() -> bytes:
        for _ in range(2):
            guard, _ = await started(tmp_path, device)
            await guard.close()
        return written(device)

    dead_guard(tmp_path)
    assert asyncio.run(program()) == b""


def test_where_nothing_was_left_it_is_opened_at_once(tmp_path: Path, device: Path) -> None:
    async def program() -> tuple[float, bytes]:
        guard, timing = await started(tmp_path, device)
        await guard.knows_all()
        await guard.close()
        return timing.watchdog_seconds, written(device)

    assert asyncio.run(program()) == (0.0, STOPPED)
    with pytest.raises(InvalidSetting, match="watchdog is 'required'"):
        asyncio.run(started(tmp_path, device, mode="required"))


def test_where_it_is_required_and_gone_by_then_the_agent_ends_and_the_guard_stays_with_the_guests(
    tmp_path: Path, device: Path
) -> None:
    async def program() -> None:
        guard, _ = await started(tmp_path, device, mode="required")
        with pytest.raises(GuardLost, match="watchdog is 'required'"):
            await guard.knows_all()
        await guard.prove("s", at=0.0)  # it answers
        await guard.close()

    dead_guard(tmp_path)
    asyncio.run(program())


def test_an_agent_lets_its_guard_have_it_once_it_knows_its_guests(tmp_path: Path, device: Path) -> None:
    """And not before: as long as it cannot ask etcd."""
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    dead_guard(run_folder)
    told = on_host(tmp_path) | {"ETCDLOCK_WATCHDOG": "automatic", "ETCDLOCK_WATCHDOG_DEVICE": str(device)}
    with EmbeddedEtcd() as etcd, ExitStack() as at_the_end:
        cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", tmp_path)
        at_the_end.callback(cluster.close)
        etcd.pause()
        agent = cluster.start("agent", **told)
        agent.says("guard_started")
        assert device.read_bytes() == b""
        etcd.resume()
        agent.says("no_watchdog")
        assert device.read_bytes() == STOPPED
        agent.send(signal.SIGTERM)
        assert agent.ended().status == 0
