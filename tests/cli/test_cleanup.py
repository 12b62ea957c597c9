"""`etcdlock cleanup` on a real etcd."""

from __future__ import annotations

import pytest

from tests.cli.hosts import Cluster, kill_host


@pytest.mark.parametrize("taken", ["run", "reserve"])
def test_what_a_dead_host_has_left_is_listed_and_only_then_removed(cluster: Cluster, taken: str) -> None:
    command = ("--name", "vm1", "--disk", "/san/x", "--", "sh", "-c", "echo $$; exec sleep 300")
    guest = cluster.start(taken, *command, host="b")
    kill_host(guest, guests=[int(guest.line())])
    cluster.revoke_sessions("b")
    silent = cluster.do("cleanup", "--remove", "--older-than", "0")
    assert (silent.status, "lock of a silent session" in silent.out) == (0, True)
    assert cluster.do("break", "b", "--confirmed-by", "me", "--reason", "off").status == 0
    before = cluster.found()
    young = cluster.do("cleanup", "--remove")
    assert (young.status, young.out) == (0, "There is nothing to clean up.\n")
    listed = cluster.do("cleanup", "--older-than", "0")
    assert (listed.status, "Nothing was removed: --remove does it." in listed.out) == (0, True)
    assert cluster.found() == before
    done = cluster.do("cleanup", "--older-than", "0", "--remove", "--json")
    assert done.status == 0
    assert [item["kind"] for item in done.document()["removed"]] == ["lock of a dead session", "obituary nobody needs"]
    assert cluster.found() == ()
    assert cluster.do("cleanup", "--older-than", "-1").status == 2
