"""One resource more, or less, for a domain that is held; with a partition also its share in the whole disk.

The share comes first and goes last: while a partition is locked, nobody is given the whole disk.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from etcdlock.agent.host_ledger import HostLedger
from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.identity import whole_of
from etcdlock.model import Resource


async def add(ledger: HostLedger, uuid: UUID, resource: Resource, /, *, until: float) -> None:
    """As `HostLedger.add`. After a refusal the share is given up again."""
    whole = whole_of(resource)
    if whole is None:
        await ledger.add(uuid, resource, until=until)
        return
    await ledger.add(uuid, whole, until=until)
    try:
        await ledger.add(uuid, resource, until=until)
    except HeldElsewhere:
        with suppress(EtcdlockError):
            await _give_up_share(ledger, uuid, whole, until=until)
        raise


async def remove(ledger: HostLedger, uuid: UUID, resource: Resource, /, *, until: float) -> None:
    """As `HostLedger.remove`."""
    await ledger.remove(uuid, resource, until=until)
    whole = whole_of(resource)
    if whole is not None:
        await _give_up_share(ledger, uuid, whole, until=until)


async def _give_up_share(ledger: HostLedger, uuid: UUID, whole: Resource, /, *, until: float) -> None:
    """Unless another partition of the disk is held."""
    holding = ledger.holding(uuid)
    held = () if holding is None else holding.stored.record.resources
    if whole in held and not any(whole_of(other) == whole for other in held):
        await ledger.remove(uuid, whole, until=until)
