"""Guests frozen for real: every thread stands, nobody lets them run unseen, and only who may lets them go on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.host_processes import HostProcesses
from etcdlock.adapters.processes import LocalGuest, LocalGuests
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.errors import SessionLost
from etcdlock.escalation import Action, Charge
from etcdlock.guard import table
from etcdlock.guard.table import Name
from etcdlock.guard.wire import Equipment
from tests.faults.guarding import CLOCK, SLACK_SECONDS, comes_true, ends, limits, run

BUDGET_SECONDS = 0.8
FREEZE = Charge(Action.FREEZE)
SEEN_WITHIN_SECONDS = 1.5
"""A guard looks at what it has frozen more often than that."""

BUSY = """
import os, sys, threading
def work():
    number = 0
    while True: number += 1
for _ in range(3): threading.Thread(target=work, daemon=True).start()
if len(sys.argv) > 1 and os.fork() == 0:
    os.setsid()
    for _ in range(2): threading.Thread(target=work, daemon=True).start()
work()
"""
"""Threads that never rest; with an argument also a child in a session of its own."""


class Scene:
    """A guard that is replaced when it dies, and a busy guest under it."""

    def __init__(self, guest: LocalGuest) -> None:
        self.guest = guest
        self.links: list[GuardLink] = []
        self.kept: KeptGuard
        self.keeping: asyncio.Future[object]

    async def begin(self, guests: LocalGuests, *, command: tuple[str, ...] = ()) -> None:
        async def start() -> GuardLink:
            equipment = Equipment(command=command, parent=os.getpid())
            link = await GuardLink.start(limits=limits(BUDGET_SECONDS, kill_seconds=3.0), equipment=equipment)
            guests.spare(link.pid)
            self.links.append(link)
            return link

        self.kept = KeptGuard(await start(), start=start)
        self.keeping = asyncio.ensure_future(self.kept.keep())

    @property
    def threads(self) -> list[str]:
        """The state of every thread of every process of the guest."""
        members = table.family(table.read_table(), leader=Name(self.guest.pid, self.guest.pid_start))
        tasks = [task for member in members for task in Path(f"/proc/{member.name.pid}/task").iterdir()]
        return [(task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] for task in tasks]

    def stands(self) -> bool:
        threads = self.threads
        return bool(threads) and set(threads) == {"T"}

    def ticks(self) -> int:
        """Processor time that the guest's first process has used."""
        fields = Path(f"/proc/{self.guest.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async def prove_and_arm(self, charge: Charge = FREEZE) -> None:
        await self.kept.prove("s", at=CLOCK.now())
        await self.kept.arm(self.guest, session="s", charge=charge)

    async def until(self, claim: object, *, within_seconds: float = 8.0) -> bool:
        return await asyncio.to_thread(comes_true, claim, within_seconds=within_seconds)  # type: ignore[arg-type]

    async def until_held(self) -> None:
        """All of it stands, and its guard has seen that."""
        name = (self.guest.pid, self.guest.pid_start)
        assert await self.until(self.stands)
        assert await self.until(lambda: name in self.kept.frozen)
        await CLOCK.sleep(0.5)
        assert self.stands()


@asynccontextmanager
async def scene(*words: str, charge: Charge = FREEZE, command: tuple[str, ...] = ()) -> AsyncIterator[Scene]:
    guests = LocalGuests()
    on = Scene(await guests.start([sys.executable, "-c", BUSY, *words], environment={}))
    await on.begin(guests, command=command)
    await on.prove_and_arm(charge)
    on.guest.open_gate(token=1)
    try:
        yield on
    finally:
        on.guest.kill()
        await on.guest.gone()
        on.keeping.cancel()
        for link in on.links:
            link.kill()


def test_all_threads_of_a_tree_of_processes_stand_at_the_deadline_and_go_on_when_armed_anew() -> None:
    async def scenario() -> None:
        begun = CLOCK.now()
        async with scene("with a child") as on:
            assert await on.until(on.stands)
            assert BUDGET_SECONDS <= CLOCK.now() - begun < BUDGET_SECONDS + SLACK_SECONDS
            assert len(on.threads) == 7
            await on.until_held()
            await CLOCK.sleep(2 * SEEN_WITHIN_SECONDS)       # long past the time to kill
            before = on.ticks()
            await CLOCK.sleep(0.3)
            assert on.ticks() == before
            assert not ends(on.guest.pidfd, within_seconds=0)
            await on.prove_and_arm()
            await on.kept.go_on(on.guest)
            assert await on.until(lambda: on.ticks() > before)
            await on.until_held()       # and so again at the next deadline

    run(scenario())


def test_neither_a_proof_nor_being_armed_lets_it_run_and_without_both_it_may_not() -> None:
    async def scenario() -> None:
        async with scene() as on:
            await on.until_held()
            with pytest.raises(SessionLost):
                await on.kept.arm(on.guest, session="s", charge=FREEZE)
            await on.kept.prove("s", at=CLOCK.now())
            with pytest.raises(SessionLost):
                await on.kept.go_on(on.guest)
            assert on.stands()

    run(scenario())


@pytest.mark.parametrize("again", [False, True], ids=["runs on", "is stopped again at once"])
def test_a_guest_that_somebody_else_lets_run_is_killed(again: bool) -> None:
    async def scenario() -> None:
        async with scene() as on:
            await on.until_held()
            os.kill(on.guest.pid, signal.SIGCONT)
            if again:
                os.kill(on.guest.pid, signal.SIGSTOP)
            assert ends(on.guest.pidfd, within_seconds=SEEN_WITHIN_SECONDS)

    run(scenario())


def test_what_is_frozen_stands_on_when_its_guard_is_killed_and_its_successor_holds_it() -> None:
    async def scenario() -> None:
        async with scene("with a child") as on:
            await on.until_held()
            os.kill(on.links[0].pid, signal.SIGKILL)
            assert await on.until(lambda: len(on.links) == 2)
            await CLOCK.sleep(SEEN_WITHIN_SECONDS)
            assert on.stands()
            await on.prove_and_arm()
            await on.kept.go_on(on.guest)
            assert await on.until(lambda: not on.stands())
            await on.until_held()
            os.kill(on.guest.pid, signal.SIGCONT)
            assert ends(on.guest.pidfd, within_seconds=SEEN_WITHIN_SECONDS), "the successor looks no less"

    run(scenario())


def test_a_successor_does_not_take_a_proof_alone_for_leave_to_run() -> None:
    async def scenario() -> None:
        async with scene() as on:
            await on.until_held()
            on.keeping.cancel()
            os.kill(on.links[0].pid, signal.SIGKILL)
            await on.kept.prove("s", at=CLOCK.now())
            with pytest.raises(SessionLost):
                await on.kept.go_on(on.guest)
            os.kill(on.guest.pid, signal.SIGCONT)
            assert ends(on.guest.pidfd, within_seconds=BUDGET_SECONDS / 2 + SEEN_WITHIN_SECONDS)

    run(scenario())


def test_what_cannot_be_stopped_in_time_is_killed() -> None:
    """Whoever lets it run as often as it is stopped is no match."""

    async def scenario() -> None:
        async with scene() as on:
            assert await on.until(lambda: "T" in on.threads)
            while not ends(on.guest.pidfd, within_seconds=0.01):
                on.guest.signal(signal.SIGCONT)

    run(scenario())


def test_a_command_is_run_in_time_with_the_guests_domain_and_then_the_guest_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nenv >{said}.part; mv {said}.part {said}; sleep 30\n", encoding="ascii")
    program.chmod(0o755)
    charge = Charge(Action.COMMAND, (("ETCDLOCK_DOMAIN_NAME", "vm 1"),))

    async def scenario() -> None:
        async with scene(charge=charge, command=(str(program),)) as on:
            assert await on.until(said.exists)
            lines = said.read_text(encoding="ascii").splitlines()
            assert {"ETCDLOCK_DOMAIN_NAME=vm 1", f"ETCDLOCK_GUEST_PID={on.guest.pid}"} <= set(lines)
            assert any(line.startswith("ETCDLOCK_DEADLINE=1.500") for line in lines)
            assert not ends(on.guest.pidfd, within_seconds=1.0)
            assert ends(on.guest.pidfd, within_seconds=0.5 + SLACK_SECONDS), "its time is up"
            assert await on.until(lambda: not running(str(program)))

    run(scenario())


@pytest.mark.parametrize("command", [(), ("/no/such/program",), ("/bin/true",)], ids=["none", "missing", "short"])
def test_a_guest_whose_command_has_ended_or_cannot_be_run_is_killed_at_once(command: tuple[str, ...]) -> None:
    async def scenario() -> None:
        begun = CLOCK.now()
        async with scene(charge=Charge(Action.COMMAND), command=command) as on:
            assert ends(on.guest.pidfd, within_seconds=5.0)
            assert CLOCK.now() - begun < BUDGET_SECONDS + SLACK_SECONDS

    run(scenario())


def running(program: str) -> bool:
    """Whether a shell runs it; its name stands in the guard's own arguments, too."""
    entries = (entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdigit())
    arguments = (entry.read_bytes().split(b"\0") for entry in entries if entry.exists())
    return any(words[1:2] == [program.encode()] for words in arguments)


def test_a_guest_that_others_started_is_frozen_and_goes_on_by_its_pid() -> None:
    async def scenario() -> None:
        guests = LocalGuests()
        guest = await guests.start([sys.executable, "-c", BUSY], environment={})
        guest.open_gate(token=1)
        found = HostProcesses().attach(guest.pid)
        found.freeze()
        assert await asyncio.to_thread(comes_true, found.stands)
        found.go_on()
        assert not found.stands()
        guest.kill()
        await guest.gone()

    run(scenario())
