"""What each part of a cluster may do in etcd, and what it may not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

from etcdlock.adapters.etcd import EtcdStore
from etcdlock.adapters.etcd_auth import auth_desk
from etcdlock.errors import AccessDenied
from etcdlock.etcdversion import roles_bind
from etcdlock.keyspace import Keyspace
from etcdlock.model import SessionRef
from etcdlock.ports import Delete, Get, KeyRange, Op, Put, Txn
from tests.security.secured import BLUE, SecureCluster
from tests.unit.records_in_etcd import BOB, DISK, KEYS, VM, domain

GREEN = Keyspace(cluster="green")
MINE, THEIRS = (BLUE.session(SessionRef(host, "agent-1")) for host in ("a", "b"))
ALL_PARTS = ("hosts/a", "fleets/nodes", "operators/alice", "readers/grafana")
MAY_WRITE = {
    BLUE.contract: {"hosts/a", "fleets/nodes"},
    BLUE.never: {"hosts/a", "fleets/nodes"},
    f"{BLUE.root}domains/x": {"hosts/a", "fleets/nodes"},
    f"{BLUE.root}resources/x/exclusive": {"hosts/a", "fleets/nodes"},
    f"{BLUE.root}lost/b/agent-1": {"hosts/a", "fleets/nodes", "operators/alice"},
    MINE: {"hosts/a", "fleets/nodes"},
    THEIRS: {"fleets/nodes"},
    f"{BLUE.root}hosts/a0/agent-1": {"fleets/nodes"},
    "/etcdlock/bluer/domains/x": set(),
    f"{GREEN.root}domains/x": set(),
    "/etcdlock/blue": set(),
    "/another/application": set(),
}


def doing(*ops: Op) -> Callable[[EtcdStore], Awaitable[object]]:
    async def use(store: EtcdStore) -> object:
        return await store.txn(Txn((), ops))

    return use


@pytest.mark.parametrize("who", ALL_PARTS)
def test_everybody_writes_where_it_is_theirs_and_nowhere_else(each_blue: SecureCluster, who: str) -> None:
    before = each_blue.with_store(lambda store: store.read(KeyRange("", prefix=True)))

    async def written(store: EtcdStore) -> set[str]:
        done = set()
        for key in MAY_WRITE:
            for op in (Put(key, b"x"), Delete(KeyRange(key))):
                try:
                    await store.txn(Txn((), (op,)))
                except AccessDenied:
                    continue
                done.add(key)
        return done

    assert each_blue.as_who(who, written) == {key for key, allowed in MAY_WRITE.items() if who in allowed}
    after = each_blue.with_store(lambda store: store.read(KeyRange("", prefix=True)))
    assert after.found == before.found


@pytest.mark.parametrize("who", ALL_PARTS)
def test_everybody_reads_their_whole_cluster_and_nothing_of_another(each_blue: SecureCluster, who: str) -> None:
    each_blue.do_in_etcd(Put(GREEN.contract, b"{}"))
    each_blue.as_who(who, lambda store: store.read(BLUE.everything))
    for where in (GREEN.everything, KeyRange("/etcdlock/", prefix=True), KeyRange("", prefix=True)):
        with pytest.raises(AccessDenied):
            each_blue.as_who(who, lambda store, where=where: store.read(where))  # type: ignore[misc]
        with pytest.raises(AccessDenied):
            each_blue.as_who(who, doing(Get(where)))
    each_blue.do_in_etcd(Delete(GREEN.everything))


@pytest.mark.parametrize("who", ALL_PARTS)
def test_nobody_but_the_administrator_sees_or_changes_users(each_blue: SecureCluster, who: str) -> None:
    async def tried() -> int:
        denied = 0
        async with auth_desk(each_blue.pki.options(each_blue.endpoint, who)) as desk:
            for attempt in (
                desk.users(),
                desk.roles(),
                desk.add_user("evil", password="x"),  # noqa: S106  # nobody's
                desk.give_role(f"blue/{who.replace('s/', '/')}", role="root"),
                desk.grant("blue/reader", first="", end="\0", right="READWRITE"),
            ):
                with pytest.raises(AccessDenied):
                    await attempt
                denied += 1
        return denied

    assert asyncio.run(tried()) == 5


def test_a_host_runs_guests_and_a_reader_sees_them(blue: SecureCluster) -> None:
    """With the real commands: every key that they touch is one that their role allows."""
    guest = blue.guest("--via", "own", "--disk", "/d", host="a", **blue.pki.settings("hosts/a"))
    refused = blue.do_as("hosts/b", "run", "--via", "own", "--disk", "/d", "--", "true", host="b")
    assert refused.status == 100, refused.err
    looked = blue.do_all(
        ["status", "--via", "own"],
        ["hosts", "--via", "own"],
        ["inquire", "--disk", "/d", "--via", "own"],
        **blue.pki.settings("readers/grafana"),
    )
    assert [done.status for done in looked] == [0, 0, 100], looked
    guest.send(signal.SIGTERM)
    assert guest.ended().status == 128 + signal.SIGTERM


def test_an_operator_declares_a_silent_host_dead(blue: SecureCluster) -> None:
    blue.put({key.replace(KEYS.root, BLUE.root): value for key, value in domain(VM, BOB, DISK).items()})
    words = ("break", "--via", "own", BOB.host, "--confirmed-by", "me", "--reason", "seen it", "--json")
    assert [blue.do_as(who, *words).status for who in ("readers/grafana", "operators/alice")] == [106, 0]
    assert [item.key for item in blue.with_store(lambda store: store.read(BLUE.obituaries)).found] == [
        BLUE.obituary(BOB)
    ]
    blue.may_stay.add(BLUE.obituary(BOB))


def test_readers_and_operators_hold_no_locks(blue: SecureCluster) -> None:
    before = blue.snapshot().revision
    for who in ("readers/grafana", "operators/alice"):
        run = blue.do_as(who, "run", "--via", "own", "--disk", "/d", "--", "echo", "started")
        assert (run.status, run.out) == (106, ""), run.err
    assert blue.snapshot().revision == before


def test_what_is_nested_in_a_transaction_is_bound_by_roles_or_the_version_is_known_for_it(
    each_blue: SecureCluster,
) -> None:
    """etcd before 3.4.42, 3.5.28 and 3.6.9 looks at no role there: GHSA-rfx7-8w68-q57q."""

    async def by_the_side_door(store: EtcdStore) -> str:
        await store.txn_batch((Txn((), (Put("/another/application", b"x"),)),))
        return "let in"

    (report,) = each_blue.with_store(lambda store: store.inspect())
    try:
        outcome = each_blue.as_who("readers/grafana", by_the_side_door)
    except AccessDenied:
        outcome = "denied"
    each_blue.do_in_etcd(Delete(KeyRange("/another/application")))
    assert outcome == ("denied" if roles_bind(report.version) else "let in")


def test_what_takes_part_in_group_commit_is_allowed_to_hosts(each_blue: SecureCluster) -> None:
    async def two(store: EtcdStore) -> list[bool]:
        puts = [Txn((), (Put(f"{BLUE.root}domains/{n}", b"x"),)) for n in range(2)]
        done = [result.succeeded for result in await store.txn_batch(puts)]
        await store.txn(Txn((), (Delete(BLUE.domains),)))
        return done

    assert each_blue.as_who("hosts/a", two) == [True, True]
