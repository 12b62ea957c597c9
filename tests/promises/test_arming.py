"""A guest that nobody guards never runs, and nothing stays locked for it, though its locks are taken meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.agent.enforcer import Enforcer
from etcdlock.agent.kept_guard import KeptGuard
from etcdlock.agent.ledger import Ledger
from etcdlock.agent.member import Member
from etcdlock.agent.solo import Solo, Task
from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import KILLED, Charge
from etcdlock.ports import Guard, Guest, GuestName
from etcdlock.testing import FakeGuard, FakeGuests
from etcdlock.transitions import Wanted
from tests.promises.conftest import Play
from tests.promises.world import World, disk, domain


class Unwilling(Guard):
    """Believes every proof and takes nobody in, some time after it was asked."""

    def __init__(self, answer: SessionLost, *, after: float) -> None:
        self._answer = answer
        self._after = after

    frozen: frozenset[GuestName] = frozenset()

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:  # noqa: ARG002 - all
        await asyncio.sleep(self._after)
        raise self._answer

    async def prove(self, session: str, /, *, at: float) -> None:
        """Nobody is guarded."""

    async def disarm(self, guest: Guest, /) -> None:
        """Nobody is guarded."""

    async def go_on(self, guest: Guest, /) -> None:
        """Nobody is guarded."""

    async def close(self) -> None:
        """Nobody is guarded."""


@pytest.mark.parametrize("answer", [SessionLost("not proven to this guard"), GuardLost("no guard can be started")])
@pytest.mark.parametrize("after", [0.0, 1.0], ids=["before the locks are taken", "after they are taken"])
def test_a_guest_that_cannot_be_guarded_is_ended_and_its_locks_are_given_back(
    play: Play, answer: SessionLost, after: float
) -> None:
    async def scenario(world: World) -> None:
        context = world.host("a").context(contract=world.contract, chance=world.chance)
        guard = Unwilling(answer, after=after)
        member = Member(context, guard=guard)
        ledger = Ledger(context, member=member, guard=guard)
        await member.join(until=context.clock.now())
        guest = await FakeGuests().start(["guest"], environment={})
        wanted = Wanted(domain(1), (disk("x"),), context.fresh_id(), context.since())
        with pytest.raises(type(answer)):
            await ledger.acquire(wanted, guest, until=context.clock.now() + 5.0)
        assert world.etcd.contents(context.keys.domains) == ()
        assert world.etcd.contents(context.keys.resources) == ()
        async with asyncio.timeout(1.0):
            await guest.gone()
        assert await member.leave(unreleased=ledger.unreleased, until=context.clock.now())

    play(scenario)


def test_no_yes_is_given_before_the_guest_is_guarded(play: Play) -> None:
    async def scenario(world: World) -> None:
        context = world.host("a").context(contract=world.contract, chance=world.chance)
        guard = SlowEnforcer(context.clock, timing=world.timing)
        member = Member(context, guard=guard)
        ledger = Ledger(context, member=member, guard=guard)
        await member.join(until=context.clock.now())
        guest = await FakeGuests().start(["guest"], environment={})
        wanted = Wanted(domain(1), (disk("x"),), context.fresh_id(), context.since())
        await ledger.acquire(wanted, guest, until=context.clock.now() + 5.0)
        assert guard.armed
        guest.kill()
        await ledger.release(domain(1).uuid, until=context.clock.now() + 5.0)
        assert await member.leave(unreleased=ledger.unreleased, until=context.clock.now())

    play(scenario)


def test_a_program_that_is_told_to_end_before_its_guest_is_armed_gives_back_what_it_has_taken(play: Play) -> None:
    async def scenario(world: World) -> None:
        host = world.host("a")
        context = host.context(contract=world.contract, chance=world.fresh_chance())
        guard = SlowGuard(host.clock, stop_after_seconds=world.timing.stop_after_seconds)
        task = Task(domain=domain(1), resources=(disk("x"),), command=["guest"], environment={})
        solo = Solo(context, task, guests=FakeGuests(), guard=KeptGuard(guard, start=guard.another))
        running = asyncio.ensure_future(solo.run())
        while not world.etcd.contents(context.keys.domains):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)  # it has been answered
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert world.etcd.contents(context.keys.domains) == ()

    play(scenario)


class SlowGuard(FakeGuard):
    """As slow as one that has just been replaced."""

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await asyncio.sleep(1.0)
        await super().arm(guest, session=session, charge=charge)

    async def another(self) -> FakeGuard:
        raise GuardLost("no guard can be started")


class SlowEnforcer(Enforcer):
    """Takes its time."""

    armed = False

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:
        await asyncio.sleep(1.0)
        await super().arm(guest, session=session, charge=charge)
        self.armed = True
