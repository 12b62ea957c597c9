"""Hands a ledger's guests to the guard, and lets those run again that were frozen.

Guaranteed: a frozen guest runs on only after every guard has armed it anew. Whoever arms it here knows that its lock is
its own: a re-join of the domain has committed, or a heartbeat of the very session that the domain's lock names. Either
is proof that nobody had the lock in between: a takeover needs the obituary of that session, which needs the session's
key to be gone, and the heartbeat found it standing; a re-join compares the record that a takeover would have rewritten.
Neither is where etcd came back from a backup meanwhile: then a frozen guest is killed.

While guards of an earlier agent live, which know nothing of all this, nothing is let run: they would take it for
somebody else's doing, and kill.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from etcdlock.agent.context import OwnAction
from etcdlock.errors import InvalidDomainXml, SessionLost
from etcdlock.escalation import Action, Charge
from etcdlock.journal import note
from etcdlock.model import DomainRecord
from etcdlock.ports import Guard, Guest, GuestName

MOST_TEXT_BYTES = 32 * 1024
"""Of a command's environment: more disks than fit are left out, the last ones first."""


class Custody:
    """Between a ledger and its guard."""

    def __init__(self, guard: Guard, /, *, action: Action, own: OwnAction) -> None:
        self._guard = guard
        self._action = action
        self._own = own
        self._inherited: dict[GuestName, Guest] = {}
        self._condemned: set[GuestName] = set()

    async def arm(self, guest: Guest, record: DomainRecord, /, *, session: str) -> None:
        """Arm a guest under the session that its lock names, or will name; one that was frozen runs on.

        Raises what arming raises, and `SessionLost` for a guest that is condemned.
        """
        if _name(guest) in self._condemned:
            raise SessionLost(f"guest {guest.pid} stood while etcd's history was replaced: it does not run on")
        await self._guard.arm(guest, session=session, charge=charge_of(self._action_for(guest, record), record))
        if self.is_frozen(guest) and not self._inherited:
            await self._guard.go_on(guest)
            note("guest_goes_on", level=logging.WARNING, domain=record.domain, pid=guest.pid)

    @property
    def frozen(self) -> frozenset[GuestName]:
        """Those that stand for want of a proof, or may."""
        return self._guard.frozen

    def is_frozen(self, guest: Guest, /) -> bool:
        """Whether it is one of them."""
        return _name(guest) in self._guard.frozen

    def condemn_frozen(self, guests: Iterable[Guest], /) -> None:
        """etcd has another history than before: nothing in it proves that nobody had the locks of those that stand.

        A guest that was not frozen was proven lately, in the history that has ended: nobody else can have had its lock.
        """
        frozen = self.frozen
        for guest in (one for one in guests if _name(one) in frozen):
            note("stood_through_a_restore", level=logging.ERROR, pid=guest.pid)
            self._condemned.add(_name(guest))
            guest.kill()

    def _action_for(self, guest: Guest, record: DomainRecord) -> Action:
        """The guest's own choice before the host's, and first what was said when its locks were asked for.

        One that cannot be kept was refused then.
        """
        if record.on_session_lost is not None:
            return record.on_session_lost
        try:
            return self._own(guest, record.domain) or self._action
        except InvalidDomainXml as error:
            note("choice_not_kept", level=logging.WARNING, domain=record.domain, pid=guest.pid, error=error)
            return self._action

    def inherit(self, guest: Guest, record: DomainRecord, /) -> None:
        """An earlier agent's guest: its guard may have frozen it, and may do so yet."""
        if self._action_for(guest, record) is Action.FREEZE:
            self._inherited[_name(guest)] = guest

    async def earlier_guards_ended(self) -> None:
        """From now on none but our own guards watch: what they hold armed may run on."""
        inherited, self._inherited = self._inherited, {}
        for guest in inherited.values():
            try:
                await self._guard.go_on(guest)
            except SessionLost as error:    # it waits for the next proof, or is gone
                note("guest_stands_on", level=logging.WARNING, pid=guest.pid, error=error)


def _name(guest: Guest) -> GuestName:
    return guest.pid, guest.pid_start


def charge_of(action: Action, record: DomainRecord, /) -> Charge:
    """What a guard is told of a guest; the domain only where a command needs it."""
    if action is not Action.COMMAND:
        return Charge(action)
    words = {
        "ETCDLOCK_DOMAIN_UUID": str(record.domain.uuid),
        "ETCDLOCK_DOMAIN_NAME": record.domain.name,
        "ETCDLOCK_RESOURCES": _cut([str(resource) for resource in record.resources]),
    }
    return Charge(action, tuple(words.items()))


def _cut(lines: list[str]) -> str:
    while len("\n".join(lines).encode(errors="replace")) > MOST_TEXT_BYTES:
        lines = lines[:-1]
    return "\n".join(lines)
