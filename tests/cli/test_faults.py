"""`etcdlock run` and the commands beside it when something has gone wrong: etcd, hosts, settings, records."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.keyspace import Keyspace
from etcdlock.model import Mode, Resource, SessionRef
from etcdlock.survey import Standing, Survey
from tests.cli.hosts import Cluster, kill_host
from tests.contract.etcds import DISTRO, Admin, binary_of, refusing_endpoint

BY_HAND = ("--confirmed-by", "Ada", "--reason", "power is off")


# --- etcd away ------------------------------------------------------------------------------------------------------


def test_without_etcd_every_command_says_so_and_exits_with_101(cluster: Cluster) -> None:
    nowhere = refusing_endpoint()
    run, hand = ["run", "--disk", "/x", "--", "true"], ["break", "a", *BY_HAND]
    commands = (run, hand, ["status"], ["hosts"], ["inquire", "vm1"], ["doctor"])
    for done in cluster.do_all(*commands, ETCDLOCK_ENDPOINTS=nowhere, ETCDLOCK_ANSWER_SECONDS="0.5"):
        assert done.status == 101
        assert nowhere in done.out + done.err


def test_a_guest_outlives_an_etcd_that_is_away_for_a_moment(cluster: Cluster, etcd: EmbeddedEtcd) -> None:
    guest = cluster.guest("--disk", "/san/x", script="trap 'echo still; exit 0' TERM; while :; do sleep 0.05; done")
    etcd.pause()
    try:
        guest.says("heartbeat_failed")
    finally:
        etcd.resume()
    guest.send(signal.SIGTERM)
    done = guest.ended()
    assert (done.status, done.out) == (0, "still\n")


def test_a_session_that_somebody_revokes_is_joined_anew_and_its_guest_lives(cluster: Cluster) -> None:
    guest = cluster.guest("--disk", "/san/x", script="trap 'echo still; exit 0' TERM; while :; do sleep 0.05; done")
    before = cluster.survey().locks[0].stored
    cluster.revoke_sessions("a")
    after = cluster.until(lambda survey: _lives_under_another(survey, before.record.owner)).locks[0].stored
    assert (after.token, after.record.pid) == (before.token, before.record.pid)
    guest.send(signal.SIGTERM)
    done = guest.ended()
    assert (done.status, done.out) == (0, "still\n")


def _lives_under_another(survey: Survey, first: SessionRef) -> bool:
    owners = [lock.stored.record.owner for lock in survey.locks if not lock.stale]
    return bool(owners) and owners[0] != first


# --- hosts that die -------------------------------------------------------------------------------------------------


_SAY_IF_IT_LIVES = 'case "$(cut -d " " -f 3,22 "/proc/$1/stat" 2>/dev/null)" in [ZX]*) ;; *" $2") echo both ;; esac'
"""Whether the process $1 that started at $2 lives: a dead one may wait to be reaped, and its pid may be used again."""


def test_the_lock_of_a_run_that_was_killed_goes_to_who_waits_and_only_after_its_guest_is_dead(
    quick_cluster: Cluster,
) -> None:
    cluster = quick_cluster
    first = cluster.guest("--disk", "/san/x")
    before = cluster.survey().locks[0].stored
    second = cluster.start(
        "run", "--wait", "30", "--disk", "/san/x", "--",
        "sh", "-c", f'{_SAY_IF_IT_LIVES}; echo "$ETCDLOCK_TOKEN"', "sh",
        str(before.record.pid), str(before.record.pid_start),
        host="b",
    )  # fmt: skip
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    done = second.ended()
    assert done.status == 0, done.err
    assert int(done.out) > before.token
    assert "taken_over" in done.err
    _sweep_domain_of(cluster, before.record.domain.uuid)


def _sweep_domain_of(cluster: Cluster, uuid: UUID) -> None:
    """The dead host's domain had a UUID of its own; without its disk, its record and proof may stay for ever."""
    proofs = {cluster.keys.obituary(item.dead) for item in cluster.survey().obituaries}
    cluster.may_stay |= {cluster.keys.domain(uuid), *proofs}


