"""Themes in which a host, its program or its guard goes down, and its guest must be gone in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from etcdlock.errors import DuplicateHost, EtcdlockError
from etcdlock.escalation import Action
from etcdlock.testing import Fault
from tests.promises.vm import Vm
from tests.promises.world import RHO, TIMING, domain
from tests.simulation.cluster import Machine
from tests.simulation.drama import Drama
from tests.simulation.moments import STEPS, writes_locks
from tests.simulation.owners import recover, some_owner
from tests.simulation.stage import X, Y, Z

OUTAGE_SECONDS = 45.0
VERY_MANY = 1_000_000


async def deadline(d: Drama) -> None:
    """A host falls silent right after a heartbeat, its key goes at once, its guard is late, its guest dies slowly."""
    slowly, action = 0.99 * TIMING.kill_seconds, d.chance.choice((Action.KILL, Action.KILL, Action.FREEZE))
    a = await d.machine("a", rate=1 - RHO, death=slowly, steered=d.chance.choice((0.0, -0.1)), action=action)
    b = await d.machine("b", rate=1 + RHO)
    victim = await some_owner(d, a, X)
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    if d.maybe(0.4):  # somebody sets the time of day while silence is waited out
        late, ahead = d.chance.uniform(0.0, 5.0), d.chance.choice((20.0, 3600.0))
        d.moments.when("applied", "b", "confirm", do=partial(b.host.clock.set_wall, ahead), after_seconds=late)
    if d.maybe(0.4):
        b.host.store.slow_down(lambda: d.chance.uniform(0.3, 0.7))
    await d.wait(2.0, 7.0)
    a.host.store.slow_down(lambda: d.chance.uniform(0.0, 0.7))
    await d.wait(2.0, 6.0)
    d.moments.when("applied", "a", "heartbeat", do=lambda: d.revoke(a))
    hurt = d.chance.choice((victim.kill, victim.kill, victim.stop, lambda: None))

    def falls_silent() -> None:
        a.host.store.cut()
        hurt()

    d.moments.when("answered", "a", "heartbeat", do=falls_silent)
    await asyncio.sleep(OUTAGE_SECONDS)


async def stale_leader(d: Drama) -> None:
    """Keepalives are answered, transactions are not; or only those that change locks are not."""
    a, b = await d.machine("a"), await d.machine("b")
    await some_owner(d, a, X, Y)
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(0.5, 4.0)
    d.etcd.keep_alives_lie = d.maybe(0.3)
    if d.maybe(0.5):
        d.lose(a, fault=Fault.REQUEST, count=VERY_MANY)
    else:
        d.refuse(a, writes_locks)
        d.revoke(a)
    await asyncio.sleep(OUTAGE_SECONDS)
    a.host.store.lose_no_more()
    d.refuse(a, None)
    await d.wait(1.0, 10.0)


async def stall_before_yes(d: Drama) -> None:
    """A program stands still between a commit and its yes, for longer than its proof lasts."""
    a, b = await d.machine("a", is_up=False), await d.machine("b")
    a.acquire_seconds = d.chance.choice((a.acquire_seconds, 100.0))  # how long libvirt waits
    await a.bring_up()
    kind = d.chance.choice(("acquire", "unpark", "unpark", "claim", "add", "rejoin"))
    vm: Vm | None = None
    if kind != "acquire":
        vm = await d.chance.choice((a, b) if kind == "claim" else (a,)).start(domain(1), X)
    b_waits = d.chance.choice((1, 2))
    d.moments.when("applied", "a", kind, do=a.stop_program)
    match kind:
        case "acquire":
            d.begin(a.start(domain(1), X, Y))
        case "unpark" if vm:
            a.pause(vm)
            await d.wait(0.1, 1.0)
            d.begin(a.resume(vm), vm)
        case "claim" if vm and vm in b.vms:
            d.begin(b.migrate(vm, a), vm)
        case "add" if vm:
            d.begin(a.plug(vm, Y), vm)
        case _:
            d.revoke_agent(a)
    d.solo(b, b_waits, X, wait=100.0)
    await d.wait(3.0, 60.0)
    d.go_on()
    await d.wait(1.0, 12.0)


async def stolen_disk(d: Drama) -> None:
    """One disk of a silent host's guest is taken over; the host comes back about then."""
    a = await d.machine("a", action=d.chance.choice((Action.FREEZE, Action.FREEZE, Action.KILL)))
    b = await d.machine("b")
    await some_owner(d, a, X, Y)
    await d.wait(0.1, 3.0)
    number = d.chance.choice((1, 2, 2, 2))
    if d.maybe(0.6):
        d.solo(b, number, d.chance.choice((X, Y)), wait=100.0)
    else:
        other = await b.start(domain(2), Z)
        d.begin(_again(lambda: b.plug(other, X)), other)
    a.host.store.cut()
    if d.maybe(0.3):
        a.kill_program()
    if d.maybe(0.5):
        step, late = d.chance.choice(("sent", "applied")), d.chance.uniform(0.0, 2.0)
        d.moments.when(step, "b", "takeover", do=a.host.store.mend, after_seconds=d.chance.choice((0.0, late)))
    if d.maybe(0.4):
        d.lose(b, "takeover", fault=d.chance.choice((Fault.LATE, Fault.ANSWER)), count=1)
    elif d.maybe(0.7):  # it joins anew just before what is on its way to take the disk
        b.host.store.slow_down(lambda: d.chance.uniform(0.3, 0.7))
        late = d.chance.uniform(0.0, 3.0)
        d.moments.when("applied", "b", "obituary", do=a.host.store.mend, after_seconds=late)
    await d.wait(25.0, 50.0)
    recover(d)
    await d.wait(3.0, 20.0)


