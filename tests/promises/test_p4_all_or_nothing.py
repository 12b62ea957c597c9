"""All of a domain's resources are taken in one transaction, or none of them."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import CorruptRecord, HeldElsewhere, TooManyOperations
from etcdlock.model import Mode
from etcdlock.ports import Put, Txn
from etcdlock.testing import Applied, Fault
from tests.promises.conftest import Play
from tests.promises.judge import left_behind
from tests.promises.world import KEYS, World, disk, domain, locks


def test_where_one_of_three_disks_is_held_the_other_two_are_not_touched(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.until_runs(world.start(world.host("a"), domain(1), disk("y")))
        refused = world.start(world.host("b"), domain(2), disk("x"), disk("y"), disk("z"))
        with pytest.raises(HeldElsewhere) as refusal:
            await refused.ended
        assert [str(blocker.resource) for blocker in refusal.value.blockers] == ["/san/y"]
        assert not any(b"/san/x" in stored.value or b"/san/z" in stored.value for stored in world.etcd.contents())

    play(scenario)


@pytest.mark.parametrize("fault", [None, *Fault])
def test_disks_of_several_dead_domains_change_hands_in_one_transaction(play: Play, fault: Fault | None) -> None:
    async def scenario(world: World) -> None:
        victims = [
            world.start(world.host("a"), domain(1), disk("x"), disk("own")),
            world.start(world.host("b"), domain(2), disk("y")),
            world.start(world.host("c"), domain(3), disk("z"), disk("common", Mode.SHARED)),
        ]
        for victim in victims:
            await world.until_runs(victim)
        for victim in victims:
            await world.power_off(victim)
        heir = world.host("heir")
        wanted = (disk("x"), disk("y"), disk("z"), disk("common", Mode.SHARED), disk("free"))
        run = world.start(heir, domain(9), *wanted, wait=100.0)
        await asyncio.sleep(20.0)
        if fault is not None:
            heir.store.lose(fault, when=takes_over, delay_seconds=0.3)
        await world.until_runs(run)
        tries = [
            entry
            for entry in world.etcd.history
            if isinstance(entry, Applied) and entry.client == "heir" and takes_over(entry.txn)
        ]
        assert len([entry for entry in tries if entry.result is not None and entry.result.succeeded]) == 1

    play(scenario)


def takes_over(txn: Txn) -> bool:
    """Writes more than one domain's record."""
    return sum(isinstance(op, Put) and op.key.startswith(KEYS.domains.key) for op in txn.success) > 1


def test_more_disks_than_one_transaction_holds_are_refused_and_nothing_is_taken(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), *(disk(f"d{n}") for n in range(130)))
        with pytest.raises(TooManyOperations):
            await run.ended
        assert left_behind(world) == []

    play(scenario)


def test_a_disk_with_a_hundred_readers_names_them_all_to_the_writer_it_is_refused_to(play: Play) -> None:
    async def scenario(world: World) -> None:
        hosts = [world.host(f"h{n}") for n in range(100)]
        readers = [world.start(host, domain(n), disk("x", Mode.SHARED)) for n, host in enumerate(hosts, start=1)]
        for reader in readers:
            await world.until_runs(reader)
        with pytest.raises(HeldElsewhere) as refusal:
            await world.start(world.host("w"), domain(999), disk("x")).ended
        assert len(refusal.value.blockers) == len(readers)
        assert all(blocker.alive for blocker in refusal.value.blockers)

    play(scenario)


def test_a_record_that_cannot_be_read_is_never_taken_for_free(play: Play) -> None:
    async def scenario(world: World) -> None:
        key = KEYS.resource(disk("x"), uuid=domain(1).uuid)
        await world.host("vandal").store.txn(Txn((), (Put(key, b"{}"),)))
        with pytest.raises(CorruptRecord, match="exclusive"):
            await world.start(world.host("a"), domain(1), disk("x"), disk("y")).ended
        assert left_behind(world) == [key]
        assert not any(locks(entry.txn) and _succeeded(entry) for entry in applied(world))

    play(scenario, judged=False)  # the key stands without a record: that is the point


def applied(world: World) -> list[Applied]:
    return [entry for entry in world.etcd.history if isinstance(entry, Applied)]


def _succeeded(entry: Applied) -> bool:
    return entry.result is not None and entry.result.succeeded
