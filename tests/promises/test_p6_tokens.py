"""Every ownership has a token that grows with every change of owner of a resource."""

from __future__ import annotations

import asyncio

from etcdlock.model import Mode
from etcdlock.ports import KeyRange
from etcdlock.records import decode_domain
from tests.promises.conftest import Play
from tests.promises.judge import spans
from tests.promises.world import KEYS, World, disk, domain


def test_a_disk_that_goes_from_hand_to_hand_brings_each_owner_a_larger_token(play: Play) -> None:
    async def scenario(world: World) -> None:
        for number, name in enumerate("abcab", start=1):
            await world.start(world.host(name), domain(number), disk("x"), life=1.0).ended
        tokens = [span.token for span in spans(world)]
        assert tokens == sorted(set(tokens))

    play(scenario)


def test_a_takeover_gives_a_larger_token_than_the_dead_owner_had_though_that_one_had_joined_anew(play: Play) -> None:
    async def scenario(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = world.start(a, domain(1), disk("x"))
        old = (await world.until_runs(first)).token
        world.etcd.revoke_wrongly(world.leases(a)[0])
        await asyncio.sleep(5.0)
        await world.power_off(first)
        new = (await world.until_runs(world.start(b, domain(1), disk("x"), wait=100.0))).token
        assert old is not None
        assert new is not None
        assert new > old

    play(scenario)


def test_a_victim_that_lost_one_disk_keeps_its_token_for_the_others(play: Play) -> None:
    async def scenario(world: World) -> None:
        first = world.start(world.host("a"), domain(1), disk("x"), disk("y"))
        token = (await world.until_runs(first)).token
        await world.power_off(first)
        await world.until_runs(world.start(world.host("b"), domain(2), disk("x"), wait=100.0))
        (left,) = world.etcd.contents(KeyRange(KEYS.domain(domain(1).uuid)))
        assert decode_domain(left).token == token
        heir = await world.until_runs(world.start(world.host("c"), domain(3), disk("y")))
        assert token is not None
        assert heir.token is not None
        assert heir.token > token

    play(scenario)


def test_shared_holders_that_follow_a_writer_have_larger_tokens(play: Play) -> None:
    async def scenario(world: World) -> None:
        await world.start(world.host("a"), domain(1), disk("x"), life=1.0).ended
        for number, name in enumerate("bc", start=2):
            await world.until_runs(world.start(world.host(name), domain(number), disk("x", Mode.SHARED)))
        tokens = [span.token for span in spans(world)]
        assert min(tokens[1:]) > tokens[0]

    play(scenario)
