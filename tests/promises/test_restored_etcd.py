"""etcd comes back from a backup, or empty: whoever had seen more than that trusts nothing of it, and no frozen guest
runs on.

The judge reads etcd's history, of which there are two here; these scenarios say themselves what must be so.
"""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.escalation import Action
from etcdlock.session import GREATEST_STEP, history_replaced
from etcdlock.testing import FakeGuest
from tests.promises.conftest import Play
from tests.promises.world import Run, World, disk, domain

LONG_SECONDS = 60.0
SOON_SECONDS = 10.0


@pytest.mark.parametrize(
    ("seen", "revision", "replaced"),
    [
        (0, 7, False),
        (7, 7, False),
        (7, 8, False),
        (8, 7, True),
        (8, 1, True),
        (8, 9 + GREATEST_STEP, True),
        (0, 9 + GREATEST_STEP, False),
    ],
)
def test_a_history_goes_on_or_is_another(seen: int, revision: int, replaced: bool) -> None:
    assert history_replaced(seen=seen, revision=revision) is replaced


async def frozen(world: World) -> tuple[Run, FakeGuest, int]:
    """A guest that stands, since its host cannot reach etcd; and the revision at which it held its lock."""
    run = world.start(world.host("a"), domain(1), disk("x"), action=Action.FREEZE)
    guest = await world.until_runs(run)
    held_at = world.etcd.revision
    run.host.store.cut()
    await asyncio.sleep(LONG_SECONDS)
    assert guest.stands()
    return run, guest, held_at


def test_a_frozen_guest_whose_disk_was_anothers_meanwhile_never_runs_on_though_a_backup_says_that_it_is_its_own(
    play: Play,
) -> None:
    async def scenario(world: World) -> None:
        run, guest, held_at = await frozen(world)
        other = world.start(world.host("b"), domain(2), disk("x"), wait=100.0)
        await world.until_runs(other)
        await world.power_off(other)
        world.etcd.restore(held_at, bump=10 * GREATEST_STEP)
        run.host.store.mend()
        await asyncio.sleep(SOON_SECONDS)
        assert guest.gone_at is not None
        assert len(guest.ran) == 1

    play(scenario, judged=False)


def test_a_guest_that_runs_keeps_its_lock_where_the_backup_has_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        guest = await world.until_runs(run)
        before = world.sessions(run.host)
        world.etcd.restore(world.etcd.revision, bump=10 * GREATEST_STEP)
        await asyncio.sleep(SOON_SECONDS)
        assert guest.runs
        assert world.sessions(run.host) != before, "it has joined anew"

    play(scenario, judged=False)


def test_a_guest_that_runs_is_stopped_at_once_where_the_backup_does_not_know_its_lock(play: Play) -> None:
    async def scenario(world: World) -> None:
        host = world.host("a")
        keeps = world.start(host, domain(1), disk("x"))
        await world.until_runs(keeps)
        taken_at = world.etcd.revision
        loses = world.start(world.host("b"), domain(2), disk("y"))
        guest = await world.until_runs(loses)
        world.etcd.restore(taken_at)
        await asyncio.sleep(world.timing.renew_every_seconds + 1.0)
        assert guest.gone_at is not None
        assert keeps.guest is not None

    play(scenario, judged=False)


def test_a_session_that_stands_in_an_older_history_is_not_gone_on_with(play: Play) -> None:
    async def scenario(world: World) -> None:
        run = world.start(world.host("a"), domain(1), disk("x"))
        await world.until_runs(run)
        held_at = world.etcd.revision
        for number in (2, 3):
            await world.until_runs(world.start(world.host(f"h{number}"), domain(number), disk(f"d{number}")))
        seen_by_a = world.sessions(run.host)
        await asyncio.sleep(SOON_SECONDS)
        world.etcd.restore(held_at)
        await asyncio.sleep(SOON_SECONDS)
        assert run.guest is not None
        assert world.sessions(run.host) != seen_by_a

    play(scenario, judged=False)
