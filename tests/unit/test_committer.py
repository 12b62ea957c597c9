"""Group commit on the fake etcd: what each rider is told, when something goes wrong too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from etcdlock.adapters.committer import Committer
from etcdlock.errors import OutcomeUnknown, Rejected, TooManyOperations, Unreachable
from etcdlock.ports import Compare, Delete, Get, KeyRange, Put, Relation, Target, Txn, TxnResult
from etcdlock.testing import Applied, FakeEtcd, FakeStore, Fault, Link, run_virtual

MAX_TXN_OPS = 128
DEAD_LEASE = 0x1234

def put(key: str, value: bytes = b"v", *, lease: int = 0) -> Txn:
    return Txn((), (Put(key, value, lease),))


# What callers are told.


class Counted(FakeStore):
    """A store that tells how many requests have left."""

    def __init__(self, etcd: FakeEtcd) -> None:
        super().__init__(etcd, "host-a")
        self.requests: list[int] = []

    async def txn(self, txn: Txn, /) -> TxnResult:
        self.requests.append(1)
        return await super().txn(txn)

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        self.requests.append(len(txns))
        return await super().txn_batch(txns)


class Scene:
    """A committer on a fake etcd; `ahead` is a transaction that is under way when the test begins."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.store = Counted(self.etcd)
        self.committer = Committer(self.store, max_txn_ops=MAX_TXN_OPS)
        self.ahead = self.send(put("/ahead"))

    def send(self, txn: Txn) -> asyncio.Task[TxnResult]:
        return asyncio.create_task(self.committer.txn(txn))

    async def outcomes(self, *txns: Txn) -> list[TxnResult | BaseException]:
        """Of transactions that are sent while another is under way."""
        return await asyncio.gather(*map(self.send, txns), return_exceptions=True)

    def values(self) -> dict[str, bytes]:
        return {kv.key: kv.value for kv in self.etcd.contents() if kv.key != "/ahead"}


def now() -> float:
    return asyncio.get_running_loop().time()


