"""A record says how its owner came by it, through every later change, so that another host can tell what happened."""

from __future__ import annotations

import asyncio

from etcdlock.model import Handover, Proof
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.test_fencing import power_cut
from tests.promises.world import World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")


def history(host: Hypervisor) -> tuple[Handover, ...]:
    stored = host.record(VM)
    assert stored is not None
    return stored.record.history


def token(host: Hypervisor) -> int:
    stored = host.record(VM)
    assert stored is not None
    return stored.token


def test_a_migration_and_a_takeover_are_both_told_whatever_is_written_since(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b, c = [await hypervisor(world, name) for name in "abc"]
        vm = await a.start(VM, X)
        assert history(a) == ()
        first, (session,) = token(a), world.sessions(a.host)
        vm = await a.migrate(vm, b)
        (came,) = history(b)
        assert (came.owner, came.token, came.why) == (session, first, "migration")
        second, (session,) = token(b), world.sessions(b.host)
        power_cut(b)
        await asyncio.sleep(world.timing.ttl_seconds + 2.0)
        assert await world.declare(c.host, session, proof=Proof.FENCE_AGENT)
        vm = await c.start(VM, X)
        await c.plug(vm, Y)
        c.pause(vm)
        await asyncio.sleep(1.0)
        world.etcd.revoke_wrongly(world.leases(c.host)[0])
        await asyncio.sleep(5.0)
        assert history(c)[0] == came
        assert [(item.owner, item.token, item.why) for item in history(c)[1:]] == [(session, second, Proof.FENCE_AGENT)]

    play(scenario)


def test_a_disk_that_was_taken_from_another_domain_is_told_of_by_the_taker(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        await a.start(OTHER, X)
        (session,) = world.sessions(a.host)
        power_cut(a)
        await asyncio.sleep(world.timing.ttl_seconds + 2.0)
        assert await world.declare(b.host, session)
        await b.start(VM, X)
        (taken,) = history(b)
        assert (taken.domain, taken.owner, taken.why) == (OTHER, session, Proof.OPERATOR)

    play(scenario)


def test_a_claim_that_is_undone_leaves_no_trace_in_the_record(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        arriving = b.prepare(VM, X, incoming=True)
        await asyncio.sleep(0.5)
        a.pause(vm)
        await asyncio.sleep(0.5)
        b.processes.close(arriving.guest, X)
        arriving.guest.end()
        await a.resume(vm)
        assert history(a) == ()

    play(scenario)