async def reset(d: Drama) -> None:
    """A host is reset, also in the midst of a migration, and comes back with another boot id.

    Leases may last longer than was asked for; the host is nobody's double for that.
    """
    if d.maybe(0.4):
        d.etcd.grant_at_least(d.chance.choice((15, 30)))
    a, b, c = await d.machine("a"), await d.machine("b"), await d.machine("c")
    vm = await a.start(domain(1), X, Y)
    d.solo(c, 2, X, wait=100.0)
    victim = d.chance.choice((a, b))
    if d.maybe(0.7):
        step, kind = d.chance.choice(STEPS), d.chance.choice(("park", "claim"))
        d.moments.when(step, d.chance.choice(("a", "b")), kind, do=victim.reset)
        d.begin(a.migrate(vm, b), vm)
        await d.wait(0.5, 3.0)
    victim.reset()
    await d.wait(0.5, 20.0)
    again = d.boot(victim)
    await d.wait(0.5, 15.0)
    if again is not None and again.agent is not None:
        d.begin(again.start(domain(d.chance.choice((1, 2))), X))
    await d.wait(5.0, 20.0)
    for machine in d.machines:
        assert not any(isinstance(error, DuplicateHost) for error in machine.refusals), machine.refusals


async def twins(d: Drama) -> None:
    """A second machine has the same host id; the first lives, or has fallen silent while its guest runs."""
    a, b = await d.machine("a", action=Action.KILL), await d.machine("b")
    await some_owner(d, a, X)
    await d.wait(0.1, 3.0)
    twin = await d.machine("a", identity="twin of a", is_up=False)
    if d.maybe(0.6):
        a.host.store.cut()
        if d.maybe(0.7):
            d.revoke(a)
    starting = d.begin(twin.bring_up())
    await asyncio.wait((starting,), timeout=25.0)
    for _ in range(d.chance.randint(1, 4)):
        if twin.agent is not None:
            d.begin(twin.start(domain(1), X))
        await d.wait(1.0, 6.0)
    d.solo(b, 2, X, wait=60.0)
    await d.wait(2.0, 20.0)
    d.chance.choice((a, twin)).reset()
    await d.wait(1.0, 12.0)


