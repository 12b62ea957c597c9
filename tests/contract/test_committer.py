"""Group commit keeps the store's contract, on the fake and on real etcds, and both nest transactions alike."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import cast

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from etcdlock.adapters.committer import BatchStore, Committer
from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import Rejected, TooManyOperations
from etcdlock.ports import Compare, Get, KeyRange, Op, Put, Relation, Store, Target, Txn, TxnResult
from tests.contract import test_store_contract
from tests.contract.etcds import with_store
from tests.contract.room import FakeWorld, Room, Scenario, World, in_room
from tests.contract.test_fake_equals_etcd import branches, ranges

MAX_TXN_OPS = 128
UNKNOWN_LEASE = 0x1234_5678
ELSEWHERE = KeyRange("/elsewhere/", prefix=True)
AHEAD = Txn((), (Get(ELSEWHERE),))
PASSES = Txn((Compare(ELSEWHERE, Target.MOD_REVISION, Relation.EQUAL, 0),), (Get(ELSEWHERE),))
FAILS = Txn((Compare(ELSEWHERE, Target.MOD_REVISION, Relation.GREATER, 0),), (), (Get(ELSEWHERE),))


# Every test of the contract again, each transaction in a request that it shares with others.


class Crowd(Committer):
    """No transaction is ever alone: one is under way when it comes, and two others want to share its request."""

    async def txn(self, txn: Txn, /) -> TxnResult:
        crowd = (AHEAD, PASSES, txn, FAILS)
        outcomes = await asyncio.gather(*map(super().txn, crowd), return_exceptions=True)
        wanted = outcomes[2]
        if isinstance(wanted, BaseException):
            raise wanted
        ahead, passes, _, fails = outcomes
        assert isinstance(ahead, TxnResult)
        assert isinstance(passes, TxnResult)
        assert isinstance(fails, TxnResult)
        assert (passes.succeeded, fails.succeeded) == (True, False)
        return wanted


def crowd(store: Store) -> Store:
    return Crowd(cast("BatchStore", store), max_txn_ops=MAX_TXN_OPS)


@dataclass(frozen=True, slots=True)
class CrowdedWorld:
    """A world in which every store is behind a committer that is busy."""

    inner: World

    def run(self, scenario: Scenario, /) -> None:
        async def crowded(room: Room) -> None:
            await scenario(replace(room, store=crowd(room.store), open_store=lambda: crowd(room.open_store())))

        self.inner.run(crowded)


@pytest.fixture
def world(world: World) -> World:
    """For this module: each of the worlds, crowded."""
    return CrowdedWorld(world)


globals().update({name: test for name, test in vars(test_store_contract).items() if name.startswith("test_")})


# What only a committer does.


@in_room
async def test_of_domains_that_want_disks_of_each_other_no_disk_has_two_owners(room: Room) -> None:
    """Exclusive and shared owners, four stores, disks in common: what wins is free of contradictions each time."""
    stores = [room.store, *(room.open_store() for _ in range(3))]

    async def acquire(number: int) -> None:
        wanted = [f"disk{(number * step) % 7}" for step in (1, 3)]
        shared = number % 3 == 0
        places = [f"{disk}/shared/{number}" if shared else f"{disk}/exclusive" for disk in wanted]
        rivals = [KeyRange(room.key(f"{disk}/exclusive")) if shared else room.below(f"{disk}/") for disk in wanted]
        free = tuple(Compare(where, Target.CREATE_REVISION, Relation.EQUAL, 0) for where in dict.fromkeys(rivals))
        puts = tuple(Put(room.key(place), b"%d" % number) for place in dict.fromkeys(places))
        await stores[number % len(stores)].txn(Txn(free, puts))

    for _ in range(10):
        await asyncio.gather(*(acquire(number) for number in range(1, 25)))
        held = [kv.key.removeprefix(room.prefix) for kv in (await room.store.read(room.below())).found]
        exclusive = {key.split("/")[0] for key in held if key.endswith("/exclusive")}
        shared = {key.split("/")[0] for key in held if "/shared/" in key}
        assert held
        assert not exclusive & shared
        for key in held:
            await room.delete(key)


@in_room
async def test_a_rider_with_a_dead_lease_or_an_empty_key_is_refused_and_those_beside_it_are_served(room: Room) -> None:
    mistakes = (Put(room.key("dead"), b"", UNKNOWN_LEASE), Put("", b""))
    served = tuple(Put(room.key(name), b"") for name in ("a", "b"))
    outcomes = await asyncio.gather(
        *(room.store.txn(Txn((), (op,))) for op in (served[0], *mistakes, served[1])), return_exceptions=True
    )
    assert [isinstance(outcome, Rejected) for outcome in outcomes] == [False, True, True, False]
    found = (await room.store.read(room.below())).found
    assert [kv.key for kv in found] == [room.key("a"), room.key("b")]


# Nested transactions: what the committer builds on.


def batches(room: Room) -> BatchStore:
    """The plain store under the room's committer."""
    return cast("BatchStore", room.open_store())


