"""The guard's loop: acts on what `rules` decide.

It touches memory, its socket, pidfds and /proc: no disk, no log, no network. What the host refuses for the moment
(descriptors, memory) is tried again at the next round: nothing but the end of its work ends the loop.

Leaders are struck first, all of them, since what is left of a guest must be looked for in /proc. A guest is looked for
from the moment it is armed, so that at its end the guard knows its processes although their parents are dead. Where
its leader is a child of the program that started this guard, that program adopts what the guest leaves behind: then all
later children of that program are the guest's, but for this guard.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

from etcdlock.guard import instant, rules, table, wire
from etcdlock.guard.search import Search
from etcdlock.guard.table import Name, Table

# The timeouts of poll stand still during a suspend: after one, a deadline is seen late by at most this.
_LONGEST_WAIT_SECONDS = 0.25
_LOOK_EVERY_SECONDS = 1.0
# A guest just armed is behind its gate: whoever armed it, and wants its locks next, need not wait for a look.
_FIRST_LOOK_SECONDS = 0.1
_ROUNDS_PER_STRIKE = 5
_PACKETS_AT_ONCE = 100


class Guard:
    """Holds for each armed guest its pidfd and the processes recognised so far."""

    def __init__(self, link: socket.socket, *, budget_seconds: float, kill_seconds: float) -> None:
        link.setblocking(False)
        self._link: socket.socket | None = link
        self._state = rules.State(budget_seconds, kill_seconds)
        self._parent = os.getppid()
        self._pidfds: dict[Name, int] = {}
        self._known: dict[Name, frozenset[Name]] = {}
        self._children: set[Name] = set()
        self._ended: set[Name] = set()
        self._look_at = 0.0
        self._closing = False
        self._search = Search()
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._search.descriptor, select.POLLIN)
        myself = table.look_up(os.getpid())
        self._spared = frozenset({myself.name} if myself is not None else ())

    def run(self) -> None:
        """Until closed, or left alone with nothing to guard."""
        self._tell(wire.READY)
        while not self._closing and (self._link is not None or self._state.guests):
            wait = rules.wait_seconds(self._state, now=instant.read())
            longest = None if wait is None else min(wait, _LONGEST_WAIT_SECONDS) * 1000 + 1
            for descriptor, _ in self._poll.poll(longest):
                self._try(self._attend, descriptor)
            self._try(self._act)

    def _try(self, what: Callable[..., None], *arguments: int) -> None:
        try:
            what(*arguments)
        except (OSError, MemoryError):      # each step leaves what it has not done to the next round
            self._look_soon()

    # --- what is due -----------------------------------------------------------------------------------------------

    def _act(self) -> None:
        now = instant.read()
        due = rules.tick(self._state, now=now)
        first = [name for name in due.strike if not self._state.guests[name].stopping]
        self._state = due.state
        for name in due.strike:
            self._strike_leader(name)
        for name in first:
            self._tell(wire.STRIKING, name)
        for name in due.stuck:
            self._tell(wire.STUCK, name)
        if due.strike:
            self._strike_families(due.strike)
        elif now.steady_seconds >= self._look_at:
            self._look()

    def _strike_leader(self, name: Name) -> None:
        """Its group too, but only while it lives itself: then the group's number cannot be anybody else's."""
        pidfd = self._pidfds[name]
        if not _has_ended(pidfd):
            _quietly_kill_group(name.pid)
            _quietly_kill(pidfd)

    def _strike_families(self, names: tuple[Name, ...]) -> None:
        """What can be told from the table, at once; then, since reading it may have to wait, what carries the mark."""
        for name in names:
            self._search.ask(name)
        for _ in range(_ROUNDS_PER_STRIKE):
            self._look()
            left = [process for name in names for process in self._known.get(name, ())]
            for process in left:
                table.send(process, number=signal.SIGKILL)
            if not left:
                break

    # --- whose process is whose ------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        self._look_at = 0.0

    def _look(self) -> None:
        """Recognise every guest's living processes; where nothing is left of one, search once more for its mark."""
        self._look_at = instant.read().steady_seconds + _LOOK_EVERY_SECONDS
        now = table.read_table()
        for name in self._pidfds:
            self._recognise(name, now)
            if name in self._ended and not self._known[name]:
                self._search.ask(name)

    def _recognise(self, name: Name, now: Table) -> None:
        """Remembered for when the leader is gone and the table says less."""
        found = table.family(
            now, leader=name, known=self._known[name], adopter=self._adopter(name), spared=self._spared
        )
        self._known[name] = frozenset(process.name for process in found)

    def _adopter(self, name: Name) -> int:
        """Who adopts this guest's orphans, if all that it adopts is this guest's."""
        is_only_child = self._children == {name}
        return self._parent if is_only_child and os.getppid() == self._parent else 0

    def _take_found(self) -> None:
        """A search is done. Gone: the leader has ended, and two looks with a search between them find nothing."""
        found = self._search.take()
        if found is None or found.marked is None:
            self._look_soon()
            return
        now = table.read_table()
        for name in found.leaders & self._pidfds.keys():
            self._known[name] |= found.marked[name]
            self._recognise(name, now)
            if name in self._ended and not found.marked[name] and not self._known[name]:
                self._forget(name)
                self._tell(wire.GONE, name)

    def _forget(self, name: Name) -> None:
        self._state = rules.disarm(self._state, name)
        self._known.pop(name, None)
        self._children.discard(name)
        pidfd = self._pidfds.pop(name, None)
        if pidfd is None:
            return
        if name not in self._ended:
            self._poll.unregister(pidfd)
        self._ended.discard(name)
        os.close(pidfd)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def _attend(self, descriptor: int) -> None:
        """A packet has come, a search is done, or a guest's leader has ended."""
        if self._link is not None and descriptor == self._link.fileno():
            self._receive(self._link)
        elif descriptor == self._search.descriptor:
            self._take_found()
        else:
            for name in [name for name, pidfd in self._pidfds.items() if pidfd == descriptor]:
                self._poll.unregister(descriptor)
                self._ended.add(name)
                self._look_soon()

    def _receive(self, link: socket.socket) -> None:
        """Take in and answer what has come, since a proof may wait behind others; but not for ever."""
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet, pidfds, _, _ = socket.recv_fds(link, wire.LONGEST_PACKET_BYTES, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                packet, pidfds = b"", []
            if not packet:
                self._let_go(link)
                return
            verb, serial, *rest = wire.unpack(packet)
            refusal = self._obey(verb, rest, pidfds=pidfds)
            self._tell(*((wire.DONE, serial) if refusal is None else (wire.REFUSED, serial, refusal.value)))

    def _let_go(self, link: socket.socket) -> None:
        """The other side is gone: from here on everything is up to the deadlines."""
        self._poll.unregister(link)
        link.close()
        self._link = None
        self._look()        # while whoever reaps the leader may not have done so yet

    def _obey(self, verb: str, rest: list[str], *, pidfds: list[int]) -> rules.Refusal | None:
        if verb == wire.ARM:
            return self._arm(wire.unpack_name(rest[0]), session=rest[1], pidfds=pidfds)
        if verb == wire.PROVE:
            self._state = rules.prove(self._state, rest[1], at_seconds=float(rest[0]), now=instant.read())
        if verb == wire.DISARM:
            self._forget(wire.unpack_name(rest[0]))
        if verb == wire.CLOSE:
            self._closing = not self._state.guests
        return None

    def _arm(self, name: Name, *, session: str, pidfds: list[int]) -> rules.Refusal | None:
        answer = rules.arm(self._state, name, session=session, now=instant.read())
        if not isinstance(answer, rules.Refusal) and not pidfds and name not in self._pidfds:
            answer = rules.Refusal.NO_HANDLE
        if isinstance(answer, rules.Refusal) or name in self._pidfds:
            for pidfd in pidfds:
                os.close(pidfd)
        else:
            self._take_in(name, pidfd=pidfds[0])
        if isinstance(answer, rules.Refusal):
            return answer
        self._state = answer
        return None

    def _take_in(self, name: Name, *, pidfd: int) -> None:
        self._pidfds[name] = pidfd
        self._known[name] = frozenset()
        self._poll.register(pidfd, select.POLLIN)
        leader = table.look_up(name.pid)
        if leader is not None and leader.name == name and leader.parent == self._parent:
            self._children.add(name)
        self._look_at = min(self._look_at, instant.read().steady_seconds + _FIRST_LOOK_SECONDS)

    def _tell(self, *fields: object) -> None:
        """Never waits: whoever does not read has lost the right to know."""
        if self._link is None:
            return
        try:
            self._link.send(wire.pack(*fields), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, ConnectionError):
            return


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _quietly_kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _quietly_kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
