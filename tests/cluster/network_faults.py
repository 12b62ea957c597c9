"""Faults of the network between hosts and members of etcd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.cluster import EVERYBODY
from tests.cluster.fault import Victims, unheard
from tests.cluster.quorum import MEMBERS


@contextmanager
def host_from_all(victims: Victims) -> Iterator[str]:
    host = victims.host()
    with unheard(victims.scene, host):
        victims.scene.lab.network.part([host], EVERYBODY)
        yield host
        victims.scene.lab.network.heal()


@contextmanager
def host_from_leader(victims: Victims) -> Iterator[str]:
    host = victims.host()
    victims.scene.lab.network.part([host], [victims.scene.lab.quorum.leader()])
    yield host
    victims.scene.lab.network.heal()


@contextmanager
def host_cannot_send(victims: Victims) -> Iterator[str]:
    host = victims.host()
    with unheard(victims.scene, host):
        victims.scene.lab.network.cut([host], EVERYBODY)
        yield host
        victims.scene.lab.network.heal()


@contextmanager
def host_cannot_hear(victims: Victims) -> Iterator[str]:
    host = victims.host()
    with unheard(victims.scene, host):
        victims.scene.lab.network.cut(EVERYBODY, [host])
        yield host
        victims.scene.lab.network.heal()


@contextmanager
def leader_from_members(victims: Victims) -> Iterator[str]:
    """Hosts still reach it, and it takes itself for the leader for a while."""
    leader = victims.scene.lab.quorum.leader()
    victims.scene.lab.network.part([leader], MEMBERS)
    yield ""
    victims.scene.lab.network.heal()


@contextmanager
def members_one_way(victims: Victims) -> Iterator[str]:
    """A follower hears nothing of the others and calls elections that they do hear of."""
    follower = victims.chance.choice(victims.scene.lab.quorum.followers())
    victims.scene.lab.network.cut(MEMBERS, [follower])
    yield ""
    victims.scene.lab.network.heal()


@contextmanager
def members_all_apart(victims: Victims) -> Iterator[str]:
    victims.scene.lab.network.part(MEMBERS, MEMBERS)
    yield ""
    victims.scene.lab.network.heal()


@contextmanager
def lossy_host(victims: Victims) -> Iterator[str]:
    """A frame in ten, each way."""
    host = victims.host()
    victims.scene.lab.network.impair([host], EVERYBODY, loss=0.1)
    victims.scene.lab.network.impair(EVERYBODY, [host], loss=0.1)
    yield host
    victims.scene.lab.network.heal()


@contextmanager
def late_host(victims: Victims) -> Iterator[str]:
    """Half a second on the way there, or where a try may take less than 1 s, half of that."""
    host = victims.host()
    delay = min(0.5, victims.scene.timing.try_timeout_seconds / 2)
    victims.scene.lab.network.impair([host], EVERYBODY, delay_seconds=delay)
    yield host
    victims.scene.lab.network.heal()
