"""What was true when a takeover was prepared may not be when it is done; the transaction looks again."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import HeldElsewhere
from etcdlock.ports import Get
from etcdlock.testing import Applied, Link
from tests.promises.conftest import Play
from tests.promises.world import KEYS, Host, Run, World, disk, domain


def looks_for_proofs(entry: object, host: Host) -> bool:
    """The last read before a takeover is sent."""
    if not isinstance(entry, Applied) or entry.client != host.name:
        return False
    keys = [op.where.key for op in entry.txn.success if isinstance(op, Get)]
    return any(key.startswith(KEYS.obituaries.key) for key in keys)


async def held_up(world: World, host: Host) -> None:
    """Hold up the takeover that this host is about to send: etcd takes it in but does not serve it yet."""
    while not any(looks_for_proofs(entry, host) for entry in world.etcd.history):
        await asyncio.sleep(0.00005)
    await asyncio.sleep(0.0025)  # the answer to that read is on its way back
    host.store.hang()


async def declared_dead_for_a_while(world: World, host: Host) -> None:
    """Cut off, its session revoked, and an operator in a hurry."""
    session, lease = world.sessions(host)[0], world.leases(host)[0]
    host.store.cut(Link.REFUSED)
    await asyncio.sleep(world.timing.renew_every_seconds + 0.5)  # by now it tries again several times a second
    world.etcd.revoke_wrongly(lease)
    assert await world.declare(world.host("operator"), session)


@pytest.mark.parametrize("heir", [1, 2], ids=["the same domain", "another domain"])
def test_a_host_that_joins_anew_just_before_a_takeover_keeps_its_locks_and_its_guest(play: Play, heir: int) -> None:
    async def scenario(world: World) -> None:
        world.etcd.latency_seconds = lambda: 0.002
        a, b = world.host("a"), world.host("b")
        guest = await world.until_runs(world.start(a, domain(1), disk("x")))
        await asyncio.sleep(10.0)
        await declared_dead_for_a_while(world, a)
        second = world.start(b, domain(heir), disk("x"))
        await held_up(world, b)
        a.store.mend()
        await until_joined(world, a)
        b.store.mend()
        with pytest.raises(HeldElsewhere, match="host a is alive"):
            await second.ended
        assert guest.runs

    play(scenario, judged=False)  # the judge would rightly blame the operator


async def until_joined(world: World, host: Host) -> None:
    async with asyncio.timeout(1.2):
        while not world.sessions(host):
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)


def test_a_free_disk_that_another_took_just_before_a_takeover_is_not_taken_from_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.etcd.latency_seconds = lambda: 0.002
        a, b, c = world.host("a"), world.host("b"), world.host("c")
        dead = world.start(a, domain(1), disk("x"))
        await world.until_runs(dead)
        await world.power_off(dead)
        session, lease = world.sessions(a)[0], world.leases(a)[0]
        world.etcd.revoke_wrongly(lease)
        assert await world.declare(c, session)
        second: Run = world.start(b, domain(2), disk("x"), disk("y"))
        await held_up(world, b)
        third = world.start(c, domain(3), disk("y"))
        await world.until_runs(third, within=1.0)
        b.store.mend()
        with pytest.raises(HeldElsewhere, match="/san/y is held by domain vm3 on host c"):
            await second.ended
        assert third.guest is not None

    play(scenario)
