"""Themes in which a guest changes hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from etcdlock.errors import EtcdlockError
from etcdlock.escalation import Action
from etcdlock.testing import Fault
from tests.promises.world import domain
from tests.simulation.cluster import Machine
from tests.simulation.drama import Drama
from tests.simulation.moments import STEPS
from tests.simulation.owners import recover
from tests.simulation.stage import X, Y, Z


async def switch_over(d: Drama) -> None:
    """A migration, in the midst of which something goes wrong, while a third host stands by."""
    a, b, c = await d.machine("a"), await d.machine("b"), await d.machine("c")
    vm = await a.start(domain(1), *d.chance.choice(((X,), (X, Y), (X, Z))))
    d.solo(c, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(0.0, 3.0)
    for _ in range(d.chance.choice((1, 1, 2))):
        _something_at_some_moment(d, a, b, kinds=("park", "claim", "unpark", "park", "claim"))
    rival = c.prepare(domain(1), *vm.disks, incoming=True) if d.maybe(0.3) else None
    if rival is not None:
        d.moments.when("applied", "a", "park", do=lambda: d.begin(c.let_run_or_kill(rival), rival))
    d.begin(a.migrate(vm, b), vm)
    await d.wait(1.0, 30.0)
    recover(d)
    await d.wait(1.0, 20.0)
    if (some := d.some_guest()) and some[1].runs:
        d.begin(some[0].migrate(some[1], d.other(some[0])), some[1])
    await d.wait(1.0, 15.0)


async def three_claim(d: Drama) -> None:
    """Two destinations take in the same guest and ask at one time, while the source may take it back."""
    a, b, c = await d.machine("a"), await d.machine("b"), await d.machine("c")
    vm = await a.start(domain(1), X)
    arriving = [(to, to.prepare(domain(1), X, incoming=True)) for to in (b, c)]
    await d.wait(0.3, 1.0)
    if d.maybe(0.5):
        d.lose(d.chance.choice((b, c)), "claim")
    if d.maybe(0.7):  # else they ask for what has not stopped
        a.pause(vm)
        vm.sent = True
    await d.wait(0.0, 0.1)
    for to, coming in arriving:
        d.begin(to.let_run_or_kill(coming), coming)
    if d.maybe(0.5) and not vm.runs:
        d.begin(a.resume(vm), vm)
    await d.wait(1.0, 12.0)


async def late_destination(d: Drama) -> None:
    """A destination that has been left behind asks late, once its guest has stopped again somewhere."""
    a, b = await d.machine("a"), await d.machine("b")
    vm = await a.start(domain(1), X)
    coming = b.prepare(domain(1), X, incoming=True)
    await d.wait(0.3, 1.0)
    if d.maybe(0.5):    # etcd never hears of this stop
        d.lose(a, "park", fault=d.chance.choice((Fault.REQUEST, Fault.LATE)), count=1)
    a.pause(vm)
    with suppress(EtcdlockError):
        await a.resume(vm)
    await d.wait(0.0, 3.0)
    if vm.runs:
        a.pause(vm)
    await d.wait(0.0, 3.0)
    if d.maybe(0.2):
        d.revoke_agent(d.chance.choice((a, b)))
    d.begin(b.let_run_or_kill(coming), coming)
    await d.wait(0.0, 2.0)
    if d.maybe(0.5) and not vm.runs:
        d.begin(a.resume(vm), vm)
    await d.wait(9.0, 14.0)


async def handed_back(d: Drama) -> None:
    """A claim that is not answered in time goes back to its source; one that was, must not."""
    a, b = await d.machine("a", action=Action.KILL), await d.machine("b")
    vm = await a.start(domain(1), X, Y)
    await d.wait(0.0, 2.0)
    step = d.chance.choice(STEPS)
    d.moments.when(step, "b", "claim", do=d.chance.choice((b.stop_program, lambda: d.cut(b), lambda: d.revoke(b))))
    migrating = d.begin(a.migrate(vm, b), vm)
    await asyncio.wait((migrating,), timeout=d.chance.uniform(1.0, 25.0))
    recover(d)
    await d.wait(1.0, 10.0)
    for machine, guest in [(m, vm) for m in (a, b) for vm in m.vms if vm.runs]:
        if d.maybe(0.5):
            machine.pause(guest)
        elif d.maybe(0.5):
            guest.guest.end()
    await d.wait(1.0, 10.0)
    for each in (a.vms[0], *b.vms[:1]):
        if each.guest.gone_at is None and not each.runs:
            d.begin((a if each is vm else b).resume(each), each)
    await d.wait(1.0, 12.0)


async def unasked(d: Drama) -> None:
    """A guest that should be at rest is let run by itself, just as its host falls silent; its connection may end."""
    a, b = await d.machine("a"), await d.machine("b")
    vm = await a.start(domain(1), X)
    d.solo(b, d.chance.choice((1, 2)), X, wait=100.0)
    await d.wait(0.1, 2.0)
    if d.maybe(0.2):
        a.connection_ends(vm)
        await d.wait(0.1, 2.0)
    if d.maybe(0.5):
        a.fail_to_migrate(vm, b)
    else:
        a.pause(vm)
        await d.wait(0.0, 5.0)
        a.run_on(vm)
    await d.wait(0.0, 3.0)
    troubles: tuple[Callable[[], None], ...] = (a.kill_program, a.host.store.cut, lambda: d.revoke(a))
    for trouble in d.chance.sample(troubles, k=2):
        trouble()
        await d.wait(0.0, 2.0)
    await d.wait(5.0, 50.0)
    recover(d)
    await d.wait(3.0, 15.0)


def _something_at_some_moment(d: Drama, a: Machine, b: Machine, *, kinds: tuple[str, ...]) -> None:
    """One trouble, for one of the two, at one step of one of their transactions."""
    hit = d.chance.choice((a, b))
    trouble = d.chance.choice((
        lambda: d.cut(hit), lambda: d.cut(hit), hit.stop_program, hit.kill_program, hit.reset, hit.kill_guard,
        lambda: d.revoke_agent(hit), lambda: d.cut_off(a, b), lambda: d.lose(hit, count=2),
    ))  # fmt: skip
    if d.maybe(0.3):
        d.lose(d.chance.choice((a, b)), d.chance.choice(kinds), count=1)
    late = d.chance.choice((0.0, 0.0, d.chance.uniform(0.0, 0.5)))
    d.moments.when(d.chance.choice(STEPS), "", d.chance.choice(kinds), do=trouble, after_seconds=late)
