"""A partition and its whole disk under real locks: on loop devices, whose partitions the kernel makes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from etcdlock.api.client import AgentClient
from etcdlock.errors import HeldElsewhere
from etcdlock.model import DomainId, Mode, Owner, Resource
from tests.cli.hosts import Cluster
from tests.cli.site import Site
from tests.storage.test_this_host import MIB, loop, run

AUTO = {"ETCDLOCK_DISK_IDENTITY": "auto"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """With two partitions."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for loop devices and partitions: sudo")
    with ExitStack() as stack:
        file = tmp_path / "disk.img"
        file.touch()
        os.truncate(file, 8 * MIB)
        device = stack.enter_context(loop(file, "--partscan"))
        for number, begin in (("1", "2048"), ("2", "4096")):
            run("addpart", device, number, begin, "2048")
            stack.callback(run, "delpart", device, number)
        yield device


def test_who_has_a_partition_keeps_the_whole_disk_from_others_and_no_other_partition(
    cluster: Cluster, disk: Path
) -> None:
    guests = [cluster.guest("--disk", f"{disk}p{n}", host=host, **AUTO) for n, host in ((1, "a"), (2, "b"))]
    refused = cluster.do("run", "--disk", str(disk), "--", "echo", "never", host="b", **AUTO)
    asked = cluster.do("inquire", "--disk", str(disk), "--json", host="b", **AUTO)
    assert (refused.status, refused.out, asked.status) == (100, "", 100)
    for guest in guests:
        guest.send(signal.SIGTERM)
        guest.ended()
    whole = cluster.guest("--disk", str(disk), **AUTO)
    for words in (("run", "--disk", f"{disk}p1", "--", "echo", "never"), ("inquire", "--disk", f"{disk}p1")):
        assert cluster.do(*words, host="b", **AUTO).status == 100, words
    whole.send(signal.SIGTERM)
    whole.ended()


def test_a_partition_that_is_plugged_in_and_out_takes_its_share_in_the_disk_along(
    cluster: Cluster, disk: Path, tmp_path: Path
) -> None:
    site = Site(cluster, tmp_path)
    site.settings |= AUTO
    site.start_agent()
    client, guest = AgentClient(str(site.socket)), site.run("--domain-uuid", str(uuid4()), "--disk", f"{disk}p1")
    first, second = (Resource("", "", Mode.EXCLUSIVE, f"{disk}p{number}") for number in (1, 2))
    uuid = UUID(str(client.agent()["guests"][0]["domain"]["uuid"]))
    assert modes(client.add(uuid, second)) == ["exclusive", "exclusive", "shared"]
    assert modes(client.remove(uuid, first)) == ["exclusive", "shared"]
    assert modes(client.remove(uuid, second)) == []
    other = Owner(DomainId(uuid4(), "other"), os.getpid())
    with closing(client.reserve(other, (first,))):
        with pytest.raises(HeldElsewhere):
            client.add(uuid, first)
        assert modes(client.find(uuid)) == [], "the share is given up again"
    guest.send(signal.SIGTERM)
    guest.ended()
    site.end()


def modes(lock: dict[str, list[dict[str, str]]]) -> list[str]:
    return sorted(item["mode"] for item in lock["resources"])
