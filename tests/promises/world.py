"""A cluster in virtual time: hosts with clocks of their own on one fake etcd, each running the real programs."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from etcdlock.agent.context import Context
from etcdlock.agent.enforcer import Enforcer
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.agent.ledger import Ledger
from etcdlock.agent.member import Member
from etcdlock.agent.solo import Ending, Solo, Task
from etcdlock.escalation import Action
from etcdlock.keyspace import Keyspace
from etcdlock.model import (
    DomainId,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    SessionKind,
    SessionRef,
    StoredDomain,
)
from etcdlock.ports import KeyRange, Txn
from etcdlock.session import Contract
from etcdlock.testing import FakeClock, FakeEtcd, FakeGuard, FakeGuests, FakeStore
from etcdlock.testing.guests import FakeGuest
from etcdlock.timing import Timing
from etcdlock.transitions import Wanted, write_obituary
from tests.promises.stalled import Stall, StalledClock, StalledStore

if TYPE_CHECKING:
    from tests.promises.hypervisor import Hypervisor

KEYS = Keyspace()
TIMING = Timing()
RHO = TIMING.clock_rate_error
PIDS_PER_RUN = 1000


def domain(number: int) -> DomainId:
    return DomainId(UUID(int=number), f"vm{number}")


def disk(name: str, mode: Mode = Mode.EXCLUSIVE) -> Resource:
    return Resource("path", f"/san/{name}", mode, f"/san/{name}")


def locks(txn: Txn) -> bool:
    """Picks the transactions that write or delete a domain's record."""
    return any(_key(op).startswith(KEYS.domains.key) and not _is_get(op) for op in txn.success)


def _key(op: object) -> str:
    key = getattr(op, "key", None)
    return str(key) if key is not None else str(getattr(op, "where", KeyRange("")).key)


def _is_get(op: object) -> bool:
    return type(op).__name__ == "Get"


@dataclass(slots=True)
class Host:
    """One boot of one machine. `rate` and `offset` bend its clock."""

    name: str
    etcd: FakeEtcd
    rate: float = 1.0
    offset: float = 0.0
    boot: str = ""
    machine: str = ""
    stall: Stall = field(default_factory=Stall)
    clock: FakeClock = field(init=False)
    store: FakeStore = field(init=False)

    def __post_init__(self) -> None:
        self.clock = FakeClock(self.rate, offset=self.offset)
        self.store = self.etcd.client(self.name)

    def context(
        self,
        *,
        contract: Contract,
        chance: random.Random,
        kind: SessionKind = SessionKind.RUN,
        stall: Stall | None = None,
    ) -> Context:
        """What a program needs; with a `stall` of its own, the host's does not reach it."""
        stall = stall or self.stall
        return Context(
            store=StalledStore(self.store, stall),
            clock=StalledClock(self.clock, stall),
            keys=KEYS,
            contract=contract,
            host=self.name,
            machine=Machine(self.boot or f"boot of {self.name}", self.machine or f"machine {self.name}"),
            kind=kind,
            version="1",
            chance=chance,
        )


@dataclass(slots=True)
class Run:
    """One `Solo` under way on a host, its guests, and its guards where it has any."""

    host: Host
    task: Task
    guests: FakeGuests
    guards: list[FakeGuard]
    solo: Solo
    ended: asyncio.Task[Ending]

    @property
    def guest(self) -> FakeGuest | None:
        """The guest that runs."""
        return next((guest for guest in self.guests.started if guest.runs), None)

    @property
    def opened(self) -> FakeGuest | None:
        """The guest that runs or has run."""
        return next((guest for guest in self.guests.started if guest.opened_at is not None), None)


@dataclass(slots=True)
class Agent:
    """The parts of a program on their own: a session that is kept, and locks taken under it by hand."""

    context: Context
    member: Member
    ledger: Ledger
    keeping: asyncio.Future[Any]
    guests: FakeGuests = field(default_factory=FakeGuests)

    async def acquire(self, who: DomainId, *disks: Resource) -> tuple[StoredDomain, FakeGuest]:
        """Lock them for a guest whose gate stays closed."""
        guest = await self.guests.start(["guest"], environment={})
        wanted = Wanted(who, disks, self.context.fresh_id(), "", pid=guest.pid)
        stored = await self.ledger.acquire(wanted, guest, until=self.context.clock.now() + 10.0)
        return stored, self.guests.started[-1]

    async def release(self, who: DomainId) -> None:
        await self.ledger.release(who.uuid, until=self.context.clock.now() + 10.0)


