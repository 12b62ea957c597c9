"""Themes in which answers are lost, etcd is away, operators err, or anything at all happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from etcdlock.errors import EtcdlockError
from etcdlock.testing import Fault, Link
from tests.promises.vm import Vm
from tests.promises.world import disk, domain
from tests.simulation.cluster import Machine
from tests.simulation.drama import LOCK_KINDS, Drama
from tests.simulation.moments import STEPS
from tests.simulation.owners import recover, some_owner
from tests.simulation.stage import X, Y, Z


async def lost_answers(d: Drama) -> None:
    """Small doings, many of whose transactions are lost, answered in vain, or applied late."""
    a, b = await d.machine("a"), await d.machine("b")
    doings = (
        d.start, d.start, d.start_solo, d.pause, d.resume, d.resume, d.plug, d.unplug, d.end_guest, d.end_solo,
        d.cancel_solo, d.migrate, d.pause_and_resume,
    )  # fmt: skip
    for _ in range(d.chance.randint(6, 12)):
        for _ in range(d.chance.randint(0, 2)):
            d.lose(d.chance.choice((a, b)), *d.chance.sample(LOCK_KINDS, k=5), count=1)
        if d.maybe(0.15):
            d.no_space()
        if d.maybe(0.15):
            machine = d.chance.choice((a, b))
            step, kind = d.chance.choice(STEPS), d.chance.choice(("acquire", "release", "park", "add"))
            d.moments.when(step, machine.host.name, kind, do=machine.kill_program)
        d.chance.choice(doings)()
        await d.wait(0.0, 4.0)
        for machine in (a, b):
            d.bring_up(machine)
    await d.wait(1.0, 12.0)


async def late_acquire(d: Drama) -> None:
    """An acquire comes late, or its answer never: who had sent it has settled it, has died, or knows nothing."""
    how = d.chance.choice((_settled, _short_guest, _dead_agent, _not_settled, _attached))
    await how(d)
    await d.wait(5.0, 15.0)


async def _settled(d: Drama) -> None:
    """It has been settled, its program has died, or its session has gone; others ask for the same."""
    a, b = await d.machine("a"), await d.machine("b")
    d.lose(a, "acquire", fault=Fault.LATE, count=1)
    if d.maybe(0.5):
        d.begin(a.start(domain(1), X))
    else:
        d.solo(a, 1, X, answer=3.0, wait=0.0)
    if d.maybe(0.4):
        d.moments.when("sent", "a", "acquire", do=a.kill_program, after_seconds=d.chance.uniform(0.0, 0.5))
    await d.wait(0.0, 2.0)
    if d.maybe(0.3):
        d.revoke(a)
    await d.wait(0.5, 4.0)
    d.bring_up(a)
    d.begin(d.chance.choice((a, b)).start(domain(d.chance.choice((1, 2))), X))


async def _short_guest(d: Drama) -> None:
    """It comes when its guest has ended, under a second one, and all was given back; or its program has left."""
    a = await d.machine("a")
    d.lose(a, "acquire", fault=Fault.LATE, count=1, late=d.chance.choice((1.0, 3.0, 8.0, 20.0)))
    if d.maybe(0.5):
        vm = await a.start(domain(1), X)
        await d.wait(0.0, 0.5)
        vm.guest.end()
    else:
        d.solo(a, 1, X, life=0.3, wait=0.0)
    if d.maybe(0.2):
        await d.wait(0.0, 2.0)
        d.revoke(a)


async def _dead_agent(d: Drama) -> None:
    """It comes when the agent that had sent it has died, and the next one has looked at what there is."""
    a = await d.machine("a")
    d.lose(a, "acquire", fault=Fault.LATE, count=1, late=d.chance.choice((3.0, 5.0, 8.0)))
    d.moments.when("sent", "a", "acquire", do=a.kill_program)
    d.begin(a.start(domain(1), X))
    await d.wait(0.1, 2.0)
    d.bring_up(a)


async def _not_settled(d: Drama) -> None:
    """Its answer is lost, and etcd is away until whoever has asked has gone; but not until its session is."""
    a = await d.machine("a", is_up=False)
    a.acquire_seconds = 3.5
    await a.bring_up()
    d.lose(a, "acquire", fault=Fault.ANSWER, count=1)
    d.moments.when("applied", "a", "acquire", do=lambda: d.cut(a))
    d.begin(a.start(domain(1), X))
    await d.wait(4.6, 6.0)
    d.mend()


async def _attached(d: Drama) -> None:
    """The same, for a guest that runs already and is asked for twice; and etcd does not come back in time."""
    a, b = await d.machine("a", is_up=False), await d.machine("b")
    vm = a.prepare(domain(1), X)
    await a.bring_up()
    d.lose(a, "acquire", fault=Fault.ANSWER, count=1)
    d.moments.when("applied", "a", "acquire", do=lambda: d.cut(a))
    d.begin(_attached_twice(a, vm), vm)
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(1.0, 60.0)
    recover(d)


async def _attached_twice(machine: Machine, vm: Vm) -> None:
    with suppress(EtcdlockError):
        await machine.attach(vm)
    if not vm.granted:
        await machine.attach(vm)


async def operators(d: Drama) -> None:
    """What lives is declared dead by mistake, what is off is broken; reads are stale, sessions are revoked wrongly."""
    a, b = await d.machine("a"), await d.machine("b")
    await some_owner(d, a, X)
    waiting = d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    if d.maybe(0.5):
        d.moments.when("applied", "b", "look", do=lambda: d.etcd.stale_reads(6, revisions=d.chance.choice((5, 20))))
    for _ in range(d.chance.randint(2, 5)):
        d.etcd.stale_reads(d.chance.randint(0, 3), revisions=d.chance.choice((2, 10)))
        d.chance.choice((
            lambda: d.declare(b), lambda: d.break_host(b, "a"), lambda: d.revoke(a), lambda: d.revoke(b), d.elect,
            d.set_wall, d.start_solo,
        ))()  # fmt: skip
        await d.wait(0.1, 12.0)
    if d.maybe(0.5) and not waiting.ended.done():
        a.reset()
        await d.wait(12.0, 16.0)
        d.break_host(b, "a")
    await d.wait(5.0, 15.0)


async def outages(d: Drama) -> None:
    """etcd is away for everybody, for a moment or for minutes; sessions are lost and joined anew."""
    a, b = await d.machine("a"), await d.machine("b")
    await some_owner(d, a, X, Z)
    await some_owner(d, b, Y, Z, number=2)
    d.solo(b, 3, X, wait=100.0)
    for _ in range(d.chance.randint(1, 3)):
        d.elect()
        link = d.chance.choice((Link.CUT, Link.REFUSED, Link.HUNG))
        for machine in d.chance.choice(((a, b), (a, b), (a,))):
            machine.host.store.cut(link)
        await d.wait(1.0, 40.0)
        if d.maybe(0.4):
            d.revoke()
        d.mend()
        if d.maybe(0.5):
            d.lose(d.chance.choice((a, b)), "rejoin", "join", "barrier", count=2)
        await d.wait(0.5, 10.0)


async def sharing(d: Drama) -> None:
    """Shared and exclusive owners of one disk, on several hosts."""
    a, b = await d.machine("a"), await d.machine("b")
    exclusive = disk("z")
    for _ in range(d.chance.randint(4, 8)):
        machine, number = d.chance.choice((a, b)), d.chance.randint(1, 4)
        kind = d.chance.choice((Z, Z, exclusive))
        if d.maybe(0.5):
            d.begin(machine.start(domain(number), kind))
        else:
            d.solo(machine, number, kind, life=d.chance.choice((None, 5.0)), wait=d.chance.choice((0.0, 40.0)))
        if d.maybe(0.2):
            d.chance.choice((d.cut, d.revoke, d.mend, d.end_guest))()
        await d.wait(0.0, 6.0)
    recover(d)
    await d.wait(1.0, 20.0)


async def chaos(d: Drama) -> None:
    """Anything at any moment, to agents and their guests."""
    for name in "abc":
        await d.machine(name)
    doings = (
        d.start, d.start, d.pause, d.resume, d.resume, d.migrate, d.migrate, d.plug, d.unplug, d.end_guest,
        d.pause_and_resume, d.fail_to_migrate, d.linger, d.ask_late, d.run_on, d.start_solo,
    )  # fmt: skip
    troubles = (
        d.kill_program, d.stop_program, d.go_on, d.go_on, d.bring_up, d.bring_up, d.stop_agent, d.kill_guard,
        d.pause_guard, d.cut, d.mend, d.mend, d.slow_down, d.revoke, d.lose, d.lose_locks, d.no_space, d.etcd_lies,
        d.elect, d.set_wall, d.reset, d.boot, d.boot,
    )  # fmt: skip
    for _ in range(3):
        d.start()
    for _ in range(d.chance.randint(15, 30)):
        d.chance.choice(doings if d.maybe(0.55) else troubles)()
        await asyncio.sleep(d.chance.choice((0.0005, 0.002, 0.1, 1.0, 6.0)))


async def crowd(d: Drama) -> None:
    """Anything at any moment, to many that run on their own."""
    for name in "ab":
        await d.machine(name)
    doings = (
        d.start_solo, d.start_solo, d.start_solo, d.start_solo, d.end_solo, d.cancel_solo, d.kill_program,
        d.stop_program, d.go_on, d.go_on, d.kill_guard, d.pause_guard, d.cut, d.mend, d.mend, d.revoke, d.lose,
        d.lose_locks, d.no_space, d.etcd_lies, d.elect, d.set_wall, d.reset, d.boot,
    )  # fmt: skip
    for _ in range(d.chance.randint(10, 18)):
        d.chance.choice(doings)()
        await asyncio.sleep(d.chance.choice((0.002, 0.1, 1.0, 6.0, 20.0)))
