"""A guest that ran before anybody asked for its locks: it is guarded while it may have them, and only then."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import EtcdlockError
from etcdlock.testing import Fault
from tests.promises.conftest import Play
from tests.promises.hypervisor import hypervisor
from tests.promises.test_host_doubt import unheard
from tests.promises.world import World, disk, domain

VM, X = domain(1), disk("x")


@pytest.mark.parametrize("fault", [Fault.REQUEST, Fault.ANSWER])
def test_what_turns_out_to_have_no_lock_is_not_stopped_with_the_session_that_it_was_to_have(
    play: Play, fault: Fault
) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = a.prepare(VM, X)
        attaching = asyncio.ensure_future(a.attach(vm))
        await unheard(a, fault, away=9.0)
        with pytest.raises(EtcdlockError):
            await attaching
        assert vm.owner.pid in a.guard.armed, "it may have its locks"
        await asyncio.sleep(5.0)
        assert a.record(VM) is None
        a.host.store.cut()
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is None

    play(scenario)


def test_a_source_whose_domain_was_claimed_stays_guarded_though_it_is_attached_while_etcd_is_away(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        a.pause(vm)
        await b.start(VM, X, incoming=True)
        with pytest.raises(EtcdlockError):
            await a.resume(vm)
        a.host.store.cut()
        with pytest.raises(EtcdlockError):
            await a.attach(vm)
        assert vm.owner.pid in a.guard.armed
        await asyncio.sleep(60.0)
        assert vm.guest.killed_at is not None

    play(scenario)
