"""The guard process: python -I -S etcdlock/guard/__main__.py <socket> <budget seconds> <kill seconds>

Kills every armed guest at its deadline, whatever state the program that armed it is in, and goes on until nothing of the
guest lives. When the other end of its socket closes, it keeps the last deadlines and ends once no armed guest is left.

Its loop touches memory, its socket, pidfds and /proc: no disk, no log, no network. It is locked into memory, scheduled in
real time and spared by the OOM killer where the host allows that, and quietly goes without where not. SIGINT, SIGTERM and
SIGHUP do not end it: closing its socket does. It cannot kill what the kernel does not let die (a process in frozen I/O)
and says so: `stuck`. Which clock: see `instant`.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not __package__:
    # Started by its path: name the package without running its __init__, so that nothing else of it is loaded.
    from types import ModuleType

    _package = ModuleType("etcdlock")
    _package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["etcdlock"] = _package

import ctypes
import resource
import select
import signal
import socket

from etcdlock.guard import instant, rules, table, wire
from etcdlock.guard.table import Name

# The timeouts of poll stand still during a suspend: after one, a deadline is seen late by at most this.
_LONGEST_WAIT_SECONDS = 0.25
_PACKETS_AT_ONCE = 100


class Guard:
    """Acts on what `rules` decide. Holds for each armed guest its pidfd and the processes recognised so far."""

    def __init__(self, link: socket.socket, *, budget_seconds: float, kill_seconds: float) -> None:
        link.setblocking(False)
        self._link: socket.socket | None = link
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._state = rules.State(budget_seconds, kill_seconds)
        self._pidfds: dict[Name, int] = {}
        self._known: dict[Name, frozenset[Name]] = {}
        self._closing = False

    def run(self) -> None:
        """Until closed, or left alone with nothing to guard."""
        self._tell(wire.READY)
        while not self._closing and (self._link is not None or self._state.guests):
            wait = rules.wait_seconds(self._state, now=instant.read())
            longest = None if wait is None else min(wait, _LONGEST_WAIT_SECONDS) * 1000 + 1
            for descriptor, _ in self._poll.poll(longest):
                self._attend(descriptor)
            self._act()

    def _attend(self, descriptor: int) -> None:
        """A packet has come, or a guest's leader has ended."""
        if self._link is not None and descriptor == self._link.fileno():
            self._receive(self._link)
            return
        self._poll.unregister(descriptor)
        for name in [name for name, pidfd in self._pidfds.items() if pidfd == descriptor]:
            self._recognise(name)
            self._drop_if_gone(name)

    def _act(self) -> None:
        due = rules.tick(self._state, now=instant.read())
        first = [name for name in due.strike if not self._state.guests[name].stopping]
        self._state = due.state
        for name in due.strike:     # the leaders first, all of them: the rest needs /proc
            self._strike_leader(name)
        for name in first:
            self._tell(wire.STRIKING, name)
        for name in due.strike:
            self._strike_family(name)
        for name in due.stuck:
            self._tell(wire.STUCK, name)

    def _strike_leader(self, name: Name) -> None:
        """Its group too, but only while it lives itself: then the group's number cannot be anybody else's."""
        pidfd = self._pidfds[name]
        if not _has_ended(pidfd):
            _quietly_kill_group(name.pid)
            _quietly_kill(pidfd)

    def _strike_family(self, name: Name) -> None:
        """What can be told from the table first; then, since reading it may have to wait, what carries the mark."""
        for process in self._recognise(name):
            table.send(process.name, number=signal.SIGKILL)
        self._known[name] |= table.marked(table.read_table(), leader=name)
        for process in self._recognise(name):
            table.send(process.name, number=signal.SIGKILL)
        self._drop_if_gone(name)

    def _recognise(self, name: Name) -> list[table.Process]:
        """The guest's living processes, remembered for when the leader is gone and the table says less."""
        found = table.family(table.read_table(), leader=name, known=self._known[name])
        self._known[name] = frozenset(process.name for process in found)
        return found

    def _drop_if_gone(self, name: Name) -> None:
        """Gone: the leader has ended, and two looks in a row find nothing (one may miss what is born during it)."""
        if not _has_ended(self._pidfds[name]) or self._recognise(name):
            return
        marked = table.marked(table.read_table(), leader=name)
        if marked:
            self._known[name] |= marked
            return
        self._forget(name)
        self._tell(wire.GONE, name)

    def _forget(self, name: Name) -> None:
        self._state = rules.disarm(self._state, name)
        self._known.pop(name, None)
        pidfd = self._pidfds.pop(name, None)
        if pidfd is not None:
            _quietly_unregister(self._poll, pidfd)
            os.close(pidfd)

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
        for name in list(self._pidfds):
            self._recognise(name)       # while whoever reaps the leader may not have done so yet
            self._drop_if_gone(name)

    def _obey(self, verb: str, rest: list[str], *, pidfds: list[int]) -> rules.Refusal | None:
        if verb == wire.ARM:
            return self._arm(wire.unpack_name(rest[0]), session=rest[1], pidfd=pidfds[0])
        if verb == wire.PROVE:
            self._state = rules.prove(self._state, rest[1], at_seconds=float(rest[0]), now=instant.read())
        if verb == wire.DISARM:
            self._forget(wire.unpack_name(rest[0]))
        if verb == wire.CLOSE:
            self._closing = not self._state.guests
        return None

    def _arm(self, name: Name, *, session: str, pidfd: int) -> rules.Refusal | None:
        answer = rules.arm(self._state, name, session=session, now=instant.read())
        if isinstance(answer, rules.Refusal) or name in self._pidfds:
            os.close(pidfd)
        else:
            self._pidfds[name] = pidfd
            self._known[name] = frozenset()
            self._poll.register(pidfd, select.POLLIN)
        if isinstance(answer, rules.Refusal):
            return answer
        self._state = answer
        return None

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


def _quietly_unregister(poll: select.poll, descriptor: int) -> None:
    try:
        poll.unregister(descriptor)
    except KeyError:        # its end was seen before
        return


def stand_apart(link: int) -> None:
    """Hold no descriptor but the link: a pipe of the caller's held open here would never end for its reader."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) != link:
            try:
                os.close(int(entry))
            except OSError:     # the listing's own
                continue
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def stand_firm() -> None:
    """Ask the host for memory, time and life; each is refused where the right is missing, which changes nothing else."""
    lock_memory()
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -15)
        except OSError:
            pass
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write("-900")
    except OSError:
        pass


def lock_memory() -> None:
    """All pages present and to come; only with an unlimited allowance, for at a limit an allocation would fail later."""
    current, future = 1, 2
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        return
    ctypes.CDLL(None, use_errno=True).mlockall(current | future)


def main(arguments: list[str]) -> None:
    descriptor, budget_seconds, kill_seconds = int(arguments[0]), float(arguments[1]), float(arguments[2])
    stand_apart(descriptor)
    stand_firm()
    link = socket.socket(fileno=descriptor)
    Guard(link, budget_seconds=budget_seconds, kill_seconds=kill_seconds).run()


if __name__ == "__main__":
    main(sys.argv[1:])