def test_after_break_the_locks_of_a_host_that_is_off_are_taken_at_once(cluster: Cluster) -> None:
    uuid = uuid4()
    first = cluster.guest("--domain-uuid", str(uuid), "--name", "vm1", "--disk", "/san/x")
    before = cluster.survey().locks[0].stored
    alive = cluster.do("break", "a", *BY_HAND, host="b")
    assert (alive.status, "still has its key: host a is alive, nothing was written" in alive.err) == (104, True)
    kill_host(first, guests=[before.record.pid])
    cluster.revoke_sessions("a")
    silent = cluster.do("run", "--domain-uuid", str(uuid), "--disk", "/san/x", "--", "true", host="b")
    assert (silent.status, "or at once after 'etcdlock break a'" in silent.err) == (100, True)

    broken = cluster.do("break", "a", *BY_HAND, "--json", host="b")
    (obituary,) = broken.document()["obituaries"]
    assert broken.status == 0
    assert (obituary["session"], obituary["proof"]) == (before.record.owner.session, "operator")
    assert (obituary["by"], obituary["reason"]) == ("Ada", "power is off")
    cluster.may_stay = {cluster.keys.obituary(before.record.owner)}

    again = cluster.do("break", "a", *BY_HAND, host="b")
    assert (again.status, "nothing to do" in again.out) == (0, True)
    taken = cluster.do("run", "--domain-uuid", str(uuid), "--disk", "/san/x", "--", "echo", "mine", host="b")
    assert (taken.status, taken.out) == (0, "mine\n")


def test_break_wants_to_know_who_and_why_and_a_host_that_exists(cluster: Cluster) -> None:
    nobody, nothing, unknown = cluster.do_all(
        ["break", "a", "--reason", "off"],
        ["break", "a", "--confirmed-by", "Ada", "--reason", " "],
        ["break", "z", *BY_HAND],
    )
    assert (nobody.status, "--confirmed-by is missing" in nobody.err) == (2, True)
    assert (nothing.status, "--reason is missing" in nothing.err) == (2, True)
    assert (unknown.status, "no host or session 'z' in this cluster" in unknown.err) == (2, True)


# --- settings and records -------------------------------------------------------------------------------------------


def test_a_host_with_other_timing_than_the_cluster_is_refused_with_both_values(cluster: Cluster) -> None:
    assert cluster.do("run", "--disk", "/san/x", "--", "true").status == 0
    other = cluster.do("run", "--disk", "/san/x", "--", "true", host="b", ETCDLOCK_TIMING__HOLD_OFF_SECONDS="40")
    assert (other.status, "hold_off_seconds: here 40.0, cluster 25.0" in other.err) == (104, True)
    doctor = cluster.do("doctor", ETCDLOCK_TIMING__HOLD_OFF_SECONDS="40")
    assert (doctor.status, "hold_off_seconds: here 40.0, cluster 25.0" in doctor.out) == (107, True)
    assert cluster.found() == ()


def test_a_record_that_cannot_be_read_is_never_taken_for_free(cluster: Cluster) -> None:
    values = {
        b"garbage": "not JSON",
        b'{"v":1}': "field 'domain' is 'missing'",
        b'{"v":99}': "upgrade etcdlock on this host",
    }
    uuids = [uuid4() for _ in values]
    disk = Resource("path", "/san/x", Mode.EXCLUSIVE, "/san/x")
    keys = [*map(cluster.keys.domain, uuids), cluster.keys.resource(disk, uuid=uuid4())]
    cluster.put(dict(zip(keys, [*values, b"garbage"], strict=True)))
    before = cluster.found()

    asked = [*(["--domain-uuid", str(uuid)] for uuid in uuids), ["--disk", "/san/x"]]
    runs = cluster.do_all(*(["run", *words, "--", "echo", "never"] for words in asked))
    assert [(done.status, done.out) for done in runs] == [(105, "")] * len(asked)
    for done, key, words in zip(runs, keys, [*values.values(), "not JSON"], strict=True):
        assert key in done.err
        assert words in done.err
    inquiries = cluster.do_all(["inquire", str(uuids[0])], ["inquire", "some-name"], ["inquire", "--disk", "/san/x"])
    assert [done.status for done in inquiries] == [105] * 3
    assert cluster.found() == before


