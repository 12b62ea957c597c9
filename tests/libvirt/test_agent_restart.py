"""Agents and libvirtd may die, be restarted and lose their session: guests run on under the same token."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LOCKD, LibvirtHost
from tests.libvirt.waiting import wait_until

Mishap = Callable[[Cluster, LibvirtHost], None]


def the_agent_is_killed(cluster: Cluster, host: LibvirtHost) -> None:
    cluster.agent(host).kill()
    cluster.start_agent(host)


def libvirtd_is_killed(_: Cluster, host: LibvirtHost) -> None:
    host.kill_libvirtd()
    host.start_libvirtd(LOCKD)


def both_are_killed(cluster: Cluster, host: LibvirtHost) -> None:
    cluster.agent(host).kill()
    host.kill_libvirtd()
    cluster.start_services(host)


def the_agent_is_told_to_end(cluster: Cluster, host: LibvirtHost) -> None:
    assert cluster.agent(host).terminate() == 0
    cluster.start_agent(host)


def the_agent_is_told_to_start_itself_anew(cluster: Cluster, host: LibvirtHost) -> None:
    """As virtlockd is when libvirt's package is upgraded."""
    agent = cluster.agent(host)
    agent.signal(signal.SIGUSR1)
    host.virsh("list")
    assert agent.is_running


def the_agent_is_away_for_longer_than_its_lease(cluster: Cluster, host: LibvirtHost) -> None:
    cluster.agent(host).kill()
    wait_until(lambda: cluster.records.session_lease(host.name) is None, what="the session has run out")
    cluster.start_agent(host)


def an_operator_revokes_the_session(cluster: Cluster, host: LibvirtHost) -> None:
    lease = cluster.records.session_lease(host.name)
    assert lease is not None
    cluster.records.revoke(lease)
    wait_until(lambda: cluster.records.session_lease(host.name) not in (None, lease), what="it has joined anew")


@pytest.mark.parametrize(
    "happens",
    [
        the_agent_is_killed,
        libvirtd_is_killed,
        both_are_killed,
        the_agent_is_told_to_end,
        the_agent_is_told_to_start_itself_anew,
        the_agent_is_away_for_longer_than_its_lease,
        an_operator_revokes_the_session,
    ],
)
def test_a_guest_runs_on_and_can_be_suspended_and_resumed_and_moved_when(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, happens: Mishap
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    pid, token = a.qemu_pid(guest.name), cluster.lock(guest).token
    happens(cluster, a)
    assert (a.qemu_pid(guest.name), cluster.runs_on(guest)) == (pid, ["a"])
    wait_until(lambda: names_a_session_that_lives(cluster, guest), what="the lock names a session that lives")
    assert cluster.lock(guest).token == token
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    a.virsh("resume", guest.name)
    assert cluster.is_held(guest)
    assert cluster.lock(guest).token == token
    moved = a.migrate(guest, to=b)
    assert moved.returncode == 0, moved.stderr
    cluster.check_held_once(guest, by=b)
    assert cluster.lock(guest).token > token


def names_a_session_that_lives(cluster: Cluster, guest: Guest) -> bool:
    return cluster.lock(guest).record.owner in cluster.records.sessions()


@pytest.mark.parametrize("happens", [both_are_killed, the_agent_is_away_for_longer_than_its_lease])
def test_a_suspended_guest_stays_so_and_can_be_resumed_when(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk, happens: Mishap
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    a.virsh("suspend", guest.name)
    cluster.wait_until_parked(guest)
    token = cluster.lock(guest).token
    happens(cluster, a)
    assert "suspended there" in b.start(guest).stderr
    a.virsh("resume", guest.name)
    assert cluster.is_held(guest)
    assert cluster.lock(guest).token == token


def test_what_a_guest_held_that_ended_while_no_agent_ran_is_given_back_by_the_next_one(
    cluster: Cluster, a: LibvirtHost, b: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    cluster.agent(a).kill()
    a.destroy(guest)
    assert list(cluster.records.locks()) == [guest.name]
    cluster.start_agent(a)
    cluster.wait_until_free()
    cluster.start(guest, on=b)


def test_an_agent_without_guests_that_is_told_to_end_takes_its_session_with_it(
    cluster: Cluster, a: LibvirtHost
) -> None:
    cluster.agent(a).signal(signal.SIGTERM)
    assert cluster.agent(a).wait() == 0
    assert cluster.records.session_lease(a.name) is None


def test_without_an_agent_no_guest_starts_and_virsh_says_where_nobody_listens(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    guest = Guest((disk.path,))
    cluster.agent(a).terminate()
    refused = a.start(guest)
    assert refused.returncode != 0
    assert "virtlockd-sock" in refused.stderr
    assert a.qemu_pid(guest.name) is None


def test_a_second_agent_on_a_host_is_refused_and_the_first_goes_on(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk
) -> None:
    first = cluster.agent(a)
    second = a.run([sys.executable, "-m", "etcdlock", "agent"], env=cluster.environment(a))
    assert second.returncode != 0
    assert "agent" in second.stderr
    assert first.is_running
    cluster.start(Guest((disk.path,)), on=a)
