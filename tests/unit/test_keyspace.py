"""Where things lie in etcd: different names never meet, and no name reaches into another's folder."""

from __future__ import annotations

import os
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etcdlock.errors import InvalidInput
from etcdlock.keyspace import LONGEST_SEGMENT_BYTES, Keyspace, segment
from etcdlock.model import Mode, Resource, SessionRef
from etcdlock.ports import KeyRange

KEYS = Keyspace(cluster="c", prefix="/locks")
UUIDS = st.uuids()
# Anything that os.fsdecode makes of a file name: any bytes, some of them not UTF-8.
NAMES = st.binary(max_size=300).map(os.fsdecode) | st.text(max_size=300)  # st.text makes no lone surrogates
MODES = st.sampled_from([Mode.EXCLUSIVE, Mode.SHARED])


def resource(lockspace: str, name: str, mode: Mode = Mode.EXCLUSIVE) -> Resource:
    return Resource(lockspace, name, mode, name)


@given(NAMES, NAMES)
def test_different_texts_never_share_a_segment(one: str, other: str) -> None:
    assume(os.fsencode(one) != os.fsencode(other))
    assert segment(one) != segment(other)


@given(NAMES)
def test_a_segment_is_short_printable_ascii_without_a_slash(name: str) -> None:
    made = segment(name)
    assert made
    assert made.isascii()
    assert made.isprintable()
    assert "/" not in made
    assert len(made) <= LONGEST_SEGMENT_BYTES


@pytest.mark.parametrize(
    "hostile",
    ["", "#", "../../domains", "a/b", "a\nb", "a\x00b", "\udcff\udc80", "x" * 4096, "é" * 2048, "exclusive", "%2F"],
)
def test_hostile_names_stay_in_their_own_folder(hostile: str) -> None:
    where = KEYS.holders(resource(hostile, hostile))
    assert where.prefix
    assert where.key.startswith(KEYS.resources.key)
    assert where.key.count("/") == KEYS.resources.key.count("/") + 2
    assert KEYS.resource(resource(hostile, hostile), uuid=UUID(int=1)) == where.key + "exclusive"


def test_a_long_name_and_the_name_of_its_own_digest_are_two() -> None:
    long = "x" * 4096
    assert segment(segment(long)) != segment(long)


def test_a_name_that_no_path_can_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not text that a path or name can hold"):
        segment("\ud800")


@given(NAMES, NAMES, NAMES, NAMES, MODES, MODES, UUIDS)
def test_locks_of_different_resources_never_meet_nor_lie_in_each_others_range(
    space: str, name: str, other_space: str, other_name: str, mode: Mode, other_mode: Mode, uuid: UUID
) -> None:
    one, other = resource(space, name, mode), resource(other_space, other_name, other_mode)
    assume((os.fsencode(space), os.fsencode(name)) != (os.fsencode(other_space), os.fsencode(other_name)))
    assert not inside(KEYS.resource(one, uuid=uuid), KEYS.holders(other))
    assert not inside(KEYS.resource(one, uuid=uuid), KEYS.rivals(other))


@given(NAMES, NAMES, UUIDS, UUIDS)
def test_an_exclusive_lock_has_every_holder_for_a_rival_and_a_shared_one_only_the_exclusive_one(
    space: str, name: str, uuid: UUID, other: UUID
) -> None:
    exclusive, shared = resource(space, name), resource(space, name, Mode.SHARED)
    assert inside(KEYS.resource(exclusive, uuid=other), KEYS.rivals(exclusive))
    assert inside(KEYS.resource(shared, uuid=other), KEYS.rivals(exclusive))
    assert inside(KEYS.resource(exclusive, uuid=other), KEYS.rivals(shared))
    assert not inside(KEYS.resource(shared, uuid=other), KEYS.rivals(shared))
    assert (KEYS.resource(shared, uuid=uuid) == KEYS.resource(shared, uuid=other)) == (uuid == other)


@given(NAMES.filter(bool), NAMES.filter(bool), NAMES, NAMES)
def test_sessions_and_obituaries_of_different_hosts_never_meet(
    host: str, other: str, session: str, other_session: str
) -> None:
    assume(os.fsencode(host) != os.fsencode(other))
    one, two = SessionRef(host, session), SessionRef(other, other_session)
    assert not inside(KEYS.session(one), KEYS.sessions(other))
    assert KEYS.session(one) != KEYS.session(two)
    assert KEYS.obituary(one) != KEYS.obituary(two)
    assert inside(KEYS.session(one), KEYS.sessions())
    assert inside(KEYS.obituary(one), KEYS.obituaries)
    assert not inside(KEYS.obituary(one), KEYS.sessions())


@given(NAMES.filter(bool), NAMES.filter(bool))
def test_clusters_under_one_prefix_never_meet(one: str, other: str) -> None:
    assume(os.fsencode(one) != os.fsencode(other))
    assert not Keyspace(cluster=one).root.startswith(Keyspace(cluster=other).root)


def test_nothing_can_lie_under_the_key_that_never_exists() -> None:
    folders = [KEYS.domains, KEYS.resources, KEYS.sessions(), KEYS.obituaries]
    assert not any(inside(KEYS.never, folder) for folder in folders)
    assert KEYS.never != KEYS.contract


def test_a_read_only_resource_has_no_lock() -> None:
    with pytest.raises(ValueError, match="not locked"):
        KEYS.resource(resource("s", "n", Mode.READ_ONLY), uuid=UUID(int=1))


@pytest.mark.parametrize(("cluster", "prefix"), [("", "/p"), ("c", "p"), ("c", "/p/"), ("c", "")])
def test_a_prefix_or_cluster_under_which_two_clusters_could_meet_is_refused(cluster: str, prefix: str) -> None:
    with pytest.raises(InvalidInput, match=r"setting (prefix|cluster)"):
        Keyspace(cluster=cluster, prefix=prefix)


def inside(key: str, where: KeyRange) -> bool:
    return key.startswith(where.key) if where.prefix else key == where.key
