"""What is cleaned up is never what a lock that lives, or a takeover, needs: whatever comes between look and removal."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from etcdlock.errors import HeldElsewhere
from etcdlock.housekeeping import Kind, Plan, plan
from etcdlock.model import LockState, Proof, SessionRef
from etcdlock.ports import Delete, KeyRange, Put, Txn
from etcdlock.survey import LeftoverKind, take_survey
from etcdlock.testing import FakePowerSwitch
from etcdlock.transitions import put_domain
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.test_fencing import fenced, power_cut
from tests.promises.world import KEYS, Host, World, disk, domain

VM, OTHER = domain(1), domain(2)
X, Y = disk("x"), disk("y")
LATER = datetime(2026, 3, 1, tzinfo=UTC)
"""Than the proofs that these worlds write."""


async def planned(world: World, by: Host, *, days: float = 7.0, now: datetime = LATER) -> Plan:
    survey = take_survey(await by.store.read(KEYS.everything), keys=KEYS)
    return plan(survey, keys=KEYS, now=now, older_than=timedelta(days=days))


def kinds(found: Plan) -> list[Kind]:
    return [item.kind for item in found.removals]


async def removed(by: Host, found: Plan) -> list[bool]:
    return [(await by.store.txn(item.txn)).succeeded for item in found.removals]


async def dead(world: World, *, parked: bool = False, proven: bool = True) -> tuple[Hypervisor, SessionRef]:
    """A host that is proven dead, with a lock."""
    a = await hypervisor(world, "a")
    vm = await a.start(VM, X)
    if parked:
        a.pause(vm)
        await asyncio.sleep(1.0)
    (session,) = world.sessions(a.host)
    power_cut(a)
    await asyncio.sleep(world.timing.ttl_seconds + 2.0)
    if proven:
        assert await world.declare(world.host("operator"), session)
    return a, session


@pytest.mark.parametrize("parked", [False, True])
def test_a_lock_of_a_dead_session_goes_with_its_disks_and_then_its_proof(play: Play, parked: bool) -> None:
    async def scenario(world: World) -> None:
        await dead(world, parked=parked)
        b = await hypervisor(world, "b")
        found = await planned(world, b.host)
        assert kinds(found) == [Kind.DEAD_LOCK]
        assert await removed(b.host, found) == [True]
        found = await planned(world, b.host)
        assert kinds(found) == [Kind.OBITUARY]
        assert await removed(b.host, found) == [True]
        assert kinds(await planned(world, b.host)) == []
        left = [item.key for item in world.etcd.contents(KEYS.everything)]
        assert sorted(left) == sorted([KEYS.contract, KEYS.session(world.sessions(b.host)[0])])
        await b.start(OTHER, X)

    play(scenario)


def test_a_takeover_that_came_between_keeps_everything(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead(world)
        b = await hypervisor(world, "b")
        found = await planned(world, b.host)
        vm = await b.start(VM, X, Y)
        assert await removed(b.host, found) == [False]
        assert b.state(VM) is LockState.HELD
        c = await hypervisor(world, "c")
        with pytest.raises(HeldElsewhere):
            await c.start(OTHER, X)
        assert vm.runs

    play(scenario)


def test_a_host_that_has_carried_its_lock_over_meanwhile_keeps_it(play: Play) -> None:
    """A re-join needs no proof of anything, and writes the domain alone: its disks' keys stay as they are."""

    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        (session,) = world.sessions(a.host)
        a.host.store.cut()
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(1.0)
        assert await world.declare(b.host, session)
        found = await planned(world, b.host)
        assert kinds(found) == [Kind.DEAD_LOCK]
        a.host.store.mend()
        await asyncio.sleep(5.0)
        assert await removed(b.host, found) == [False]
        assert (a.state(VM), vm.runs) == (LockState.HELD, True)
        with pytest.raises(HeldElsewhere):
            await b.start(OTHER, X)

    play(scenario, judged=False)  # the operator was wrong


