"""A disk that is plugged in, with the images below it: all of them, or none.

Each is a call of its own to the driver, so a no gives back what was added before it. What the guest had already stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from etcdlock.driver.plugin import Driver, Lock
from etcdlock.errors import EtcdlockError, Refused, SessionLost, Unreachable
from etcdlock.model import Owner, Resource


def add_with_layers(driver: Driver, owner: Owner, disk: Resource, /, *, below: Sequence[Resource]) -> Lock:
    """The disk last: with it the guest may open all of them. After `OutcomeUnknown` all stay: ask again."""
    added: list[Resource] = []
    try:
        for layer in reversed(below):
            before = driver.inquire(owner.domain.uuid)
            driver.add(owner, layer)
            if before is not None and not _is_among(before.resources, layer):
                added.append(layer)
        return driver.add(owner, disk)
    except (Refused, SessionLost, Unreachable):
        for layer in added:
            with suppress(EtcdlockError):  # it ends with the guest at the latest
                driver.remove(owner, layer)
        raise


def _is_among(held: Iterable[Resource], layer: Resource, /) -> bool:
    return any((one.lockspace, one.name) == (layer.lockspace, layer.name) for one in held)
