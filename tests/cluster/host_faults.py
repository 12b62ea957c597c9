"""Faults of hosts: their power, their programs, their storage."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.fault import Act, Victims, unheard


@contextmanager
def power_lost(victims: Victims) -> Iterator[str]:
    host = victims.scene.hosts[victims.host()]
    with unheard(victims.scene, host.name):
        host.power_off()
        yield host.name
        host.power_on()
        host.serve_on()


def signalled(*numbers: int, agent: bool, guard: bool) -> Act:
    """What these signals do to the agent of a host, its guard, or both. Stopped ones go on at the end."""

    @contextmanager
    def act(victims: Victims) -> Iterator[str]:
        host = victims.scene.hosts[victims.host()]
        for number in numbers:
            if guard:
                host.signal_guard(number)
            if agent:
                host.signal_agent(number)
        yield host.name
        host.thaw()
        if agent and signal.SIGKILL in numbers:
            host.wait_until_live()      # until then its guests live by the last proof

    return act


@contextmanager
def disks_frozen(victims: Victims) -> Iterator[str]:
    """No guest's write returns; locks have nothing to do with it."""
    victims.scene.lab.freeze_disks()
    yield ""
    victims.scene.lab.thaw_disks()
