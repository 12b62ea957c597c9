"""What was done, or lost, without an answer: it is told as it is, and asked again without haste."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import EtcdlockError
from etcdlock.model import LockState
from etcdlock.ports import Delete, Txn
from etcdlock.testing import Fault, Sent
from tests.promises.conftest import Play
from tests.promises.hypervisor import hypervisor
from tests.promises.test_host_doubt import troubled
from tests.promises.world import KEYS, World, disk, domain, locks

VM, X = domain(1), disk("x")


def gives_back(txn: Txn) -> bool:
    """Whether it deletes the domain's record."""
    return any(isinstance(op, Delete) and op.where.key == KEYS.domain(VM.uuid) for op in txn.success)


def test_a_guest_whose_lock_was_given_back_unheard_is_not_told_that_its_memory_is_out_of_date(play: Play) -> None:
    """It has never run: what it asks for again, it gets."""

    async def scenario(world: World) -> None:
        a, guard = await troubled(world, "a")
        vm = a.prepare(VM, X)
        guard.refuses = True
        a.host.store.lose(Fault.ANSWER, when=gives_back)
        asking = asyncio.ensure_future(a.take(vm.owner, X))
        while not a.is_in_doubt():
            await asyncio.sleep(0.0001)
        a.host.store.cut()
        with pytest.raises(EtcdlockError):
            await asking
        a.host.store.mend()
        guard.refuses = False
        await a.take(vm.owner, X)
        assert a.state(VM) is LockState.HELD

    play(scenario)


def test_a_rejoin_whose_answers_are_lost_at_once_is_sent_again_without_haste_and_done_in_the_end(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        a.host.store.lose(Fault.REQUEST, count=100, when=locks)
        sent = len(world.etcd.history)
        world.etcd.revoke_wrongly(world.leases(a.host)[0])
        await asyncio.sleep(3.0)
        again = [entry for entry in world.etcd.history[sent:] if isinstance(entry, Sent) and locks(entry.txn)]
        assert 2 < len(again) < 30
        await asyncio.sleep(12.0)
        stored = a.record(VM)
        assert stored is not None
        assert [stored.record.owner] == world.sessions(a.host)
        assert vm.runs

    play(scenario)
