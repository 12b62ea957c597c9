"""What a record, as it was found, means for a guest: is it as it was, and does the guest's memory go with it.

Pure: records in, a verdict or an error out.
"""

from __future__ import annotations

from collections.abc import Iterable

from etcdlock.errors import Refused, Superseded
from etcdlock.model import DomainId, LockState, Mode, Resource, StoredDomain


def same(resource: Resource, /, *, among: Iterable[Resource]) -> Resource | None:
    """What is held of a resource already, if that is enough: an exclusive lock is a shared one too."""
    enough = {resource.mode, Mode.EXCLUSIVE}
    return next((held for held in named(resource, among=among) if held.mode in enough), None)


def named(resource: Resource, /, *, among: Iterable[Resource]) -> list[Resource]:
    """Those of the same name, in whatever mode and under whatever path."""
    return [held for held in among if (held.lockspace, held.name) == (resource.lockspace, resource.name)]


def is_back(found: StoredDomain, /, *, was: StoredDomain) -> bool:
    """Whether it is as it was when it was claimed: parked, with the token that it had here."""
    return found.record.state is LockState.PARKED and found.token == was.token


def check_up_to_date(domain: DomainId, found: StoredDomain | None, /, *, run: str | None) -> None:
    """Raises `Refused` unless a guest that took in `run` has the latest memory, and the disks that go with it."""
    if run is None:
        why = "it is not known which run of it this guest takes in: the agent was started meanwhile, or etcd was away"
    elif (found.record.run if found is not None else "") != run:
        why = "it was let run again after this guest had begun to take it in, and its memory is out of date"
    elif found is not None and found.record.taken_over:
        why = f"{', '.join(map(str, found.record.taken_over))} was taken over from it: its memory is out of date"
    else:
        return
    raise Refused(f"domain {domain}: {why}", hint="migrate it again")


def superseded(lost: StoredDomain, /, *, found: StoredDomain | None) -> Superseded:
    """Why a guest that held this may not go on; `found` is what another has of it now."""
    if lost.record.taken_over:
        where = f"has lost {', '.join(map(str, lost.record.taken_over))} to another"
        return Superseded(f"domain {lost.record.domain} {where}", hint="its guest has been killed")
    where = "is not locked by this guest any more" if found is None else f"has gone to host {found.record.owner.host}"
    return Superseded(
        f"domain {lost.record.domain} {where}: what this guest has in memory is out of date",
        hint="it cannot go on here; destroy it",
    )