def test_status_shows_everything_else_beside_a_record_that_cannot_be_read(cluster: Cluster) -> None:
    cluster.put({cluster.keys.domain(uuid4()): b"garbage"})
    guest = cluster.guest("--name", "vm1", "--disk", "/san/x")
    status = cluster.do("status", "--json")
    document = status.document()
    assert status.status == 105
    assert [item["domain"]["name"] for item in document["locks"]] == ["vm1"]
    assert [item["kind"] for item in document["leftovers"]] == ["corrupt record"]
    assert cluster.do("doctor").status == 107
    guest.send(signal.SIGTERM)
    guest.ended()


def test_200_disks_are_too_many_for_one_transaction_and_none_of_them_is_locked(cluster: Cluster) -> None:
    disks = [word for number in range(200) for word in ("--disk", f"/san/disk-{number}")]
    done = cluster.do("run", *disks, "--", "echo", "never")
    assert (done.status, done.out) == (2, "")
    assert "max_txn_ops" in done.err
    assert "128" in done.err
    assert cluster.found() == ()


def test_a_silent_host_is_marked_stale_wherever_it_is_shown(cluster: Cluster) -> None:
    uuid = uuid4()
    guest = cluster.guest("--domain-uuid", str(uuid), "--name", "vm1", "--disk", "/san/x")
    record = cluster.survey().locks[0].stored.record
    kill_host(guest, guests=[record.pid])
    cluster.revoke_sessions("a")
    assert [lock.standing for lock in cluster.survey().locks] == [Standing.SILENT]
    status, hosts, asked = cluster.do_all(["status"], ["hosts"], ["inquire", "vm1", "--json"])
    assert "held, silent" in status.out
    assert "vm1: can be taken over once it has been seen silent for 25 s" in status.out
    assert max(map(len, status.out.splitlines()[:9])) <= 80
    assert "silent" in hosts.out
    (lock,) = asked.document()["locks"]
    assert (lock["stale"], lock["takeover"]) == (True, "after silence")
    cluster.may_stay = {item.key for item in cluster.found()}


# --- an etcd that is not to be trusted, or does not trust us --------------------------------------------------------


@pytest.fixture(scope="module")
def unsafe_etcd() -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd(binary_of(DISTRO)) as etcd:
        yield etcd


def test_an_etcd_that_loses_data_is_refused_unless_it_is_allowed(unsafe_etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    cluster = Cluster(unsafe_etcd.endpoints[0], "unsafe", tmp_path)
    refused, wary = cluster.do_all(
        ["run", "--disk", "/x", "--", "echo", "never"], ["doctor"], ETCDLOCK_ALLOW_UNSAFE_ETCD="false"
    )
    assert (refused.status, refused.out) == (104, "")
    assert "can lose committed data" in refused.err
    assert cluster.snapshot().found == ()
    allowed = cluster.do("run", "--disk", "/x", "--", "echo", "ran")
    assert (allowed.status, allowed.out, allowed.err) == (0, "ran\n", "")
    assert (wary.status, cluster.do("doctor").status) == (107, 0)


def test_an_etcd_that_denies_access_gives_106(tmp_path: Path) -> None:
    with EmbeddedEtcd() as etcd:
        cluster = Cluster(etcd.endpoints[0], "closed", tmp_path)
        secret = tmp_path / "secret"
        secret.write_text("wrong\n", encoding="utf-8")

        async def close_it(_: object) -> None:
            admin = Admin(etcd.endpoints[0])
            await admin.call("Auth", "UserAdd", name="root", password="right")  # noqa: S106 - of an etcd that lives for a second
            await admin.call("Auth", "UserGrantRole", user="root", role="root")
            await admin.call("Auth", "AuthEnable")

        cluster.with_store(close_it)
        commands = (["run", "--disk", "/x", "--", "true"], ["status"], ["doctor"])
        denied = cluster.do_all(*commands, ETCDLOCK_USERNAME="root", ETCDLOCK_PASSWORD_FILE=str(secret))
        assert [done.status for done in denied] == [106] * 3


def test_keys_of_other_clusters_are_none_of_ours(cluster: Cluster) -> None:
    other = Keyspace(cluster=f"{cluster.name}-other")
    guest = cluster.guest("--disk", "/san/x", ETCDLOCK_CLUSTER=other.cluster)
    assert cluster.do("run", "--disk", "/san/x", "--", "true").status == 0
    assert cluster.do("status", "--json").document()["locks"] == []
    guest.send(signal.SIGTERM)
    guest.ended()
