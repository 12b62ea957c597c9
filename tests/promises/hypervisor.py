"""A host with its agent, and a libvirt that asks the agent before vCPUs run and tells it when they have stopped.

The agent is the real one; what runs when is on record here, for the judge. The host's guard goes on while no agent
runs: it kills what the last one had armed, at the deadline that it knew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from etcdlock.adapters.committer import Committer
from etcdlock.agent.context import Context, OwnAction, no_choice
from etcdlock.agent.host import HostAgent
from etcdlock.agent.namer import Namer
from etcdlock.agent.requests import Requests
from etcdlock.errors import EtcdlockError, Unreachable
from etcdlock.escalation import Action
from etcdlock.model import DomainId, LockState, Owner, Resource, SessionKind, StoredDomain
from etcdlock.ports import Guard, KeyRange
from etcdlock.records import decode_domain
from etcdlock.testing import Answered, Applied, Entry, FakeGuard, FakeProcesses, Outcome
from etcdlock.timing import Timing
from tests.promises.span import FOR_EVER, Span, called, without
from tests.promises.stalled import Stall, StalledStore
from tests.promises.vm import Vm
from tests.promises.world import KEYS, PIDS_PER_RUN, Host, World

ACQUIRE_SECONDS = 8.0
DOOR_BEHIND_SECONDS = 1.0
JOIN_SECONDS = 10.0
MAX_TXN_OPS = 128


class Hypervisor:
    """One boot of a host. `bring_up` starts its agent; `kill_agent` is SIGKILL."""

    def __init__(self, world: World, host: Host, *, death_seconds: float = 0.0) -> None:
        self.world = world
        self.host = host
        self.processes = FakeProcesses(
            first_pid=PIDS_PER_RUN * (100 + len(world.hypervisors)), death_seconds=death_seconds
        )
        self.vms: list[Vm] = []
        self.stall = Stall()
        self.agent: HostAgent | None = None
        self._context: Context | None = None
        self.action = Action.KILL
        self.own_action: OwnAction = no_choice
        self.namer: Namer | None = None
        self.acquire_seconds = ACQUIRE_SECONDS
        self._running: asyncio.Task[None] | None = None
        self._taking: set[asyncio.Task[None]] = set()
        self._attaching: list[Vm] = []
        self.guard = FakeGuard(
            host.clock,
            stop_after_seconds=world.timing.stop_after_seconds,
            lag_seconds=world.timing.guard_lag_seconds,
        )
        world.hypervisors.append(self)

    # --- the agent -------------------------------------------------------------------------------------------------

    def start_agent(self) -> asyncio.Task[None]:
        """Start one; it need not come up."""
        self.stall = Stall()
        context = self.host.context(
            contract=self.world.contract, chance=self.world.fresh_chance(), kind=SessionKind.AGENT, stall=self.stall
        )
        self._context = replace(
            context.on(self.timing), on_session_lost=self.action, own_action=self.own_action
        )
        self.agent = HostAgent(
            self._context,
            processes=self.processes,
            acquire_seconds=self.acquire_seconds,
            join_seconds=JOIN_SECONDS,
            guard=self.guard_for_agent(),
            ledger_store=Committer(StalledStore(self.host.store, self.stall), max_txn_ops=MAX_TXN_OPS),
            namer=self.namer,
        )
        self._running = asyncio.ensure_future(self.agent.run())
        self._running.add_done_callback(partial(self._ended, self.agent))
        return self._running

    @property
    def timing(self) -> Timing:
        """By which this host goes."""
        return self.world.timing

    def guard_for_agent(self) -> Guard:
        """The one guard that is always there."""
        return self.guard

    def _ended(self, agent: HostAgent, running: asyncio.Task[None]) -> None:
        if self.agent is agent:
            self.agent = self._running = None
        if not running.cancelled():
            running.exception()

    async def bring_up(self) -> HostAgent:
        """Start an agent and wait until it serves. Raises why it does not."""
        running, agent = self.start_agent(), self.agent
        assert agent is not None
        serving = asyncio.ensure_future(agent.ready.wait())
        await asyncio.wait((running, serving), return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        if running.done():
            running.result()
        return agent

    def kill_agent(self) -> None:
        """Whatever it had sent goes on, and nothing of it ever happens again."""
        agent, running = self.agent, self._running
        if agent is None or running is None:
            return
        self.stall.kill()
        for task in (running, *self._taking):
            task.cancel()
        self.agent = self._running = None

    async def stop_agent(self) -> None:
        """As SIGTERM does."""
        assert self.agent is not None
        assert self._running is not None
        agent, running = self.agent, self._running
        await agent.stop()
        await asyncio.wait((running,))
        self.agent = self._running = None

    # --- what libvirt does -----------------------------------------------------------------------------------------

    async def start(self, who: DomainId, *disks: Resource, incoming: bool = False) -> Vm:
        """Raises why not, and then leaves no process behind."""
        vm = self.prepare(who, *disks, incoming=incoming)
        await self.let_run_or_kill(vm)
        return vm

    def prepare(self, who: DomainId, *disks: Resource, incoming: bool = False, pid: int | None = None) -> Vm:
        """Its process, which is there before its vCPUs may run."""
        guest = self.processes.start(incoming=incoming, pid=pid)
        vm = Vm(Owner(who, guest.pid), guest, list(disks))
        if incoming:  # its memory comes from the run that there is now, and from no later one
            vm.memory = self.world.latest_memory.get(who.uuid)
        self.vms.append(vm)
        for disk in disks:
            self.processes.open(guest, disk)
        with suppress(EtcdlockError):
            if self.agent is not None:
                self.agent.present(vm.owner)
        return vm

    async def let_run_or_kill(self, vm: Vm) -> None:
        """As at a start, or at the end of a migration in."""
        try:
            await self.resume(vm)
        except EtcdlockError:
            vm.guest.kill()
            raise

    async def resume(self, vm: Vm) -> None:
        """Ask for every disk; then the vCPUs run, if there is still a guest. Raises why not."""
        for disk in vm.disks:
            await self.take(vm.owner, disk)
            vm.granted += 1
        self._stopped(vm)
        if vm.guest.gone_at is None and vm.guest.killed_at is None:
            self._run_anew(vm)
            self._began(vm)

    def _run_anew(self, vm: Vm) -> None:
        latest = self.world.latest_memory.get(vm.owner.domain.uuid, 0)
        vm.stale = vm.memory not in (None, latest)
        vm.memory = self.world.latest_memory[vm.owner.domain.uuid] = latest + 1

    def run_on(self, vm: Vm) -> None:
        """The vCPUs go on by themselves and nobody is asked, as QEMU does after a migration that fails at its end.

        That is before the destination asks for anything: once it has all of the guest, QEMU stands still.
        """
        if vm.since is None and not vm.sent and vm.guest.gone_at is None and vm.guest.killed_at is None:
            self._began(vm)
            vm.unasked = True

    def pause(self, vm: Vm) -> None:
        """The vCPUs stop; then the disks are given up."""
        self._stopped(vm)
        for disk in vm.disks:
            self.give_up(vm.owner, disk)

    async def plug(self, vm: Vm, disk: Resource) -> None:
        """Raises why not."""
        await self.take(vm.owner, disk)
        self.processes.open(vm.guest, disk)
        with self._another_span(vm):
            vm.disks.append(disk)

    async def attach(self, vm: Vm) -> None:
        """A guest that was started while no agent was there, and runs. Raises why it goes on without its locks.

        It counts from when etcd says that its locks are its own; until it is told so, only for as long as that is said.
        """
        assert self.agent is not None
        assert self._context is not None
        if vm not in self._attaching:
            self._attaching.append(vm)
            self.world.etcd.listeners.append(lambda entry: self._counted(vm, entry))
        requests = Requests(self.agent, self._context, processes=self.processes, answer_seconds=self.acquire_seconds)
        await requests.attach(vm.owner, tuple(vm.disks))
        vm.granted = len(vm.disks)

    def _counted(self, vm: Vm, entry: Entry) -> None:
        if vm.granted or not isinstance(entry, Applied) or vm.guest.gone_at is not None:
            return
        stored = self.record(vm.owner.domain)
        named = (stored.record.owner.host, stored.record.pid) if stored is not None else None
        is_its_own = named == (self.host.name, vm.owner.pid)
        if is_its_own and vm.since is None:
            self._run_anew(vm)
            self._began(vm)
        elif not is_its_own and vm.since is not None:
            self._stopped(vm)

    def connection_ends(self, vm: Vm) -> None:
        """The guest's own, which its process has inherited; the process goes on."""
        with suppress(EtcdlockError):
            if self.agent is not None:
                self.agent.departed(vm.owner)

    def unplug(self, vm: Vm, disk: Resource) -> None:
        with self._another_span(vm):
            vm.disks.remove(disk)
        self.processes.close(vm.guest, disk)
        self.give_up(vm.owner, disk)

    def fail_to_migrate(self, vm: Vm, to: Hypervisor) -> None:
        """The destination dies between the stop of the vCPUs and the last page."""
        arriving = to.prepare(vm.owner.domain, *vm.disks, incoming=True)
        self.pause(vm)
        arriving.guest.kill()
        self.run_on(vm)

    async def fail_to_arrive(self, vm: Vm, to: Hypervisor) -> Vm:
        """All of the memory has gone over, but libvirt takes the migration for failed and lets the source run on.

        The destination's process stays, and nobody has told it. Raises why the source may not run on.
        """
        arriving = to.prepare(vm.owner.domain, *vm.disks, incoming=True)
        await asyncio.sleep(0.5)
        self.pause(vm)
        vm.sent = True
        await self.resume(vm)
        return arriving

    async def migrate(self, vm: Vm, to: Hypervisor) -> Vm:
        """Raises why not; then the source has been told to run on, if it may."""
        arriving = to.prepare(vm.owner.domain, *vm.disks, incoming=True)
        self.pause(vm)
        vm.sent = True
        try:
            await to.let_run_or_kill(arriving)
        except EtcdlockError:
            with suppress(EtcdlockError):
                await self.resume(vm)
            raise
        vm.guest.end()
        return arriving

    async def take(self, owner: Owner, resource: Resource) -> None:
        """Through a door that waits a little longer than the agent takes."""
        if self.agent is None:
            raise Unreachable("no agent listens")
        taking = asyncio.ensure_future(self.agent.take(owner, resource))
        self._taking.add(taking)
        taking.add_done_callback(self._answered)
        await asyncio.wait((taking,), timeout=self.acquire_seconds + DOOR_BEHIND_SECONDS)
        if not taking.done() or taking.cancelled():
            raise Unreachable("the door does not answer")
        taking.result()

    def _answered(self, taking: asyncio.Task[None]) -> None:
        self._taking.discard(taking)
        if not taking.cancelled():
            taking.exception()  # whoever waited no longer may have gone

    def give_up(self, owner: Owner, resource: Resource) -> None:
        """What goes wrong is a line in libvirt's log."""
        with suppress(EtcdlockError):
            if self.agent is not None:
                self.agent.give_up(owner, resource)

    # --- what is seen from outside ---------------------------------------------------------------------------------

    def record(self, who: DomainId) -> StoredDomain | None:
        """The domain as etcd has it."""
        found = self.world.etcd.contents(KeyRange(KEYS.domain(who.uuid)))
        return decode_domain(found[0]) if found else None

    def state(self, who: DomainId) -> LockState | None:
        stored = self.record(who)
        return None if stored is None else stored.record.state

    def is_in_doubt(self, *, since: int = 0) -> bool:
        """Whether an answer to it was lost, since that many entries of etcd's history."""
        told = (entry for entry in self.world.etcd.history[since:] if isinstance(entry, Answered))
        return any((entry.client, entry.outcome) == (self.host.name, Outcome.UNKNOWN) for entry in told)

    def spans(self) -> Sequence[Span]:
        """What ran here, and still runs."""
        return [
            part
            for vm in self.vms
            for span in (*vm.spans, *self._current(vm))
            for part in without(span, vm.guest.stood)
        ]

    def _current(self, vm: Vm) -> list[Span]:
        if vm.since is None:
            return []
        modes = {mode: frozenset(called(d) for d in vm.disks if d.mode == mode) for mode in ("exclusive", "shared")}
        return [
            Span(
                host=self.host.name,
                uuid=str(vm.owner.domain.uuid),
                pid=vm.owner.pid,
                token=vm.token,
                began=vm.since,
                ended=FOR_EVER if vm.guest.gone_at is None else vm.guest.gone_at,
                exclusive=modes["exclusive"],
                shared=modes["shared"],
                added=vm.added,
                unasked=vm.unasked,
                stale=vm.stale,
            )
        ]

    def _began(self, vm: Vm) -> None:
        stored = self.record(vm.owner.domain)
        vm.token = stored.token if stored is not None else 0
        vm.added = tuple((called(disk), self._revision(disk, vm)) for disk in vm.disks)
        vm.since = asyncio.get_running_loop().time()
        vm.sent = False

    def _revision(self, disk: Resource, vm: Vm) -> int:
        found = self.world.etcd.contents(KeyRange(KEYS.resource(disk, uuid=vm.owner.domain.uuid)))
        return found[0].mod_revision if found else 0

    @contextmanager
    def _another_span(self, vm: Vm) -> Iterator[None]:
        """It runs or stands as before, on other disks."""
        runs, unasked = vm.runs, vm.unasked
        self._stopped(vm)
        yield
        if runs:
            self._began(vm)
            vm.unasked = unasked

    def _stopped(self, vm: Vm) -> None:
        now = asyncio.get_running_loop().time()
        vm.spans += [replace(span, ended=min(span.ended, now)) for span in self._current(vm)]
        vm.since, vm.unasked = None, False

    async def end(self) -> None:
        """Kill everything, and see that it does end."""
        for guest in self.processes.started:
            guest.thaw()
        tasks = [task for task in (self._running, *self._taking) if task is not None]
        self.stall.kill()
        for task in tasks:
            task.cancel()
        self.guard.kill()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hypervisor(world: World, name: str, *, death_seconds: float = 0.0, boot: str = "") -> Hypervisor:
    """A host of its own whose agent serves."""
    made = Hypervisor(world, world.host(name, boot=boot), death_seconds=death_seconds)
    await made.bring_up()
    return made
