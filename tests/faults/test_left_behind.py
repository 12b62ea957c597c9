"""What lives on of a guest whose first process ended unseen: an agent that comes later finds it by its mark."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

from etcdlock.adapters.host_processes import HostProcesses
from etcdlock.guard import table
from etcdlock.ports import Guest, GuestName
from tests.faults.frozen_disk import disk, done, thaw
from tests.faults.guarding import comes_true, run


def ended_leader() -> GuestName:
    """A name that nobody has any more."""
    with subprocess.Popen(["true"]) as leader:
        process = table.look_up(leader.pid)
        assert process is not None
        return process.name.pid, process.name.start


async def left(*names: GuestName) -> dict[GuestName, Guest]:
    return dict(await HostProcesses().left_behind(frozenset(names)))


def test_what_carries_the_guests_mark_is_the_guest_until_its_last_process_is_gone() -> None:
    name, other = ended_leader(), ended_leader()
    marked = {**os.environ, table.MARK: f"{name[0]}:{name[1]}"}
    with subprocess.Popen(["sleep", "300"], env=marked, start_new_session=True) as child:

        async def scenario() -> None:
            found = await left(name, other)
            assert set(found) == {name}, "of the other one nothing lives"
            guest = found[name]
            going = asyncio.ensure_future(guest.gone())
            await asyncio.sleep(0.5)
            assert not going.done()
            guest.kill()
            await going

        assert comes_true(lambda: table.MARK.encode() in Path(f"/proc/{child.pid}/environ").read_bytes())
        run(scenario())
        assert child.wait() == -signal.SIGKILL


def test_its_descriptor_is_of_one_that_has_ended_so_that_no_signal_to_the_leader_reaches_a_stranger() -> None:
    name = ended_leader()
    with subprocess.Popen(["sleep", "300"], env={**os.environ, table.MARK: f"{name[0]}:{name[1]}"}) as child:
        comes_true(lambda: table.MARK.encode() in Path(f"/proc/{child.pid}/environ").read_bytes())
        guest = run(left(name))[name]
        assert (guest.pid, guest.pid_start) == name
        guest.signal(signal.SIGKILL)
        assert child.poll() is None
        guest.kill()
        child.wait()


def test_what_sleeps_in_the_kernel_while_it_writes_is_the_guest_as_well(tmp_path: Path) -> None:
    name = ended_leader()
    with disk(tmp_path) as point:
        done("fsfreeze", "-f", point)
        writes = ["dd", "if=/dev/zero", f"of={point}/image", "count=1", "conv=fsync", "status=none"]
        marked = {**os.environ, table.MARK: f"{name[0]}:{name[1]}"}
        with subprocess.Popen(writes, env=marked, start_new_session=True) as child, ExitStack() as stack:
            stack.callback(thaw, point)

            def sleeps() -> bool:
                process = table.look_up(child.pid)
                return process is not None and process.waiting

            async def scenario() -> None:
                found = await left(name)
                assert set(found) == {name}
                going = asyncio.ensure_future(found[name].gone())
                await asyncio.sleep(0.5)
                assert not going.done()
                await asyncio.to_thread(thaw, point)
                await going

            assert comes_true(sleeps)
            run(scenario())
