"""Which transactions may share one request to etcd: all that are independent, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from etcdlock.adapters.sharing import MOST_BYTES, nested_operations, share_out
from etcdlock.ports import Compare, Delete, Get, KeyRange, Op, Put, Relation, Target, Txn
from etcdlock.testing.mvcc import Mvcc

MAX_TXN_OPS = 128

keys = st.sampled_from(["a", "a/", "a/1", "a/2", "a/2/x", "a0", "b", "b/1"])
ranges = st.builds(KeyRange, keys, st.booleans())
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(Put, keys, st.binary(max_size=2)), st.builds(Delete, ranges), st.builds(Get, ranges)
)
compares = st.builds(Compare, ranges, st.sampled_from(Target), st.sampled_from(Relation), st.integers(0, 4))


def _puts_each_key_once(branch: tuple[Op, ...]) -> bool:
    puts = [op.key for op in branch if isinstance(op, Put)]
    return len(puts) == len(set(puts)) and not (puts and any(isinstance(op, Delete) for op in branch))


branches = st.lists(ops, max_size=3).map(tuple).filter(_puts_each_key_once)
txns = st.builds(Txn, st.lists(compares, max_size=2).map(tuple), branches, branches)


def _result(mvcc: Mvcc, *together: Txn) -> list[tuple[bool, list[list[tuple[str, bytes]]]]]:
    """What callers are told, but for revisions."""
    results = mvcc.apply(together, lease_lives=lambda _lease: True)
    return [(r.succeeded, [[(kv.key, kv.value) for kv in found] for found in r.replies]) for r in results]


def _database(stored: Sequence[str]) -> Mvcc:
    mvcc = Mvcc()
    for key in stored:
        mvcc.apply((Txn((), (Put(key, b"before"),)),), lease_lives=lambda _lease: True)
    return mvcc


@given(stored=st.lists(keys, max_size=3), wanted=st.lists(txns, min_size=2, max_size=5))
def test_those_that_share_a_request_are_answered_as_if_each_had_been_sent_alone_in_whatever_order(
    stored: list[str], wanted: list[Txn]
) -> None:
    for numbers in share_out(wanted, max_txn_ops=MAX_TXN_OPS):
        riders = [wanted[number] for number in numbers]
        together, forward, backward = (_database(stored) for _ in range(3))
        answers = _result(together, *riders)
        assert answers == [_result(forward, rider)[0] for rider in riders]
        assert answers == [_result(backward, rider)[0] for rider in reversed(riders)][::-1]
        everything = KeyRange("", prefix=True)
        left = [[(kv.key, kv.value) for kv in mvcc.find(everything)] for mvcc in (together, forward, backward)]
        assert left[0] == left[1] == left[2]


@given(wanted=st.lists(txns, max_size=12), max_txn_ops=st.integers(2, 8))
def test_everybody_is_in_one_request_that_etcd_takes_and_the_first_in_line_is_in_the_first(
    wanted: list[Txn], max_txn_ops: int
) -> None:
    requests = share_out(wanted, max_txn_ops=max_txn_ops)
    assert sorted(number for numbers in requests for number in numbers) == list(range(len(wanted)))
    assert not wanted or requests[0][0] == 0
    for numbers in requests:
        assert len(numbers) == 1 or nested_operations([wanted[number] for number in numbers]) <= max_txn_ops


def _put(key: str, value: bytes = b"") -> Txn:
    return Txn((), (Put(key, value),))


def test_what_touches_one_key_never_shares_a_request_and_the_rest_does() -> None:
    free = Compare(KeyRange("/disk/", prefix=True), Target.CREATE_REVISION, Relation.EQUAL, 0)
    exclusive = Txn((free,), (Put("/disk/exclusive", b""),))
    absent = Compare(KeyRange("/disk/exclusive"), Target.CREATE_REVISION, Relation.EQUAL, 0)
    shared = Txn((absent,), (Put("/disk/shared/1", b""),))
    assert share_out([exclusive, shared], max_txn_ops=MAX_TXN_OPS) == ((0,), (1,))
    assert share_out([_put("/a"), _put("/a")], max_txn_ops=MAX_TXN_OPS) == ((0,), (1,))
    assert share_out([_put("/a"), Txn((), (Get(KeyRange("/a")),))], max_txn_ops=MAX_TXN_OPS) == ((0,), (1,))
    looks = [Txn((free,), ()), Txn((free,), (Get(KeyRange("/disk/", prefix=True)),))]
    assert share_out([*looks, _put("/a"), _put("/b")], max_txn_ops=MAX_TXN_OPS) == ((0, 1, 2, 3),)


def test_a_request_stays_under_what_etcd_takes_in_bytes() -> None:
    large = b"x" * (MOST_BYTES // 3)
    requests = share_out([_put(f"/{n}", large) for n in range(5)], max_txn_ops=MAX_TXN_OPS)
    assert [len(numbers) for numbers in requests] == [2, 2, 1]


def test_a_full_request_holds_as_many_as_etcd_counts() -> None:
    three_ops = [Txn((), tuple(Put(f"/{n}/{m}", b"") for m in range(3))) for n in range(200)]
    requests = share_out(three_ops, max_txn_ops=MAX_TXN_OPS)
    assert [len(numbers) for numbers in requests] == [125, 75]
