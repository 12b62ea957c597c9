"""The locks of a host's guests travel together, and what must not wait for them does not."""

from __future__ import annotations

import asyncio

from etcdlock.agent.host import HostAgent
from etcdlock.model import Owner, SessionKind
from etcdlock.session import Phase
from etcdlock.testing import FakeProcesses
from tests.promises.conftest import Play
from tests.promises.hypervisor import hypervisor
from tests.promises.stalled import Stall, StalledStore
from tests.promises.world import World, disk, domain

GUESTS = 20


def test_guests_that_start_at_one_moment_share_requests_and_each_gets_its_own_lock(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vms = await asyncio.gather(*(a.start(domain(n), disk(str(n))) for n in range(1, GUESTS + 1)))
        assert all(vm.runs for vm in vms)
        records = [a.record(vm.owner.domain) for vm in vms]
        assert [record.record.resources for record in records if record] == [tuple(vm.disks) for vm in vms]
        assert len({record.mod_revision for record in records if record}) <= GUESTS / 4

    play(scenario)


def test_the_session_stays_proven_while_what_is_asked_about_locks_gets_no_answer(play: Play) -> None:
    async def scenario(world: World) -> None:
        host, slow, processes = world.host("a"), Stall(), FakeProcesses()
        context = host.context(contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT)
        agent = HostAgent(
            context,
            processes=processes,
            acquire_seconds=1.0,
            join_seconds=1.0,
            ledger_store=StalledStore(host.store, slow),
        )
        running = asyncio.create_task(agent.run())
        await agent.ready.wait()
        slow.begin()
        asking = asyncio.create_task(agent.take(Owner(domain(1), processes.start().pid), disk("x")))
        await asyncio.sleep(2 * world.timing.stop_after_seconds)
        assert not asking.done()
        assert agent.member.phase is Phase.LIVE
        running.cancel()
        asking.cancel()
        slow.end()
        await asyncio.wait((running, asking))

    play(scenario)
