"""libvirt's user mode: an ordinary user's guests, libvirtd and agent, with no right of root's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.user import User


@pytest.fixture
def user(cluster: Cluster, a: LibvirtHost, disk: SharedDisk) -> Iterator[User]:
    """A user of host a, where root's agent runs as well; the user's guests are gone before the disk is."""
    user = User(a, environment=cluster.environment(a))
    user.may_write(disk)
    yield user
    user.leave()


def test_a_users_guest_is_locked_refused_elsewhere_parked_and_freed_like_any_other(
    cluster: Cluster, user: User, b: LibvirtHost, disk: SharedDisk
) -> None:
    agent = user.start_agent()
    guest, other = Guest((disk.path,)), Guest((disk.path,), name="other")
    started = user.start(guest)
    assert started.returncode == 0, f"{started.stderr}\n{agent.end_of_log()}"
    assert cluster.is_held(guest)
    assert f"disk {disk.path} is held by domain {guest.name} on host a.user-1000" in b.start(other).stderr
    user.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    user.virsh("resume", guest.name)
    assert cluster.is_held(guest)
    user.virsh("destroy", guest.name)
    cluster.wait_until_free()
    cluster.start(other, on=b)


def test_a_users_guest_outlives_the_users_agent_and_root_agent_goes_its_own_way(
    cluster: Cluster, user: User, a: LibvirtHost, disk: SharedDisk
) -> None:
    agent = user.start_agent()
    guest = Guest((disk.path,))
    assert user.start(guest).returncode == 0
    agent.kill()
    user.start_agent()
    assert user.state(guest) == "running"
    assert {ref.host for ref in cluster.records.sessions()} >= {"a", "a.user-1000"}
    assert cluster.agent(a).is_running
    assert cluster.lock(guest).record.owner.host == "a.user-1000"
    user.virsh("destroy", guest.name)
    cluster.wait_until_free()


def test_where_no_agent_listens_libvirt_starts_stock_virtlockd_for_the_user(
    cluster: Cluster, user: User, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    started = user.start(guest)
    assert started.returncode == 0, started.stderr
    assert user.listener() == "virtlockd"
    assert guest.name not in cluster.records.locks()
    user.virsh("destroy", guest.name)