class World:
    """Everything of one scenario. Make it inside `run_virtual`."""

    def __init__(self, *, seed: int = 0, timing: Timing = TIMING, takeover_needs: str = "silence") -> None:
        self.chance = random.Random(seed)  # noqa: S311 - must be repeatable
        self.etcd = FakeEtcd(
            latency_seconds=lambda: self.chance.uniform(0.0002, 0.002),
            expiry_delay_seconds=lambda: self.chance.uniform(0.0, 1.0),
            try_timeout_seconds=timing.try_timeout_seconds,
        )
        self.timing = timing
        self.contract = Contract(timing, takeover_needs=takeover_needs)
        self.runs: list[Run] = []
        self.hosts: list[Host] = []
        self.agents: list[Agent] = []
        self.hypervisors: list[Hypervisor] = []
        self.latest_memory: dict[UUID, int] = {}

    def host(self, name: str, *, boot: str = "", **bent: float) -> Host:
        host = Host(name, self.etcd, boot=boot, **bent)  # type: ignore[arg-type]
        self.hosts.append(host)
        return host

    def boot_again(self, host: Host, *, boot: str) -> Host:
        """The same machine after a reset; the programs of its earlier boot must have been ended."""
        again = Host(host.name, self.etcd, host.rate, host.offset, boot, host.machine)
        self.hosts.append(again)
        return again

    def start(
        self,
        host: Host,
        who: DomainId,
        *disks: Resource,
        wait: float = 0.0,
        answer: float = 10.0,
        life: float | None = None,
        death: float = 0.0,
        guarded: bool = False,
        action: Action = Action.KILL,
    ) -> Run:
        """Run a guest on a host; with `guarded` by a guard that does not stall when the program does."""
        guests = FakeGuests(life_seconds=life, death_seconds=death, first_pid=PIDS_PER_RUN * (len(self.runs) + 1))
        task = Task(
            domain=who, resources=disks, command=["guest"], environment={}, wait_seconds=wait, answer_seconds=answer
        )
        guards: list[FakeGuard] = []
        context = host.context(contract=self.contract, chance=self.fresh_chance())
        context = replace(context, on_session_lost=action)
        solo = Solo(context, task, guests=guests, guard=self._guard(host, guards) if guarded else None)
        run = Run(host, task, guests, guards, solo, asyncio.ensure_future(solo.run()))
        self.runs.append(run)
        return run

    async def agent(self, host: Host) -> Agent:
        """A program of parts on a host, joined; ended with the world."""
        context = host.context(contract=self.contract, chance=self.chance)
        guard = Enforcer(context.clock, timing=self.timing)
        member = Member(context, guard=guard)
        ledger = Ledger(context, member=member, guard=guard)
        await member.join(until=context.clock.now())
        keeping = asyncio.gather(member.keep(ledger), guard.keep())
        self.agents.append(Agent(context, member, ledger, keeping))
        return self.agents[-1]

    def fresh_chance(self) -> random.Random:
        """A program's own, so that one takes nothing of another's."""
        return random.Random(self.chance.getrandbits(64))  # noqa: S311 - must be repeatable

    def _guard(self, host: Host, guards: list[FakeGuard]) -> KeptGuard:
        async def start() -> FakeGuard:
            return make()

        def make() -> FakeGuard:
            guards.append(
                FakeGuard(
                    host.clock,
                    stop_after_seconds=self.timing.stop_after_seconds,
                    lag_seconds=self.timing.guard_lag_seconds,
                )
            )
            return guards[-1]

        return KeptGuard(make(), start=start)

    # What a test waits for and looks at.

    async def until_runs(self, run: Run, *, within: float = 100.0) -> FakeGuest:
        """Wait until its guest runs; the guest."""
        async with asyncio.timeout(within):
            while run.guest is None and not run.ended.done():
                await asyncio.sleep(0.01)
        if run.guest is None:
            await run.ended  # shows why
        assert run.guest is not None
        return run.guest

    def sessions(self, host: Host) -> list[SessionRef]:
        """The living sessions of a host."""
        found = self.etcd.contents(KEYS.sessions(host.name))
        return [SessionRef(host.name, stored.key.rpartition("/")[2]) for stored in found]

    def leases(self, host: Host) -> list[int]:
        return [stored.lease for stored in self.etcd.contents(KEYS.sessions(host.name))]

    def obituaries(self) -> list[str]:
        return [stored.key for stored in self.etcd.contents(KEYS.obituaries)]

    async def declare(self, by: Host, dead: SessionRef, *, proof: Proof = Proof.OPERATOR) -> bool:
        """As an operator or a fence agent would."""
        obituary = Obituary(dead, proof, by.name, "confirmed off", "2026-01-01T00:00:00+00:00")
        return (await by.store.txn(write_obituary(KEYS, obituary))).succeeded

    async def power_off(self, run: Run) -> None:
        """Everything of it is dead at once, and nothing more of it reaches etcd."""
        run.host.store.cut()
        run.host.stall.begin()
        for guest in run.guests.started:
            guest.death_seconds = 0.0
            guest.kill()
        for guard in run.guards:
            guard.kill()
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Mend everything, end every program, and see that it does end."""
        for host in self.hosts:
            host.stall.end()
            host.store.mend()
        for run in self.runs:
            for guest in run.guests.started:
                guest.thaw()
            run.ended.cancel()
        for agent in self.agents:
            agent.keeping.cancel()
        for hypervisor in self.hypervisors:
            await hypervisor.end()
        parts = [*(run.ended for run in self.runs), *(agent.keeping for agent in self.agents)]
        await asyncio.gather(*parts, return_exceptions=True)
