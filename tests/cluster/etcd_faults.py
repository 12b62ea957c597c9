"""Faults of etcd: its members, its disks, its operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.fault import Victims


@contextmanager
def leader_killed(victims: Victims) -> Iterator[str]:
    victims.scene.lab.quorum.members[victims.scene.lab.quorum.leader()].kill()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def member_killed(victims: Victims) -> Iterator[str]:
    victims.scene.lab.quorum.members[victims.member()].kill()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def leader_stopped(victims: Victims) -> Iterator[str]:
    """SIGSTOP, and SIGCONT when its time has run out: it believes for a moment that it still leads."""
    victims.scene.lab.quorum.members[victims.scene.lab.quorum.leader()].pause()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def all_members_stopped(victims: Victims) -> Iterator[str]:
    for member in victims.scene.lab.quorum.members.values():
        member.pause()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def all_members_killed(victims: Victims) -> Iterator[str]:
    for member in victims.scene.lab.quorum.members.values():
        member.kill()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def leader_disk_frozen(victims: Victims) -> Iterator[str]:
    """It makes etcd revoke leases that were renewed a moment ago (etcd #12528)."""
    victims.scene.lab.quorum.members[victims.scene.lab.quorum.leader()].freeze_disk()
    yield ""
    victims.scene.lab.quorum.heal()


@contextmanager
def leader_moved(victims: Victims) -> Iterator[str]:
    victims.scene.lab.quorum.move_leader()
    yield ""


@contextmanager
def rolling_restart(victims: Victims) -> Iterator[str]:
    for member in victims.scene.lab.quorum.members.values():
        member.restart()
        victims.scene.lab.quorum.wait_until_healthy()
    yield ""


@contextmanager
def member_replaced(victims: Victims) -> Iterator[str]:
    member = victims.member()
    victims.scene.lab.quorum.remove(member)
    yield ""
    victims.scene.lab.quorum.add(member)


@contextmanager
def etcd_full(victims: Victims) -> Iterator[str]:
    victims.scene.lab.quorum.fill()
    yield ""
    victims.scene.lab.quorum.drain()


@contextmanager
def session_revoked(victims: Victims) -> Iterator[str]:
    """Its lease is revoked as by an operator, or by an etcd that has gone wrong."""
    host = victims.host()
    victims.scene.lab.quorum.revoke_under(victims.scene.keys.sessions(host).key)
    yield host
