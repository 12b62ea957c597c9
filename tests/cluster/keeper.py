"""Keeps one domain running somewhere, as a management stack would, and moves it about.

It trusts nothing but etcdlock: where it has lost sight of a host it starts the guest on another one at once, though the
first may still run, and it migrates in the midst of faults. What becomes of that is judged by others.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from etcdlock.errors import EtcdlockError
from etcdlock.model import Owner
from tests.cluster.disk import Disk
from tests.cluster.guests import Guest, receive, start
from tests.cluster.host import Host

_ASKED: Final = "asked"
_MIGRATED: Final = "migrated"
_LOOK_EVERY_SECONDS: Final = 0.1


@dataclass(slots=True)
class Orders:
    """What all keepers of a lab go by. `lost` are hosts that nobody hears of, `calm` stops all moving about."""

    hosts: Mapping[str, Host]
    wait_seconds: float
    move_every_seconds: float
    lost: set[str] = field(default_factory=set)
    calm: threading.Event = field(default_factory=threading.Event)
    ends: threading.Event = field(default_factory=threading.Event)

    @property
    def usable(self) -> list[str]:
        """Hosts on which a guest may be started."""
        return [name for name, host in self.hosts.items() if host.is_on and name not in self.lost]


class Keeper(threading.Thread):
    """Of one domain. `guests` are all that it ever started, the latest last; `home` is where it starts the first."""

    def __init__(self, disk: Disk, orders: Orders, *, chance: random.Random, folder: Path, home: str = "") -> None:
        super().__init__(name=disk.domain.name, daemon=True)
        self.disk = disk
        self.guests: list[Guest] = []
        self.migrations = 0
        self.failure: BaseException | None = None
        self._orders = orders
        self._home = home
        self._random = chance
        self._log = folder / f"{disk.domain.name}.log"
        self._moves_after = self._interval()
        self._busy = threading.Lock()

    @property
    def guest(self) -> Guest | None:
        """The one that runs as far as is known."""
        return self.guests[-1] if self.guests and self.guests[-1].runs else None

    @property
    def is_at_rest(self) -> bool:
        """Whether its guest runs where it may stay, and nothing is being moved."""
        guest = self.guest
        return guest is not None and guest.host.name not in self._orders.lost and not self._busy.locked()

    def log(self) -> str:
        """The end of what was said when its guests were started."""
        return f"the end of {self._log}:\n{self._log.read_text(encoding='utf-8', errors='replace')[-2000:]}"

    def run(self) -> None:
        """Until told to end; then its guest is ended, too."""
        try:
            while not self._orders.ends.wait(_LOOK_EVERY_SECONDS):
                self._look()
        except BaseException as failure:  # noqa: BLE001 - told by whoever waits for this thread
            self.failure = failure
        for guest in self.guests:
            guest.end(by=_ASKED)

    def _look(self) -> None:
        guest = self.guest
        if guest is None or guest.host.name in self._orders.lost:
            self._start_elsewhere(guest)
        elif not self._orders.calm.is_set() and self._is_time_to_move():
            self._move(guest)

    # --- starting --------------------------------------------------------------------------------------------------

    def _start_elsewhere(self, before: Guest | None) -> None:
        usable = [name for name in self._orders.usable if before is None or name != before.host.name]
        if not usable:
            return
        with self._busy:
            wanted = self._home if not self.guests and self._home else self._random.choice(usable)
            host = self._orders.hosts[wanted]
            found = start(
                host,
                self.disk,
                wait_seconds=self._orders.wait_seconds,
                gives_up=lambda: self._is_not_needed(before, on=host),
                log=self._log,
            )
            if found is not None:
                self.guests.append(found)
                self._moves_after = self._interval()

    def _is_not_needed(self, before: Guest | None, *, on: Host) -> bool:
        """The host that was lost is back with its guest, or the one where it was to start is lost now."""
        is_back = before is not None and before.runs and before.host.name not in self._orders.lost
        return is_back or self._orders.ends.is_set() or on.name in self._orders.lost or not on.is_on

    # --- moving ----------------------------------------------------------------------------------------------------

    def _move(self, guest: Guest) -> None:
        """Mostly live, sometimes by an end and a start."""
        self._moves_after = self._interval()
        others = [name for name in self._orders.usable if name != guest.host.name]
        if not others:
            return
        with self._busy:
            if self._random.random() < 0.3:
                guest.end(by=_ASKED)
                return
            arrived = migrate(guest, self._orders.hosts[self._random.choice(others)], log=self._log)
            if arrived is not None:
                self.guests.append(arrived)
                self.migrations += 1

    def _is_time_to_move(self) -> bool:
        self._moves_after -= _LOOK_EVERY_SECONDS
        return self._moves_after <= 0

    def _interval(self) -> float:
        return self._random.uniform(0.3, 1.7) * self._orders.move_every_seconds


def migrate(guest: Guest, to: Host, /, *, log: Path) -> Guest | None:
    """Over the agents' API, as docs/API.md says. The guest that runs there; None if it runs on where it was, or died.

    Whatever fails, and wherever: a process that may not run is killed, and the source runs on only after a yes.
    """
    arriving = receive(to, guest.disk, log=log)
    if arriving is None:
        return None
    try:
        token = _hand_over(guest, arriving)
    except EtcdlockError:
        token = None
    if token is not None and arriving.go(token):
        guest.end(by=_MIGRATED)
        return arriving
    arriving.end(by=_MIGRATED)
    arriving.put_away()
    if not _runs_on(guest):
        guest.end(by=_MIGRATED)
    return None


def _hand_over(guest: Guest, arriving: Guest) -> int | None:
    """The token under which the destination runs. Raises what an agent says."""
    uuid = guest.disk.domain.uuid
    if not guest.stand():
        return None
    source, destination = guest.host.client(), arriving.host.client()
    run = source.prepare(uuid)["run"]
    owner = Owner(guest.disk.domain, arriving.pid)
    destination.incoming(owner, (guest.disk.resource,), run=run)
    return int(destination.incoming_complete(uuid)["token"])


def _runs_on(guest: Guest) -> bool:
    """Whether the source was let run on; asked again while it is not known."""
    return _insist(lambda: guest.go(int(guest.host.client().cancel(guest.disk.domain.uuid)["token"])))


def _insist(ask: Callable[[], bool]) -> bool:
    for _ in range(3):
        try:
            return ask()
        except EtcdlockError:
            continue
    return False