def test_a_disk_that_another_domain_has_taken_from_the_dead_stays_that_domains(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead(world)
        b = await hypervisor(world, "b")
        before = await planned(world, b.host)
        await b.start(OTHER, X)
        assert await removed(b.host, before) == [False]
        assert await removed(b.host, await planned(world, b.host)) == [True]  # the dead domain, without the disk
        assert len(world.etcd.contents(KEYS.holders(X))) == 1
        with pytest.raises(HeldElsewhere):
            await (await hypervisor(world, "c")).start(VM, X)

    play(scenario)


def test_records_that_disagree_cost_no_other_domain_its_disk(play: Play) -> None:
    """A dead domain lists a disk whose key names another: a fault, or the hand of an operator."""

    async def scenario(world: World) -> None:
        a, _ = await dead(world)
        stored = a.record(VM)
        assert stored is not None
        b = await hypervisor(world, "b")
        await b.host.store.txn(Txn((), (Delete(KEYS.holders(X)),)))
        await b.start(OTHER, X)
        await removed(b.host, await planned(world, b.host))
        assert a.record(VM) is None
        assert len(world.etcd.contents(KEYS.holders(X))) == 1

    play(scenario, judged=False)  # who would find fault with what the test itself has written


def test_a_proof_that_a_domain_has_come_to_need_meanwhile_stays(play: Play) -> None:
    """As when a destination hands a domain back to a source that died meanwhile."""

    async def scenario(world: World) -> None:
        a, session = await dead(world)
        stored = a.record(VM)
        assert stored is not None
        b = await hypervisor(world, "b")
        await removed(b.host, await planned(world, b.host))
        found = await planned(world, b.host)
        assert kinds(found) == [Kind.OBITUARY]
        await b.host.store.txn(Txn((), (put_domain(KEYS, stored.record),)))
        assert await removed(b.host, found) == [False]
        assert kinds(await planned(world, b.host)) == [Kind.DEAD_LOCK]
        assert session == stored.record.owner

    play(scenario, judged=False)  # who would find fault with what the test itself has written


def test_while_a_domain_cannot_be_read_no_proof_goes(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead(world)
        b = await hypervisor(world, "b")
        await removed(b.host, await planned(world, b.host))
        await b.host.store.txn(Txn((), (Put(KEYS.domain(OTHER.uuid), b"?"),)))
        found = await planned(world, b.host)
        assert kinds(found) == []
        assert [item.kind for item in found.left] == [LeftoverKind.CORRUPT]

    play(scenario, judged=False)  # who would find fault with what the test itself has written


def test_what_is_not_proven_or_lives_or_is_young_is_left(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, session = await dead(world, proven=False)
        b = await hypervisor(world, "b")
        await b.start(OTHER, Y)
        found = await planned(world, b.host)
        assert kinds(found) == []
        assert [(item.kind, item.key) for item in found.left] == [(LeftoverKind.SILENT_LOCK, KEYS.domain(VM.uuid))]
        assert await world.declare(b.host, session, proof=Proof.OPERATOR)
        young = datetime(2026, 1, 7, tzinfo=UTC)
        assert kinds(await planned(world, b.host, now=young)) == []
        assert kinds(await planned(world, b.host, now=young, days=0.0)) == [Kind.DEAD_LOCK]
        assert a.record(VM) is not None

    play(scenario)


def test_an_old_record_of_fencing_goes_when_nothing_is_under_way_by_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        await dead(world, proven=False)
        b = await hypervisor(world, "b")
        assert await fenced(world, b.host, FakePowerSwitch("plug 3")) == 1
        far = datetime(2999, 1, 1, tzinfo=UTC)
        assert kinds(await planned(world, b.host, now=far)) == [Kind.DEAD_LOCK]  # which the record is about
        await removed(b.host, await planned(world, b.host, now=far))
        found = await planned(world, b.host, now=far)
        assert kinds(found) == [Kind.OBITUARY, Kind.FENCING]
        assert await removed(b.host, found) == [True, True]
        assert world.etcd.contents(KeyRange(KEYS.fencing("a"))) == ()

    play(scenario)