async def guards(d: Drama) -> None:
    """Guards die and hang, programs die right after a yes: whichever is left must see the guest stopped."""
    a, b = await d.machine("a"), await d.machine("b")
    if d.maybe(0.6):
        kind = d.chance.choice(("acquire", "acquire", "unpark"))
        hurt = d.chance.choice((a.kill_program, a.stop_program))
        d.moments.when("answered", "a", kind, do=hurt, after_seconds=d.chance.choice((0.0, 0.0005, 0.01, 0.4)))
        d.moments.when("answered", "a", kind, do=a.host.store.cut, after_seconds=0.5)
    vm: list[Vm] = []
    d.begin(_started(a, vm))
    if d.maybe(0.4):
        d.solo(a, 3, Y)
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(0.5, 5.0)
    if d.maybe(0.3):  # first the one, then the other, with time between them
        a.kill_guard()
        await asyncio.sleep(3.0)
        d.chance.choice((a.kill_program, a.stop_program))()
        a.host.store.cut()
        await asyncio.sleep(OUTAGE_SECONDS)
    for _ in range(d.chance.randint(1, 4)):
        d.chance.choice((d.kill_guard, d.pause_guard, d.stop_program, d.go_on, d.kill_program))()
        await d.wait(0.0, 8.0)
        if d.maybe(0.3):
            d.bring_up(a)
    a.host.store.cut()
    await d.wait(0.0, 30.0)
    for _ in range(2):
        d.chance.choice((d.kill_guard, d.pause_guard, d.stop_program, d.kill_program, d.go_on))()
        await d.wait(0.0, 10.0)
    recover(d)
    await d.wait(1.0, 15.0)


async def watchdog(d: Drama) -> None:
    """A host with a watchdog: program and guard may both stop, and its guest must be gone in time."""
    seconds = d.chance.choice((2.0, 5.0, 5.0))
    a = await d.machine("a", rate=1 - RHO, death=0.99 * TIMING.kill_seconds, watchdog_seconds=seconds)
    b = await d.machine("b", rate=1 + RHO)
    vm = await a.start(domain(1), X)
    vm.guest.stuck = d.maybe(0.7)  # in the kernel, for want of its storage
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(1.0, 6.0)
    silent = asyncio.Event()

    def falls_silent() -> None:
        a.host.store.cut()
        silent.set()

    d.moments.when("applied", "a", "heartbeat", do=lambda: d.revoke(a))
    d.moments.when("answered", "a", "heartbeat", do=falls_silent)
    await silent.wait()
    if d.maybe(0.2):  # each guard that takes a dead one's place might open it
        await asyncio.sleep(TIMING.budget_seconds - 2 * seconds - 2.0)
        for _ in range(6):
            a.kill_guard()
            await d.wait(1.0, 0.8 * seconds)
        await asyncio.sleep(OUTAGE_SECONDS)
        return
    if d.maybe(0.2):  # whoever comes next knows nothing of the guest that is left, and cannot ask
        a.kill_program()
        a.kill_guard()
        for _ in range(4):
            await d.wait(0.3, 0.8 * seconds)
            d.bring_up(a)
        await asyncio.sleep(OUTAGE_SECONDS)
        return
    if d.maybe(0.5):
        a.kill_program()
    if d.maybe(0.7):  # as late as feeding may be allowed, it is held up for almost as long as the host has left
        await d.wait(TIMING.budget_seconds - 2 * seconds - 1.0, TIMING.budget_seconds - seconds)
        a.stall_before_next_feed(d.chance.uniform(0.3, 0.8) * seconds)
        await asyncio.sleep(OUTAGE_SECONDS)
        return
    await d.wait(2.0, 17.0)
    for _ in range(d.chance.randint(1, 2)):
        d.chance.choice((a.kill_guard, partial(a.pause_guard, d.chance.uniform(1.0, 60.0)), a.stop_program))()
        await d.wait(0.0, 8.0)
    await asyncio.sleep(OUTAGE_SECONDS)


async def _started(machine: Machine, vms: list[Vm]) -> None:
    vms.append(await machine.start(domain(1), X))


async def _again(doing: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is granted."""
    for _ in range(60):
        try:
            await doing()
        except EtcdlockError:
            await asyncio.sleep(1.0)
        else:
            return