def in_virtual_time(scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a scenario."""

    def test() -> None:
        async def run() -> None:
            await scenario(Scene())

        run_virtual(run)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


def _are(kind: type[object], outcomes: Sequence[object]) -> bool:
    return all(type(outcome) is kind for outcome in outcomes)


@in_virtual_time
async def test_one_that_finds_nothing_under_way_is_sent_at_once(scene: Scene) -> None:
    await scene.ahead
    before = now()
    await scene.committer.txn(put("/a"))
    assert now() - before == pytest.approx(0.001)
    assert scene.store.requests == [1, 1]


@in_virtual_time
async def test_what_comes_while_one_is_under_way_travels_in_one_request(scene: Scene) -> None:
    results = await scene.outcomes(*(put(f"/{n}", b"%d" % n) for n in range(63)))
    assert scene.store.requests == [1, 63]
    assert now() == pytest.approx(0.002)
    assert scene.values() == {f"/{n}": b"%d" % n for n in range(63)}
    assert {result.revision for result in results if isinstance(result, TxnResult)} == {scene.etcd.revision}


@in_virtual_time
async def test_each_rider_succeeds_or_fails_alone_and_reads_its_own_blocker(scene: Scene) -> None:
    await scene.ahead
    await scene.committer.txn(put("/1", b"other"))
    scene.send(put("/ahead"))

    def take(key: str) -> Txn:
        free = Compare(KeyRange(key), Target.CREATE_REVISION, Relation.EQUAL, 0)
        return Txn((free,), (Put(key, b"mine"),), (Get(KeyRange(key)),))

    first, second, third = await scene.outcomes(take("/0"), take("/1"), take("/2"))
    assert isinstance(first, TxnResult)
    assert isinstance(second, TxnResult)
    assert isinstance(third, TxnResult)
    assert (first.succeeded, second.succeeded, third.succeeded) == (True, False, True)
    assert [kv.value for kv in second.replies[0]] == [b"other"]
    assert scene.values() == {"/0": b"mine", "/1": b"other", "/2": b"mine"}


@in_virtual_time
async def test_a_disk_wanted_exclusively_and_shared_at_once_is_given_one_way_only(scene: Scene) -> None:
    free = Compare(KeyRange("/disk/", prefix=True), Target.CREATE_REVISION, Relation.EQUAL, 0)
    no_exclusive = Compare(KeyRange("/disk/exclusive"), Target.CREATE_REVISION, Relation.EQUAL, 0)
    results = await scene.outcomes(
        Txn((free,), (Put("/disk/exclusive", b""),)), Txn((no_exclusive,), (Put("/disk/shared/1", b""),))
    )
    assert [result.succeeded for result in results if isinstance(result, TxnResult)].count(True) == 1
    assert len(scene.values()) == 1


@in_virtual_time
async def test_a_barrier_never_shares_a_request_with_what_it_is_to_stop(scene: Scene) -> None:
    """Both compare the session's key: in one request with its rewriting, the acquire would pass though it is late."""
    await scene.ahead
    epoch = (await scene.committer.txn(put("/session"))).revision
    scene.send(put("/ahead"))
    own = Compare(KeyRange("/session"), Target.MOD_REVISION, Relation.EQUAL, epoch)
    barrier, late = await scene.outcomes(Txn((own,), (Put("/session", b""),)), Txn((own,), (Put("/late", b""),)))
    assert isinstance(barrier, TxnResult)
    assert isinstance(late, TxnResult)
    assert not (barrier.succeeded and late.succeeded and late.revision >= barrier.revision)


@pytest.mark.parametrize("fault", Fault)
def test_a_lost_answer_is_unknown_to_every_rider_and_nothing_is_sent_again(fault: Fault) -> None:
    async def run() -> None:
        scene = Scene()
        await asyncio.sleep(0)
        scene.store.lose(fault, when=lambda txn: txn == put("/1"), delay_seconds=5.0)
        outcomes = await scene.outcomes(*(put(f"/{n}") for n in range(3)))
        assert _are(OutcomeUnknown, outcomes)
        assert len({id(outcome) for outcome in outcomes}) == 3
        assert scene.store.requests == [1, 3]
        await asyncio.sleep(10)
        assert scene.store.requests == [1, 3]
        assert len(scene.values()) == (0 if fault is Fault.REQUEST else 3)

    run_virtual(run)


@in_virtual_time
async def test_if_no_etcd_is_there_each_rider_is_told_that_nothing_was_sent(scene: Scene) -> None:
    await scene.ahead
    scene.store.cut(Link.REFUSED)
    first = scene.send(put("/first"))
    assert _are(Unreachable, await scene.outcomes(put("/a"), put("/b")))
    assert _are(Unreachable, await asyncio.gather(first, return_exceptions=True))
    assert scene.store.requests == [1, 1, 2]


@in_virtual_time
async def test_a_rider_whose_lease_is_dead_is_refused_and_the_others_are_served(scene: Scene) -> None:
    first, dead, last = await scene.outcomes(put("/1"), put("/2", lease=DEAD_LEASE), put("/3"))
    assert isinstance(dead, Rejected)
    assert isinstance(first, TxnResult)
    assert isinstance(last, TxnResult)
    assert scene.values().keys() == {"/1", "/3"}
    assert scene.store.requests == [1, 3, 1, 1, 1]


@in_virtual_time
async def test_one_that_is_too_large_to_share_goes_alone_and_one_too_large_for_etcd_is_refused_alone(
    scene: Scene,
) -> None:
    largest = Txn((), tuple(Put(f"/large/{n}", b"") for n in range(MAX_TXN_OPS)))
    too_large = Txn((), tuple(Put(f"/larger/{n}", b"") for n in range(MAX_TXN_OPS + 1)))
    small, large, refused, other = await scene.outcomes(put("/1"), largest, too_large, put("/2"))
    assert isinstance(small, TxnResult)
    assert isinstance(large, TxnResult)
    assert isinstance(refused, TooManyOperations)
    assert isinstance(other, TxnResult)
    assert sorted(scene.store.requests) == [1, 1, 1, 2]


@in_virtual_time
async def test_a_limit_that_is_set_too_high_costs_only_a_second_request(scene: Scene) -> None:
    scene.etcd.max_txn_ops = 3
    outcomes = await scene.outcomes(*(put(f"/{n}") for n in range(6)))
    assert _are(TxnResult, outcomes)
    assert scene.store.requests == [1, 6, 1, 1, 1, 1, 1, 1]


# Giving up.


async def _give_up(task: asyncio.Task[TxnResult]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@in_virtual_time
async def test_who_gives_up_while_waiting_is_never_sent(scene: Scene) -> None:
    waiting, other = scene.send(put("/given-up")), scene.send(put("/other"))
    await asyncio.sleep(0)
    await _give_up(waiting)
    await other
    assert scene.values().keys() == {"/other"}


@in_virtual_time
async def test_who_gives_up_under_way_leaves_the_others_alone(scene: Scene) -> None:
    riders = [scene.send(put(f"/{n}")) for n in range(3)]
    await scene.ahead
    await asyncio.sleep(0)
    await _give_up(riders[0])
    assert all(result.succeeded for result in await asyncio.gather(*riders[1:]))
    assert scene.store.requests == [1, 3]


@in_virtual_time
async def test_if_the_one_ahead_gives_up_those_that_wait_are_sent(scene: Scene) -> None:
    rider = scene.send(put("/a"))
    await asyncio.sleep(0)
    await _give_up(scene.ahead)
    assert (await rider).succeeded


@in_virtual_time
async def test_of_those_that_are_sent_again_alone_who_has_given_up_is_left_out(scene: Scene) -> None:
    dead, riders = scene.send(put("/0", lease=DEAD_LEASE)), [scene.send(put(f"/{n}")) for n in (1, 2)]
    await scene.ahead
    await asyncio.sleep(0)
    await _give_up(riders[0])
    with pytest.raises(Rejected):
        await dead
    assert (await riders[1]).succeeded
    assert scene.values().keys() == {"/2"}


# Time, and the end.


@in_virtual_time
async def test_however_many_want_one_key_each_is_answered_within_two_calls_of_a_silent_etcd(scene: Scene) -> None:
    await scene.ahead
    scene.store.cut()
    begun = now()
    first = scene.send(put("/a"))
    assert _are(OutcomeUnknown, await scene.outcomes(*(put("/a") for _ in range(50))))
    assert _are(OutcomeUnknown, await asyncio.gather(first, return_exceptions=True))
    assert now() - begun <= 2 * scene.etcd.try_timeout_seconds + 0.01


@in_virtual_time
async def test_what_waits_when_the_store_is_closed_is_told_so_and_not_sent(scene: Scene) -> None:
    rider = scene.send(put("/a"))
    await asyncio.sleep(0)
    await scene.committer.close()
    with pytest.raises(Unreachable, match="closed"):
        await rider
    await scene.ahead
    assert scene.values() == {}


class Broken(Counted):
    """A store with a fault of its own."""

    async def txn_batch(self, txns: Sequence[Txn], /) -> tuple[TxnResult, ...]:
        raise ZeroDivisionError(len(txns))


def test_a_fault_of_our_own_reaches_every_rider_and_leaves_nobody_waiting() -> None:
    async def run() -> None:
        committer = Committer(Broken(FakeEtcd()), max_txn_ops=MAX_TXN_OPS)
        sent = [asyncio.create_task(committer.txn(put(f"/{n}"))) for n in range(4)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert isinstance(outcomes[0], TxnResult)
        assert _are(ZeroDivisionError, outcomes[1:])
        assert (await committer.txn(put("/after"))).succeeded

    run_virtual(run)


# Tokens.


@in_virtual_time
async def test_a_fencing_token_grows_with_every_owner_although_riders_share_a_revision(scene: Scene) -> None:
    """Two that share a revision never touch one key, so no resource sees one token twice."""
    tokens: dict[str, list[int]] = {f"/disk/{n}": [] for n in range(4)}

    async def own_for_a_while(key: str) -> None:
        free = Compare(KeyRange(key), Target.CREATE_REVISION, Relation.EQUAL, 0)
        while not (taken := await scene.committer.txn(Txn((free,), (Put(key, b""),)))).succeeded:
            pass
        tokens[key].append(taken.revision)
        mine = Compare(KeyRange(key), Target.MOD_REVISION, Relation.EQUAL, taken.revision)
        assert (await scene.committer.txn(Txn((mine,), (Delete(KeyRange(key)),)))).succeeded

    await asyncio.gather(*(own_for_a_while(key) for key in tokens for _ in range(5)))
    for seen in tokens.values():
        assert len(seen) == 5
        assert seen == sorted(set(seen))
    everybody = [token for seen in tokens.values() for token in seen]
    assert len(set(everybody)) < len(everybody)  # they did share


@in_virtual_time
async def test_the_history_names_each_rider_with_its_own_result(scene: Scene) -> None:
    await scene.outcomes(put("/a"), put("/b"))
    applied = [entry for entry in scene.etcd.history if isinstance(entry, Applied)]
    assert [entry.txn for entry in applied] == [put("/ahead"), put("/a"), put("/b")]
    assert len({entry.number for entry in applied}) == 3