def _in_plain_room(world: World, scenario: Scenario) -> None:
    """Without a crowd."""
    (world.inner if isinstance(world, CrowdedWorld) else world).run(scenario)


def test_nested_transactions_share_one_revision_and_each_is_judged_alone(world: World) -> None:
    async def scenario(room: Room) -> None:
        before = await room.put("held")
        free = [Compare(KeyRange(room.key(name)), Target.MOD_REVISION, Relation.EQUAL, 0) for name in ("a", "held")]
        look = (Get(room.below("held")),)
        won, lost = await batches(room).txn_batch(
            [Txn((free[0],), (Put(room.key("a"), b""),), look), Txn((free[1],), (Put(room.key("held"), b""),), look)]
        )
        assert (won.succeeded, lost.succeeded) == (True, False)
        assert won.revision == lost.revision == before + 1
        assert [kv.mod_revision for kv in lost.replies[0]] == [before]
        stored = await room.get("a")
        assert stored is not None
        assert stored.mod_revision == won.revision

    _in_plain_room(world, scenario)


def test_every_compare_is_judged_before_anything_is_written(world: World) -> None:
    """Why an exclusive and a shared owner of one disk must never share a request: both would win."""

    async def scenario(room: Room) -> None:
        free = Compare(room.below("disk/"), Target.CREATE_REVISION, Relation.EQUAL, 0)
        takes = [Txn((free,), (Put(room.key(f"disk/{name}"), b""),)) for name in ("exclusive", "shared")]
        assert [result.succeeded for result in await batches(room).txn_batch(takes)] == [True, True]

    _in_plain_room(world, scenario)


def writes(prefix: str, count: int, *, in_failure_branch: bool = False) -> Txn:
    puts = tuple(Put(f"{prefix}/{number}", b"") for number in range(count))
    return Txn((), (), puts) if in_failure_branch else Txn((), puts)


@pytest.mark.parametrize("in_failure_branch", [False, True])
def test_nested_operations_count_with_the_outer_ones_before_they_are_sent(
    world: World, in_failure_branch: bool
) -> None:
    async def scenario(room: Room) -> None:
        def nest(*counts: int) -> list[Txn]:
            return [
                writes(room.key(f"{place}"), count, in_failure_branch=in_failure_branch)
                for place, count in enumerate(counts)
            ]

        store = batches(room)
        await store.txn_batch(nest(126, 126))
        with pytest.raises(TooManyOperations):
            await store.txn_batch(nest(127, 1))

    _in_plain_room(world, scenario)


def test_etcd_counts_the_outer_operations_and_the_largest_of_the_inner(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn_batch([writes("/0", 126), writes("/1", 126)])
        with pytest.raises(Rejected, match="too many operations"):
            await store.txn_batch([writes("/0", 127), writes("/1", 1)])
        with pytest.raises(Rejected, match="duplicate key"):
            await store.txn_batch([writes("/0", 1), writes("/0", 1, in_failure_branch=True)])

    with_store(EtcdOptions(endpoints=etcd.endpoints, max_txn_ops=1000), use)


numbers = st.just(0) | st.integers(0, 6)
compares = st.builds(Compare, ranges, st.sampled_from(Target), st.sampled_from(Relation), numbers)
nested = st.lists(st.builds(Txn, st.lists(compares, max_size=2).map(tuple), branches, branches), min_size=2, max_size=3)


def _moved(room: Room, base: int, txn: Txn) -> Txn:
    """Into the room, without leases; numbers count from its first revision."""

    def move(where: KeyRange) -> KeyRange:
        return replace(where, key=room.key(where.key))

    def move_op(op: Op) -> Op:
        return Put(room.key(op.key), op.value) if isinstance(op, Put) else replace(op, where=move(op.where))

    judged = (replace(c, where=move(c.where), number=c.number + base if c.number else 0) for c in txn.compare)
    return Txn(tuple(judged), tuple(map(move_op, txn.success)), tuple(map(move_op, txn.failure)))


def _observed(world: World, program: list[list[Txn]]) -> list[object]:
    seen: list[object] = []

    async def scenario(room: Room) -> None:
        store, base = batches(room), await room.put("a")
        for txns in program:
            try:
                results = await store.txn_batch([_moved(room, base, txn) for txn in txns])
            except Rejected:
                seen.append("rejected")
                continue
            for result in results:
                replies = [[(kv.key.removeprefix(room.prefix), kv.value) for kv in found] for found in result.replies]
                seen.append((result.succeeded, result.revision - base, replies))

    _in_plain_room(world, scenario)
    return seen


@given(program=st.lists(nested, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nested_transactions_of_any_kind_have_the_same_answers_on_the_fake(
    real_world: World, program: list[list[Txn]]
) -> None:
    expected, seen = _observed(real_world, program), _observed(FakeWorld(), program)
    event("rejected" if "rejected" in seen else "all accepted")
    assert seen == expected
