"""A guest that a starting agent cannot go on with at once has the time that it has left, and not a moment more."""

from __future__ import annotations

import asyncio

from etcdlock.agent.requests import Requests
from etcdlock.escalation import Action
from etcdlock.model import SessionKind
from tests.promises.conftest import Play
from tests.promises.hypervisor import Hypervisor, hypervisor
from tests.promises.world import World, disk, domain

VM, X = domain(1), disk("x")
AWAY_SECONDS = 11.5
"""The earlier agent's session has expired by then, and its guests have some seconds left."""


async def starting_without_luck(world: World, a: Hypervisor) -> None:
    """An agent joins, and its session is revoked before it has carried over anything."""
    a.kill_agent()
    await asyncio.sleep(AWAY_SECONDS)
    assert not world.sessions(a.host)
    a.start_agent()
    while not (leases := world.leases(a.host)):
        await asyncio.sleep(0.0001)
    world.etcd.revoke_wrongly(leases[0])


def test_a_guest_lives_on_where_its_agents_session_is_lost_before_it_could_be_carried_over(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm = await a.start(VM, X)
        await starting_without_luck(world, a)
        await asyncio.sleep(30.0)
        stored = a.record(VM)
        assert stored is not None
        assert ([stored.record.owner], stored.token) == (world.sessions(a.host), vm.token)
        assert vm.runs

    play(scenario)


def test_it_is_dead_at_its_own_deadline_where_etcd_stays_away(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = await hypervisor(world, "a"), await hypervisor(world, "b")
        vm = await a.start(VM, X)
        proven_at = asyncio.get_running_loop().time()
        await starting_without_luck(world, a)
        a.host.store.cut()
        await asyncio.sleep(1.0)
        assert vm.runs
        await asyncio.sleep(world.timing.stop_after_seconds)
        assert vm.guest.gone_at is not None
        assert vm.guest.gone_at <= proven_at + world.timing.stop_after_seconds + world.timing.guard_lag_seconds
        await asyncio.sleep(2 * world.timing.hold_off_seconds)
        taken = await b.start(VM, X)  # once the silence has been proven
        assert taken.runs

    play(scenario)


def test_what_a_guest_has_chosen_for_a_lost_session_is_known_to_the_next_agent(play: Play) -> None:
    async def scenario(world: World) -> None:
        a = await hypervisor(world, "a")
        vm, agent = a.prepare(VM, X), a.agent
        assert agent is not None
        context = a.host.context(contract=world.contract, chance=world.fresh_chance(), kind=SessionKind.AGENT)
        requests = Requests(agent, context, processes=a.processes, answer_seconds=10.0)
        await requests.acquire(vm.owner, (X,), on_session_lost=Action.FREEZE)
        a.kill_agent()
        await asyncio.sleep(0.5)
        await a.bring_up()
        await asyncio.sleep(3.0)
        a.host.store.cut()
        await asyncio.sleep(world.timing.stop_after_seconds + 5.0)
        assert vm.guest.stands()
        assert vm.guest.killed_at is None

    play(scenario)
