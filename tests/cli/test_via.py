"""The same words whichever way a command goes to etcd, and which way it goes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from tests.cli.hosts import DEADLINE_SECONDS, Cluster, Done, kill_host
from tests.cli.site import Site

NOGROUP = "65534"
VM = "6a2f7f9e-0000-4000-8000-000000000001"


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["status"], 0),
        (["hosts"], 0),
        (["inquire", "vm1"], 100),
        (["inquire", VM], 100),
        (["inquire", "nobody"], 0),
        (["inquire", "--disk", "/san/x:shared"], 100),
        (["break", "b", "--confirmed-by", "me", "--reason", "looked"], 104),
        (["break", "nowhere", "--confirmed-by", "me", "--reason", "looked"], 2),
    ],
)
def test_a_command_says_the_same_through_the_agent_as_on_its_own_way(
    site: Site, arguments: list[str], status: int
) -> None:
    guest = site.cluster.guest("--domain-uuid", VM, "--name", "vm1", "--disk", "/san/x", host="b")
    for form in ([], ["--json"]):
        through = site.do(*arguments, *form, "--via", "agent", ETCDLOCK_USERNAME="nobody")  # never needed
        own = site.do(*arguments, *form, "--via", "own")
        assert own.status == status
        assert through == own
    guest.send(signal.SIGTERM)
    guest.ended()


def test_a_dead_host_is_broken_through_the_agent_and_the_proof_says_by_whom(site: Site) -> None:
    guest = site.cluster.guest("--domain-uuid", VM, "--name", "vm1", host="b", script="echo $$; exec sleep 300")
    kill_host(guest, guests=[int(guest.line())])
    site.cluster.revoke_sessions("b")
    (dead,) = (view.ref for view in site.cluster.survey().sessions if view.ref.host == "b")
    site.cluster.may_stay.add(site.cluster.keys.obituary(dead))
    words = ("break", "b", "--confirmed-by", "me", "--reason", "it is off")
    through = site.do(*words, "--via", "agent")
    again = site.do(*words, "--via", "own")
    assert (through.status, again.status) == (0, 0)
    assert "b/" in through.out
    assert "dead, confirmed by me: it is off (operator)" in through.out
    assert "domain vm1 can be taken over now" in through.out
    assert "nothing to do" in again.out
    assert site.do("run", "--domain-uuid", VM, "--", "true").status == 0


def test_a_record_that_cannot_be_read_is_told_the_same_way(site: Site) -> None:
    site.cluster.put({site.cluster.keys.domain(UUID(VM)): b"no record"})
    for arguments in (["status", "--json"], ["inquire", VM, "--json"]):
        through, own = site.do(*arguments, "--via", "agent"), site.do(*arguments, "--via", "own")
        assert own.status == 105
        assert through == own


def test_a_member_of_the_group_without_etcd_looks_through_the_agent_and_changes_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.fail("needs root, to be somebody else")
    site = Site(cluster, tmp_path)
    site.start_agent(ETCDLOCK_API_GROUP="nogroup")
    settings = site.settings | {"ETCDLOCK_PASSWORD_FILE": "/nowhere"}
    shown, refused, own, stranger = (
        _as_other(cluster, *words, groups=groups, **settings)
        for groups, words in (
            (NOGROUP, ("status", "--json")),
            (NOGROUP, ("break", "a", "--confirmed-by", "me", "--reason", "x", "--via", "agent")),
            (NOGROUP, ("status", "--via", "own")),
            ("65533", ("status", "--via", "agent")),
        )
    )
    assert (shown.status, [item["host"] for item in shown.document()["sessions"]]) == (0, ["a"])
    assert (refused.status, "only look" in refused.err) == (104, True)
    assert (own.status, "password_file" in own.err) == (2, True)
    assert (stranger.status, "Permission denied" in stranger.err) == (104, True)
    site.end()


# --- which way ------------------------------------------------------------------------------------------------------


def test_without_an_agent_commands_go_their_own_way_unless_they_must_not(cluster: Cluster, tmp_path: Path) -> None:
    site = Site(cluster, tmp_path)
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(site.socket))  # nobody listens
    run = ("run", "--disk", "/san/x", "--", "true")
    assert [site.do(*words).status for words in (["status"], run)] == [0, 0]
    assert site.do(*run).err == ""
    for words in (["status"], ["run", "--disk", "/san/x", "--", "true"]):
        refused = site.do(words[0], "--via", "agent", *words[1:])
        assert (refused.status, "no agent answers" in refused.err) == (101, True)


def test_an_agent_that_hangs_is_an_error_and_not_taken_for_none(cluster: Cluster, tmp_path: Path) -> None:
    site = Site(cluster, tmp_path)
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(site.socket))
        hanging.listen()
        words = ["run", "--disk", "/san/x", "--", "echo", "never"]
        status, run = cluster.do_all(["status"], words, **site.settings)
        own = site.do("run", "--via", "own", *words[1:4], "true")
    assert [(done.status, "--via own" in done.err, done.out) for done in (status, run)] == [(101, True, "")] * 2
    assert own.status == 0


def test_run_does_not_use_the_agent_of_another_cluster_host_or_contract_and_says_so(site: Site) -> None:
    words = ("run", "--disk", "/san/x", "--", "true")
    for settings, other in (
        ({"ETCDLOCK_CLUSTER": f"{site.cluster.name}-2"}, "another cluster"),
        ({"ETCDLOCK_HOST_ID": "b"}, "another host"),
        ({"ETCDLOCK_ENDPOINTS": "127.0.0.1:1"}, "another etcd"),
        ({"ETCDLOCK_DISK_IDENTITY": "md5"}, "another contract"),
    ):
        short = {"ETCDLOCK_ANSWER_SECONDS": "0.5", **settings}
        done, refused = site.do(*words, **short), site.do("run", "--via", "agent", *words[1:], **short)
        assert other in done.err
        assert (refused.status, other in refused.err) == (104, True)
    twin = Cluster(site.cluster.endpoint, f"{site.cluster.name}-2", site.cluster.folder)
    assert twin.close() == ()
    elsewhere = site.do("status", "--json", ETCDLOCK_CLUSTER=twin.name)
    assert (elsewhere.document()["cluster"], elsewhere.err) == (twin.name, "")


# --- somebody else --------------------------------------------------------------------------------------------------


def _as_other(cluster: Cluster, *arguments: str, groups: str, **settings: str) -> Done:
    """As an ordinary user, who may read the interpreter wherever that lies, and write nothing."""
    may_read = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "+dac_read_search")
    user = ("setpriv", "--reuid", "65533", "--regid", "65533", "--groups", groups, *may_read)
    done = subprocess.run(
        [*user, sys.executable, "-m", "etcdlock", *arguments],
        env=cluster.environment("a", settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
