"""A resource held exclusively has one holder; a shared one only shared holders."""

from __future__ import annotations

import asyncio

import pytest

from etcdlock.errors import HeldElsewhere
from etcdlock.model import Mode
from tests.promises.conftest import Play
from tests.promises.world import World, disk, domain


def test_a_second_host_is_refused_the_disk_that_a_guest_writes(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = world.start(world.host("a"), domain(1), disk("x"))
        await world.until_runs(first)
        second = world.start(world.host("b"), domain(2), disk("x"))
        with pytest.raises(HeldElsewhere, match=r"/san/x is held by domain vm1 on host a"):
            await second.ended
        assert first.guest is not None

    play(scenario)


def test_one_domain_never_runs_twice_though_its_disks_differ(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.until_runs(world.start(world.host("a"), domain(1), disk("x")))
        with pytest.raises(HeldElsewhere, match="domain vm1 is held on host a"):
            await world.start(world.host("b"), domain(1), disk("y")).ended

    play(scenario)


def test_readers_share_a_disk_and_a_writer_waits_until_the_last_is_gone(play: Play) -> None:
    async def scenario(world: World) -> None:
        readers = [
            world.start(world.host(name), domain(n), disk("x", Mode.SHARED), life=10.0 * n)
            for n, name in enumerate("abc", start=1)
        ]
        for reader in readers:
            await world.until_runs(reader)
        writer = world.start(world.host("w"), domain(9), disk("x"), wait=100.0)
        guest = await world.until_runs(writer)
        last = readers[-1].opened
        assert last is not None
        assert last.gone_at is not None
        assert guest.opened_at is not None
        assert last.gone_at <= guest.opened_at < last.gone_at + 1.0

    play(scenario)


def test_of_hosts_that_start_together_for_overlapping_disks_never_two_that_overlap_run(play: Play) -> None:
    async def scenario(world: World) -> None:
        wanted = [("a", "xy"), ("b", "yz"), ("c", "zx"), ("d", "xyz")]
        runs = [
            world.start(world.host(name), domain(n), *(disk(d) for d in disks), wait=60.0, life=3.0)
            for n, (name, disks) in enumerate(wanted, start=1)
        ]
        endings = await asyncio.gather(*(run.ended for run in runs))
        assert [ending.status.code for ending in endings] == [0, 0, 0, 0]
        assert all(ending.released for ending in endings)

    play(scenario)


def test_a_host_that_comes_back_gives_back_nothing_that_another_took_over_meanwhile(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = world.start(a, domain(1), disk("x"))
        await world.until_runs(first)
        guest = first.guest
        assert guest is not None
        session = world.sessions(a)[0]
        a.store.cut()
        await asyncio.sleep(2.0)
        world.etcd.revoke_wrongly(world.leases(a)[0])
        guest.end()
        assert await world.declare(b, session)
        second = world.start(b, domain(1), disk("x"))
        await world.until_runs(second)
        a.store.mend()
        ending = await first.ended
        assert ending.released
        assert second.guest is not None

    play(scenario)


def test_where_the_operator_lied_the_guest_is_killed_as_soon_as_its_host_learns_of_the_takeover(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = world.start(a, domain(1), disk("x"))
        guest = await world.until_runs(first)
        session, lease = world.sessions(a)[0], world.leases(a)[0]
        a.store.cut()
        world.etcd.revoke_wrongly(lease)
        assert await world.declare(b, session)
        second = world.start(b, domain(1), disk("x"))
        await world.until_runs(second)
        a.store.mend()
        mended_at = asyncio.get_running_loop().time()
        ending = await first.ended
        assert ending.stopped
        assert guest.killed_at is not None
        assert guest.killed_at < mended_at + world.timing.suspect_after_seconds
        assert second.guest is not None

    play(scenario, judged=False)  # the judge would rightly say that both ran at one time
