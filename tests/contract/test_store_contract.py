"""What every store must do, the fake one and a real etcd alike: transactions, revisions, reads and leases."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from etcdlock.errors import Rejected, TooManyOperations, Unreachable
from etcdlock.ports import Compare, Delete, Get, KeyRange, KeyValue, Put, Relation, Target, Txn
from tests.contract.room import Room, World, in_room

TARGETS = tuple(Target)
UNKNOWN_LEASE = 0x1234_5678


# Compares.


@in_room
async def test_every_relation_to_every_number_of_a_key(room: Room) -> None:
    created = await room.put("a")
    modified = await room.put("a")
    for target, stored in ((Target.CREATE_REVISION, created), (Target.MOD_REVISION, modified)):
        for given in (0, stored - 1, stored, stored + 1):
            where = KeyRange(room.key("a"))
            assert await room.holds(where, target, Relation.EQUAL, given) == (stored == given)
            assert await room.holds(where, target, Relation.LESS, given) == (stored < given)
            assert await room.holds(where, target, Relation.GREATER, given) == (stored > given)


@in_room
async def test_an_absent_key_and_an_empty_range_have_number_zero(room: Room) -> None:
    await room.put("beside")
    absent, empty = KeyRange(room.key("absent")), room.below("absent/")
    for where, target in itertools.product((absent, empty), TARGETS):
        assert await room.holds(where, target, Relation.EQUAL, 0)
        assert await room.holds(where, target, Relation.LESS, 1)
        assert not await room.holds(where, target, Relation.LESS, 0)
        assert not await room.holds(where, target, Relation.GREATER, 0)
        assert not await room.holds(where, target, Relation.EQUAL, 5)


@in_room
async def test_a_compare_over_a_prefix_must_hold_for_every_key_there(room: Room) -> None:
    first = await room.put("d/1")
    second = await room.put("d/2")
    third = await room.put("d/1")
    both = room.below("d/")
    assert await room.holds(both, Target.CREATE_REVISION, Relation.LESS, second + 1)
    assert not await room.holds(both, Target.CREATE_REVISION, Relation.LESS, second)
    assert not await room.holds(both, Target.CREATE_REVISION, Relation.EQUAL, first)
    assert await room.holds(both, Target.CREATE_REVISION, Relation.GREATER, first - 1)
    assert await room.holds(both, Target.MOD_REVISION, Relation.GREATER, first)
    assert not await room.holds(both, Target.MOD_REVISION, Relation.GREATER, second)
    assert not await room.holds(both, Target.MOD_REVISION, Relation.LESS, third)
    assert not await room.holds(both, Target.MOD_REVISION, Relation.EQUAL, 0)


@in_room
async def test_a_prefix_ends_where_it_ends(room: Room) -> None:
    await room.put("d0")
    await room.put("d")
    assert await room.holds(room.below("d/"), Target.CREATE_REVISION, Relation.EQUAL, 0)
    await room.put("d/")
    assert not await room.holds(room.below("d/"), Target.CREATE_REVISION, Relation.EQUAL, 0)


@in_room
async def test_all_compares_must_hold_and_no_compare_always_holds(room: Room) -> None:
    await room.put("a")
    exists = Compare(KeyRange(room.key("a")), Target.MOD_REVISION, Relation.GREATER, 0)
    absent = Compare(KeyRange(room.key("b")), Target.MOD_REVISION, Relation.EQUAL, 0)
    wrong = Compare(KeyRange(room.key("b")), Target.MOD_REVISION, Relation.GREATER, 0)
    assert (await room.store.txn(Txn((exists, absent), ()))).succeeded
    assert not (await room.store.txn(Txn((exists, wrong, absent), ()))).succeeded
    assert (await room.store.txn(Txn((), ()))).succeeded


# Transactions.


@in_room
async def test_a_failing_compare_changes_nothing_and_its_branch_reads_what_stands_there(room: Room) -> None:
    await room.put("held", b"by another")
    before = await room.revision()
    taken = Compare(KeyRange(room.key("held")), Target.CREATE_REVISION, Relation.EQUAL, 0)
    free = Compare(KeyRange(room.key("free")), Target.CREATE_REVISION, Relation.EQUAL, 0)
    result = await room.store.txn(
        Txn(
            (free, taken),
            (Put(room.key("free"), b"mine"), Put(room.key("held"), b"mine")),
            (Get(KeyRange(room.key("held"))), Get(room.below("fr"))),
        )
    )
    assert not result.succeeded
    assert result.revision == before == await room.revision()
    assert [[kv.value for kv in reply] for reply in result.replies] == [[b"by another"], []]
    assert await room.get("free") is None


@in_room
async def test_a_failure_branch_may_write(room: Room) -> None:
    never = Compare(KeyRange(room.key("a")), Target.MOD_REVISION, Relation.GREATER, 0)
    result = await room.store.txn(Txn((never,), (Put(room.key("a"), b"1"),), (Put(room.key("b"), b"2"),)))
    assert not result.succeeded
    assert result.replies == ((),)
    assert await room.get("a") is None
    stored = await room.get("b")
    assert stored is not None
    assert (stored.value, stored.mod_revision) == (b"2", result.revision)


@in_room
async def test_a_transaction_is_one_revision_however_much_it_writes(room: Room) -> None:
    await room.do(Put(room.key("old"), b""))
    before = await room.revision()
    result = await room.do(
        Put(room.key("a"), b"1"), Put(room.key("b"), b"2"), Delete(KeyRange(room.key("old"))), Get(room.below())
    )
    assert result.revision == before + 1
    assert result.replies == (
        (),
        (),
        (),
        (
            KeyValue(room.key("a"), b"1", result.revision, result.revision),
            KeyValue(room.key("b"), b"2", result.revision, result.revision),
        ),
    )


@in_room
async def test_reads_in_a_transaction_see_what_was_written_before_them_and_not_after(room: Room) -> None:
    result = await room.do(
        Get(room.below()),
        Put(room.key("a"), b"1"),
        Get(room.below()),
        Put(room.key("b"), b"2"),
        Get(room.below()),
    )
    assert [[kv.value for kv in reply] for reply in result.replies] == [[], [], [b"1"], [], [b"1", b"2"]]


@in_room
async def test_what_writes_nothing_leaves_the_revision_alone(room: Room) -> None:
    before = await room.put("a")
    assert (await room.do(Get(KeyRange(room.key("a"))))).revision == before
    assert await room.delete("absent") == before
    assert (await room.do(Delete(room.below("absent/")))).revision == before
    assert (await room.do()).revision == before
    assert (await room.store.read(KeyRange(room.key("a")))).revision == before
    assert await room.put("a") == before + 1


@in_room
async def test_a_key_made_anew_is_a_new_key(room: Room) -> None:
    first = await room.put("a")
    second = await room.put("a")
    stored = await room.get("a")
    assert stored is not None
    assert (stored.create_revision, stored.mod_revision) == (first, second)
    assert await room.delete("a") == second + 1
    assert await room.get("a") is None
    again = await room.put("a")
    stored = await room.get("a")
    assert stored is not None
    assert (stored.create_revision, stored.mod_revision) == (again, again)
    assert not await room.holds(KeyRange(room.key("a")), Target.MOD_REVISION, Relation.EQUAL, second)


@in_room
async def test_deleting_a_prefix_takes_every_key_there_and_no_other(room: Room) -> None:
    for name in ("d", "d/1", "d/2", "d/2/3", "d0", "e"):
        await room.put(name)
    before = await room.revision()
    assert (await room.do(Delete(room.below("d/")))).revision == before + 1
    left = (await room.store.read(room.below())).found
    assert [kv.key for kv in left] == [room.key(name) for name in ("d", "d0", "e")]


@in_room
async def test_keys_come_in_the_order_of_their_bytes(room: Room) -> None:
    names = ["b", "a", "a/é", "B", "a0", "a/z", "a%2F", "a/", "10", "9"]
    await room.do(*(Put(room.key(name), b"") for name in names))
    snapshot = await room.store.read(room.below())
    in_order = [room.key(name) for name in sorted(names, key=str.encode)]
    assert [kv.key for kv in snapshot.found] == in_order
    assert [kv.key for kv in (await room.do(Get(room.below()))).replies[0]] == in_order


@in_room
async def test_values_are_bytes_and_may_be_empty(room: Room) -> None:
    for value in (b"", bytes(range(256)), b"x" * 100_000):
        await room.put("a", value)
        stored = await room.get("a")
        assert stored is not None
        assert stored.value == value


@pytest.mark.parametrize("in_failure_branch", [False, True])
def test_no_key_may_be_written_twice(world: World, in_failure_branch: bool) -> None:
    async def scenario(room: Room) -> None:
        await room.put("a", b"before")
        before = await room.revision()
        put, delete, below = Put(room.key("a"), b"1"), Delete(KeyRange(room.key("a"))), Delete(room.below())
        for ops in ((put, put), (put, delete), (delete, put), (put, below), (below, put)):
            txn = Txn((), (), ops) if in_failure_branch else Txn((), ops)
            with pytest.raises(Rejected):
                await room.store.txn(txn)
        assert await room.revision() == before
        # Deleting twice is allowed, and so is one write in each branch.
        await room.do(delete, delete, below)
        assert (await room.store.txn(Txn((), (put,), (put,)))).succeeded

    world.run(scenario)


@in_room
async def test_a_transaction_with_too_many_operations_is_refused_before_it_is_sent(room: Room) -> None:
    most = 128
    puts = tuple(Put(room.key(f"{n}"), b"") for n in range(most + 1))
    compare = Compare(KeyRange(room.key("a")), Target.MOD_REVISION, Relation.EQUAL, 0)
    for txn in (Txn((), puts), Txn((), (), puts), Txn((compare,) * (most + 1), ())):
        with pytest.raises(TooManyOperations):
            await room.store.txn(txn)
    assert (await room.store.read(room.below())).found == ()
    assert (await room.store.txn(Txn((compare,) * most, puts[:most], puts[:most]))).succeeded


@in_room
async def test_a_request_that_is_too_large_is_refused(room: Room) -> None:
    with pytest.raises(Rejected):
        await room.put("a", b"x" * 1_600_000)
    assert await room.get("a") is None
    await room.put("a", b"x" * 1_500_000)


@in_room
async def test_an_empty_key_is_refused(room: Room) -> None:
    for txn in (Txn((), (Put("", b""),)), Txn((), (Get(KeyRange("")),)), Txn((), (), (Delete(KeyRange("")),))):
        with pytest.raises(Rejected):
            await room.store.txn(txn)


@in_room
async def test_of_many_who_take_one_key_at_once_exactly_one_wins(room: Room) -> None:
    stores = [room.store, *(room.open_store() for _ in range(3))]
    free = Compare(room.below("lock/"), Target.CREATE_REVISION, Relation.EQUAL, 0)

    async def take(number: int) -> tuple[bool, bytes]:
        mine = f"{number}".encode()
        txn = Txn((free,), (Put(room.key("lock/exclusive"), mine),), (Get(room.below("lock/")),))
        result = await stores[number % len(stores)].txn(txn)
        return result.succeeded, mine if result.succeeded else result.replies[0][0].value

    answers = await asyncio.gather(*(take(number) for number in range(40)))
    assert [won for won, _ in answers].count(True) == 1
    winner = next(mine for won, mine in answers if won)
    assert {holder for _, holder in answers} == {winner}


@in_room
async def test_a_closed_store_leaves_keys_and_leases_as_they_are(room: Room) -> None:
    other = room.open_store()
    lease = await other.grant(ttl_seconds=30)
    await other.txn(Txn((), (Put(room.key("a"), b"1", lease.id),)))
    await other.close()
    stored = await room.get("a")
    assert stored is not None
    assert stored.lease == lease.id
    assert await room.store.keep_alive(lease.id) == 30


@in_room
async def test_a_closed_store_sends_nothing_any_more(room: Room) -> None:
    other = room.open_store()
    await other.txn(Txn((), (Put(room.key("a"), b"open"),)))
    await other.close()
    for call in (
        other.txn(Txn((), (Put(room.key("a"), b"closed"),))),
        other.read(room.below()),
        other.grant(ttl_seconds=30),
        other.keep_alive(UNKNOWN_LEASE),
        other.revoke(UNKNOWN_LEASE),
    ):
        with pytest.raises(Unreachable, match="closed"):
            await call
    await other.close()
    stored = await room.get("a")
    assert stored is not None
    assert stored.value == b"open"


# Leases.


@in_room
async def test_a_lease_is_granted_for_at_least_what_was_asked_and_has_its_own_id(room: Room) -> None:
    leases = [await room.store.grant(ttl_seconds=seconds) for seconds in (1, 5, 60)]
    assert [lease.ttl_seconds >= seconds for lease, seconds in zip(leases, (1, 5, 60), strict=True)] == [True] * 3
    assert leases[2].ttl_seconds == 60
    assert len({lease.id for lease in leases} - {0}) == 3
    for lease in leases:
        assert await room.store.keep_alive(lease.id) == lease.ttl_seconds
        await room.store.revoke(lease.id)


@in_room
async def test_granting_a_lease_and_renewing_it_are_no_revisions(room: Room) -> None:
    before = await room.revision()
    lease = await room.store.grant(ttl_seconds=30)
    await room.store.keep_alive(lease.id)
    await room.store.revoke(lease.id)
    assert await room.revision() == before


@in_room
async def test_revoking_a_lease_deletes_its_keys_in_one_revision(room: Room) -> None:
    lease = await room.store.grant(ttl_seconds=30)
    for name in ("b", "a", "kept"):
        await room.put(name, lease=lease.id)
    stored = await room.get("a")
    assert stored is not None
    assert stored.lease == lease.id
    before = await room.put("kept")  # without a lease: it is on none from now on
    await room.store.revoke(lease.id)
    snapshot = await room.store.read(room.below())
    assert [(kv.key, kv.lease) for kv in snapshot.found] == [(room.key("kept"), 0)]
    assert snapshot.revision == before + 1


@in_room
async def test_a_lease_that_is_not_renewed_runs_out_and_its_keys_go_with_it(room: Room) -> None:
    lease = await room.store.grant(ttl_seconds=1)
    before = await room.put("a", lease=lease.id)
    assert await room.events(1, after_revision=before)
    assert await room.get("a") is None
    assert await room.store.keep_alive(lease.id) == 0
    with pytest.raises(Rejected):
        await room.put("a", lease=lease.id)


@in_room
async def test_a_lease_that_nobody_has(room: Room) -> None:
    assert await room.store.keep_alive(UNKNOWN_LEASE) == 0
    await room.store.revoke(UNKNOWN_LEASE)
    lease = await room.store.grant(ttl_seconds=30)
    await room.store.revoke(lease.id)
    assert await room.store.keep_alive(lease.id) == 0
    await room.store.revoke(lease.id)


@in_room
async def test_a_put_on_a_dead_lease_refuses_the_whole_transaction(room: Room) -> None:
    before = await room.revision()
    for ops in ((Put(room.key("a"), b""), Put(room.key("b"), b"", UNKNOWN_LEASE)),):
        with pytest.raises(Rejected):
            await room.do(*ops)
    assert (await room.store.read(room.below())).found == ()
    assert await room.revision() == before


@in_room
async def test_a_dead_lease_in_the_branch_that_does_not_run_is_no_matter(room: Room) -> None:
    dead = Put(room.key("a"), b"", UNKNOWN_LEASE)
    assert (await room.store.txn(Txn((), (), (dead,)))).succeeded


@in_room
async def test_a_key_moves_to_another_lease(room: Room) -> None:
    old, new = [await room.store.grant(ttl_seconds=30) for _ in range(2)]
    await room.put("a", lease=old.id)
    await room.put("a", lease=new.id)
    await room.store.revoke(old.id)
    assert await room.get("a") is not None
    await room.store.revoke(new.id)
    assert await room.get("a") is None
