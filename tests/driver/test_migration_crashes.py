"""Whatever is killed in the midst of a migration, program or guest: one owner is left, and one guest is let run.

Real programs that embed the driver, a real etcd, and real guests, which only sleep. Who owns the domain is read in
etcd; which guest may run is what each side was told; that nobody else gets in is asked by a third host.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.driver import Capability, DomainId, Loaded, LockManager, load
from etcdlock.errors import HeldElsewhere
from etcdlock.guard import table
from etcdlock.model import LockState
from tests.cli.hosts import SHORT_TIMING
from tests.driver.declared import proves
from tests.driver.places import GUEST, NOWHERE, Place, comes_true, place
from tests.driver.side import Failed, Program, end_server

STEPS = (
    ("a", "prepare_migrate"),
    ("b", "incoming"),
    ("a", "suspend"),
    ("b", "acquire"),
    ("b", "complete_migrate"),
    ("a", "complete_migrate"),
)
BACK = (*STEPS[:4], ("b", "cancel_migrate"), ("a", "cancel_migrate"))
PREPARED, LET_IN, SUSPENDED, CLAIMED, COMPLETED = range(1, 6)
LET_RUN = {("b", "complete_migrate"), ("a", "cancel_migrate"), ("b", "run_on")}
OTHER = {"a": "b", "b": "a"}
AT_ONCE = 3


@dataclass
class Migration:
    """One domain on its way from `a` to `b`; both sides' guests are killed in the end."""

    there: Place
    third: Loaded
    folder: Path
    uuid: UUID = field(default_factory=uuid4)
    programs: dict[str, Program] = field(default_factory=dict)
    guests: dict[str, int] = field(default_factory=dict)
    may_run: set[str] = field(default_factory=set)
    ticket: str = ""

    def host(self, side: str) -> str:
        """With `etcd` each program is a host of its own; agents are there for all of them."""
        return side if self.there.driver == "agent" else f"{side}-{self.uuid.hex[:8]}"

    @property
    def disk(self) -> str:
        return f"/san/{self.uuid}"

    def load(self, side: str) -> None:
        self.programs[side] = Program(self.there, self.host(side), self.folder / f"{self.uuid}-{side}")

    def begin(self, done: int, steps: tuple[tuple[str, str], ...]) -> None:
        """The guest runs on `a`, and so many steps are done."""
        self.load("a")
        self.guests["a"] = self.programs["a"].do("start", str(self.uuid), self.disk)
        self.may_run = {"a"}
        self.load("b")
        for side, step in steps[:done]:
            self.step(side, step)

    def step(self, side: str, step: str) -> None:
        self.note(side, step, self.ask(side, step).answer())

    def ask(self, side: str, step: str) -> Program:
        if step == "suspend":
            self.may_run.discard(side)  # the vCPUs have stopped
        arguments: tuple[str, ...] = (self.host("b"),) if step == "prepare_migrate" else ()
        if step == "incoming":
            arguments = (str(self.uuid), self.disk, self.ticket)
        self.programs[side].ask("acquire" if step == "run_on" else step, *arguments)
        return self.programs[side]

    def note(self, side: str, step: str, said: Any) -> None:
        if step == "prepare_migrate":
            self.ticket = said
        elif step == "incoming":
            self.guests["b"] = said
        elif (side, step) in LET_RUN:
            assert self.may_run <= {side}, f"{side} was let run while {self.may_run} may run"
            self.may_run.add(side)

    def attempt(self, side: str, *, is_new: bool) -> str:
        """To have its guest run, as docs/DRIVER.md says; empty for a yes, else the error's name."""
        if side not in self.guests:
            return "has none"
        try:
            if is_new:
                self.programs[side].do("attach", str(self.uuid))
            self.step(side, "cancel_migrate" if side == "a" else "run_on" if is_new else "complete_migrate")
        except Failed as failed:
            return str(failed)
        return ""

    def kill_guest(self, side: str) -> None:
        with suppress(KeyError, ProcessLookupError):
            os.kill(self.guests[side], signal.SIGKILL)
        self.may_run.discard(side)

    # --- judging from outside --------------------------------------------------------------------------------------

    def owner(self) -> tuple[str, LockState] | None:
        """As etcd says it."""
        lock = self.there.cluster.survey().lock_of(self.uuid)
        return None if lock is None else (lock.stored.record.owner.host, lock.stored.record.state)

    def has_session(self, side: str) -> bool:
        return any(view.ref.host == self.host(side) for view in self.there.cluster.survey().sessions)

    def check_the_only_one(self, side: str) -> None:
        assert self.may_run == {side}
        assert self.owner() == (self.host(side), LockState.HELD)
        assert self.is_alive(side)
        assert not self.third_gets_in()

    def is_alive(self, side: str) -> bool:
        process = table.look_up(self.guests[side])
        return process is not None and process.alive

    def third_gets_in(self) -> bool:
        manager = LockManager(self.third, DomainId(uuid4(), "third"))
        manager.register(self.disk)
        try:
            guest = manager.start(GUEST)
        except HeldElsewhere:
            return False
        guest.kill()
        guest.wait()
        manager.release()
        return True

    def close(self) -> None:
        """With everything given back by whoever had it; a session whose guest has only just ended, by the next one."""
        for side in OTHER:
            self.kill_guest(side)
        comes_true(lambda: self.owner() is None)
        for side in self.programs:
            self.programs[side].close()
            while self.there.driver == "etcd" and self.has_session(side):
                self.load(side)
                self.programs[side].close()


