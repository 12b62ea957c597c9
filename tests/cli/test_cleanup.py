"""`etcdlock cleanup` on a real etcd."""

from __future__ import annotations

from tests.cli.hosts import Cluster, kill_host


def test_what_a_dead_host_has_left_is_listed_and_only_then_removed(cluster: Cluster) -> None:
    guest = cluster.guest("--name", "vm1", "--disk", "/san/x", host="b", script="echo $$; exec sleep 300")
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
