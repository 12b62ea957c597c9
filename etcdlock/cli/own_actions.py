"""What a guest of libvirt's wants done first at a lost session, by its own XML as libvirt has written it down.

libvirt's lock manager is shown no XML; the status file that libvirt keeps of each guest with a process has it. A guest
without one (of a program that uses the API, say) has no choice of its own here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

from etcdlock.cli.host_facts import LARGEST_STATUS
from etcdlock.errors import InvalidDomainXml
from etcdlock.escalation import Action
from etcdlock.journal import note
from etcdlock.libvirt.status import parse_status
from etcdlock.lockfailure import read_choice
from etcdlock.model import DomainId
from etcdlock.ports import Guest, GuestName

MOST_REMEMBERED = 4096


class OwnActions:
    """Told by the status files in `folder`. `has_command`: whether this host knows a program for `command`."""

    def __init__(self, folder: Path, /, *, has_command: bool) -> None:
        self._folder = folder
        self._has_command = has_command
        self._known: OrderedDict[GuestName, Action | None] = OrderedDict()

    def of(self, guest: Guest, domain: DomainId, /) -> Action | None:
        """Its own choice, None if it makes none. What it was when first asked for holds for as long as it runs.

        Raises `InvalidDomainXml` for one that cannot be kept.
        """
        name = (guest.pid, guest.pid_start)
        if name not in self._known:
            text = self._text(guest.pid, domain)
            if text is None:        # not written yet, or no guest of libvirt's
                return None
            self._known[name] = self._possible(text, domain)
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return self._known[name]

    def _text(self, pid: int, domain: DomainId) -> bytes | None:
        file = self._folder / f"{domain.name}.xml"
        try:
            with file.open("rb") as opened:
                status = parse_status(opened.read(LARGEST_STATUS), source=str(file))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, InvalidDomainXml) as error:    # ValueError: a name that no file can have
            note("choice_not_told", level=logging.WARNING, domain=domain, pid=pid, file=file, error=error)
            return None
        return status.text if status.pid == pid and status.xml.domain.uuid == domain.uuid else None

    def _possible(self, text: bytes, domain: DomainId) -> Action | None:
        choice = read_choice(text, source=f"domain {domain}")
        if choice.warning:
            note("choice", level=logging.WARNING, domain=domain, warning=choice.warning)
        if choice.action is Action.COMMAND and not self._has_command:
            raise InvalidDomainXml(
                f"domain {domain}: on-session-lost is 'command', and this host knows none",
                hint="set on_session_lost_command on this host, or choose kill or freeze",
            )
        return choice.action