@dataclass(frozen=True)
class Crash:
    """Of the program on `victim` when so many steps are done; `in_flight`: once it has begun the next."""

    steps: tuple[tuple[str, str], ...]
    done: int
    victim: str
    in_flight: bool = False

    def __str__(self) -> str:
        during = f", in the midst of {' '.join(self.steps[self.done])}" if self.in_flight else ""
        return f"{self.victim} killed after {' '.join(self.steps[self.done - 1])}{during}"

    def happens(self, migration: Migration) -> None:
        migration.begin(self.done, self.steps)
        if self.in_flight:
            migration.ask(*self.steps[self.done])
        migration.programs[self.victim].kill()


def crashes() -> Iterator[Crash]:
    for steps, first in ((STEPS, PREPARED), (BACK, COMPLETED)):
        for done in range(first, COMPLETED + 1):
            yield from (Crash(steps, done, victim) for victim in OTHER if done > PREPARED or victim == "a")
    yield from (Crash(STEPS, done, STEPS[done][0], in_flight=True) for done in (LET_IN, SUSPENDED, CLAIMED))
    yield Crash(BACK, CLAIMED, "b", in_flight=True)


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    yield
    end_server()


# --- the tests ------------------------------------------------------------------------------------------------------


@pytest.fixture
def there(driver: str, etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Place]:
    with place(driver, etcd, tmp_path) as found:
        if driver == "agent":
            for host in OTHER:
                found.on(host)
        yield found


def all_of(cases: Any, there: Place, folder: Path, tried: Callable[[Any, Migration], None]) -> list[str]:
    """Each on a domain of its own, some beside each other; what was wrong with which."""
    third = load("etcd", config=NOWHERE, settings=there.settings("third"))

    def problem(case: Any) -> str:
        migration = Migration(there, third, folder)
        try:
            tried(case, migration)
        except (AssertionError, Failed) as error:
            return f"{case}: {error.args}"
        finally:
            migration.close()
        return ""

    with third, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(filter(None, pool.map(problem, cases)))


@proves(Capability.MIGRATION)
def test_a_program_that_is_killed_and_started_anew_leaves_one_owner(there: Place, tmp_path: Path) -> None:
    def tried(crash: Crash, migration: Migration) -> None:
        crash.happens(migration)
        victim, survivor = crash.victim, OTHER[crash.victim]
        migration.load(victim)
        comes_true(
            lambda: "" in (migration.attempt(victim, is_new=True), migration.attempt(survivor, is_new=False))
        )
        (winner,) = migration.may_run
        assert migration.attempt(OTHER[winner], is_new=OTHER[winner] == victim), f"{OTHER[winner]} was let run, too"
        migration.check_the_only_one(winner)

    assert all_of(crashes(), there, tmp_path, tried) == []


@proves(Capability.MIGRATION)
def test_a_guest_that_is_killed_leaves_its_domain_to_the_other_side_or_to_nobody(there: Place, tmp_path: Path) -> None:
    def tried(case: tuple[str, int, str], migration: Migration) -> None:
        victim, done, left = case
        migration.begin(done, STEPS)
        migration.kill_guest(victim)
        if left:
            comes_true(lambda: migration.attempt(left, is_new=False) == "")
            migration.check_the_only_one(left)
        else:
            comes_true(lambda: migration.owner() is None)
            assert migration.third_gets_in()

    cases = (
        ("a", SUSPENDED, ""), ("a", CLAIMED, "b"), ("a", COMPLETED, "b"),
        ("b", SUSPENDED, "a"), ("b", CLAIMED, "a"), ("b", COMPLETED, ""),
    )  # fmt: skip
    assert all_of(cases, there, tmp_path, tried) == []


@pytest.mark.parametrize("driver", ["etcd"])
def test_the_guests_of_a_program_that_stays_away_are_stopped_before_anybody_else_gets_in(
    driver: str, etcd: EmbeddedEtcd, tmp_path: Path
) -> None:
    def tried(case: tuple[str, int], migration: Migration) -> None:
        victim, done = case
        migration.begin(done, STEPS)
        migration.programs[victim].kill()
        comes_true(migration.third_gets_in)
        assert not migration.is_alive(victim), "its guest outlives its locks"
        assert migration.attempt("a" if victim == "b" else "b", is_new=False)
        migration.load(victim)  # so that its session ends in order

    with place(driver, etcd, tmp_path, timing=SHORT_TIMING) as there:
        assert all_of((("a", PREPARED), ("b", CLAIMED), ("b", COMPLETED)), there, tmp_path, tried) == []
        there.cluster.may_stay |= {item.key for item in there.cluster.found() if "/lost/" in item.key}
