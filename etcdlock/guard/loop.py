"""The guard's loop: acts on what `rules` decide.

It touches memory, its socket, pidfds, /proc and cgroups: no disk, no log, no network. What the host refuses for the
moment (descriptors, memory) is tried again at the next round: nothing but the end of its work ends the loop.

Leaders are struck first, all of them, since what is left of a guest must be looked for in /proc (`families`).

What must stand is told so, looked at until it was seen to stand, and looked at again for as long as it must. This guard
never lets anything run on by itself: it must be told that the guest is armed anew, and then to let it go on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from etcdlock.escalation import Charge, Sight, Stage
from etcdlock.guard import handle, instant, rules, table, wire
from etcdlock.guard.cgroup import Cgroups
from etcdlock.guard.command import Commands
from etcdlock.guard.families import Families
from etcdlock.guard.instant import Reading
from etcdlock.guard.recorder import Recorder
from etcdlock.guard.search import Search
from etcdlock.guard.stillness import Stillness
from etcdlock.guard.table import Name
from etcdlock.guard.watchdog import Watchdog

# The timeouts of poll stand still during a suspend: after one, a deadline is seen late by at most this.
_LONGEST_WAIT_SECONDS = 0.25
_LOOK_EVERY_SECONDS = 1.0
# A guest just armed is behind its gate: whoever armed it, and wants its locks next, need not wait for a look.
_FIRST_LOOK_SECONDS = 0.1
_ROUNDS_PER_STRIKE = 5
_PACKETS_AT_ONCE = 100
_TOLD = {
    Stage.STOPPING: wire.STRIKING, Stage.FREEZING: wire.FREEZING,
    Stage.FROZEN: wire.FROZEN, Stage.COMMANDED: wire.COMMANDED,
}


class Guard:
    """Holds for each armed guest its pidfd."""

    def __init__(
        self, link: socket.socket, *, watchdog: Watchdog, commands: Commands, cgroups: Cgroups,
        recorder: Recorder, parent: int
    ) -> None:
        link.setblocking(False)
        self._link: socket.socket | None = link
        self._watchdog = watchdog
        self._commands = commands
        self._recorder = recorder
        self._state = rules.State(rules.Limits())
        self._quiet = rules.Quiet()
        self._pidfds: dict[Name, int] = {}
        self._stillness: dict[Name, Stillness] = {}
        self._stands: dict[Name, bool] = {}
        self._ended: set[Name] = set()
        self._look_at = self._look_at_frozen_at = self._strike_at = 0.0
        self._closing = self._yielding = False
        self._search = Search()
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._search.descriptor, select.POLLIN)
        myself = table.look_up(os.getpid())
        if myself is None:      # it is there for as long as we are, unless /proc is not
            raise FileNotFoundError("/proc/self/stat")
        self._myself = myself.name
        self._families = Families(parent=parent, myself=myself.name, cgroups=cgroups)

    def run(self) -> None:
        """Until closed, or left alone with nothing to guard, or with guests that a successor guards."""
        self._try(self._watchdog.open)
        self._introduce()
        self._try(self._watch)
        while not self._is_over():
            for descriptor, _ in self._poll.poll(self._longest_wait()):
                self._try(self._attend, descriptor)
            self._try(self._act)
            self._try(self._watch)
        self._watchdog.end(guests=bool(self._state.guests))

    def _introduce(self) -> None:
        """Say that we keep watch, and who we are: whoever has no child in us knows us by nothing else."""
        watchdog = self._watchdog
        words = wire.pack(wire.READY, self._myself, watchdog.seconds, f"{watchdog.standing} {watchdog.reason}")
        if self._link is None:
            return
        pidfd = os.pidfd_open(self._myself.pid)
        with suppress(BlockingIOError, ConnectionError):
            socket.send_fds(self._link, [words], [pidfd], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        os.close(pidfd)

    def give_way(self) -> None:
        """A successor guards everything: end once what is being stopped is gone, unless our socket has another end."""
        self._yielding = self._link is None

    def _is_over(self) -> bool:
        if self._closing or self._link is not None:
            return self._closing
        ending = any(armed.stage in (Stage.STOPPING, Stage.COMMANDED) for armed in self._state.guests.values())
        return not self._state.guests or (self._yielding and not ending)

    def _longest_wait(self) -> float | None:
        """In milliseconds, as poll takes it."""
        now = instant.read()
        wait = self._quiet.seconds(self._state, now=now) or rules.wait_seconds(self._state, now=now)
        waits = (
            min(wait, _LONGEST_WAIT_SECONDS) if wait is not None and self._state.guests else None,
            self._watchdog.wait_seconds(now_seconds=now.steady_seconds),
        )
        return min((each * 1000 + 1 for each in waits if each is not None), default=None)

    def _try(self, what: Callable[..., object], *arguments: object) -> bool:
        try:
            what(*arguments)
        except (OSError, MemoryError):      # each step leaves what it has not done to the next round
            self._look_soon()
            return False
        return True

    def _watch(self) -> None:
        """Have the watchdog, and feed it while that is right."""
        if self._watchdog.open(lambda: rules.may_open(self._state, now=instant.read())):
            self._tell(*self._watchdog.news)
        self._watchdog.attend(
            now_seconds=instant.read().steady_seconds,
            every_seconds=self._state.limits.feed_every_seconds,
            may_feed=lambda seconds: rules.may_feed(self._state, watchdog_seconds=seconds, now=instant.read()),
        )

    # --- what is due -----------------------------------------------------------------------------------------------

    def _act(self) -> None:
        now = instant.read()
        has_looked = not self._quiet.seconds(self._state, now=now) and self._take_steps(now)
        if not has_looked and now.steady_seconds >= self._look_at:
            self._look()

    def _take_steps(self, now: Reading) -> bool:
        """Whether processes of guests were looked for in doing so."""
        due = rules.tick(self._state, now=now, sights=self._sights(now))
        self._state = due.state
        self._recorder.note(due, now=now)
        for name in due.strike:
            self._try(self._families.about_to_be_struck, name)
            self._strike_leader(name)
        for name in due.freeze:
            self._signal_leader(name, signal.SIGSTOP)
        self._report(due)
        for name in due.command:
            self._try(self._start_command, name)
        if due.strike and (now.steady_seconds >= self._strike_at or due.entered(Stage.STOPPING)):
            self._strike_families(due.strike)
            self._strike_at = instant.read().steady_seconds + rules.STRIKE_EVERY_SECONDS
        if due.freeze:
            self._freeze_families(due.freeze)
        return bool(due.strike or due.freeze)

    def _report(self, due: rules.Tick) -> None:
        for stage, word in _TOLD.items():
            for name in due.entered(stage):
                self._tell(word, name)
        for name in due.stuck:
            self._tell(wire.STUCK, name)

    def _strike_leader(self, name: Name) -> None:
        self._signal_leader(name, signal.SIGKILL)
        self._commands.end(name)

    def _signal_leader(self, name: Name, number: int) -> None:
        """Its group too, but only while it lives itself: then the group's number cannot be anybody else's."""
        pidfd = self._pidfds[name]
        if not handle.has_ended(pidfd):
            handle.send_group(name.pid, number)
            handle.send(pidfd, number)

    def _strike_families(self, names: tuple[Name, ...]) -> None:
        """What can be told from the table, at once; then, since reading it may have to wait, what carries the mark."""
        for name in names:
            self._search.ask(name)
            self._try(self._families.strike_cgroup, name)
        struck: set[Name] = set()
        for _ in range(_ROUNDS_PER_STRIKE):     # while they bring forth more; what does not die costs no more looks
            self._look()
            left = self._signal_families(names, signal.SIGKILL)
            if left <= struck:
                break
            struck |= left

    def _freeze_families(self, names: tuple[Name, ...]) -> None:
        """Once a round: the next one looks whether they stand."""
        for name in names:
            self._search.ask(name)
        self._look()
        self._signal_families(names, signal.SIGSTOP)

    def _signal_families(self, names: tuple[Name, ...], number: int) -> set[Name]:
        """Whom."""
        left = {process for name in names for process in self._families.known(name)}
        for process in left:
            table.send(process, number=number)
        return left

    def _start_command(self, name: Name) -> None:
        """One that cannot be started has ended already."""
        environment = self._state.guests[name].charge.environment
        self._commands.start(name, environment=environment, left_seconds=self._state.limits.act_seconds)

    # --- who stands ------------------------------------------------------------------------------------------------

    def _sights(self, now: Reading) -> dict[Name, Sight]:
        """Of the guests about which something gentler than SIGKILL was done. Without a look, none was seen to stand."""
        try:
            self._look_at_those_that_must_stand(now)
        except (OSError, MemoryError):
            self._stands = {}
        return {
            name: Sight(stands=self._stands.get(name, False), commanding=self._commands.runs(name))
            for name, armed in self._state.guests.items()
            if armed.stage is not Stage.RUNNING or name in self._stands
        }

    def _look_at_those_that_must_stand(self, now: Reading) -> None:
        stages = {Stage.FREEZING}
        if now.steady_seconds >= self._look_at_frozen_at:
            stages.add(Stage.FROZEN)
            self._look_at_frozen_at = now.steady_seconds + rules.LOOK_AT_FROZEN_EVERY_SECONDS
        names = [name for name, armed in self._state.guests.items() if armed.stage in stages]
        if names:
            seen = table.read_table()
            for name in names:
                members = self._families.recognise(name, seen)
                self._stands[name] = self._stillness.setdefault(name, Stillness()).look(members)
        for name in rules.overdue_to_freeze(self._state, now=now):      # whose program may have frozen it by now
            looks = [self._fresh_look(name) for _ in range(2)]
            self._stands[name] = looks[-1]

    def _fresh_look(self, name: Name) -> bool:
        members = self._families.recognise(name, table.read_table())
        return self._stillness.setdefault(name, Stillness()).look(members)

    def _let_go_on(self, name: Name) -> rules.Refusal | None:
        refusal = rules.may_go_on(self._state, name, now=instant.read())
        if refusal is None:
            self._look()
            self._signal_leader(name, signal.SIGCONT)
            self._signal_families((name,), signal.SIGCONT)
        return refusal

    # --- whose process is whose ------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        self._look_at = 0.0

    def _look(self) -> None:
        """Recognise every guest's living processes; where nothing is left of one, search once more for its mark."""
        self._look_at = instant.read().steady_seconds + _LOOK_EVERY_SECONDS
        now = table.read_table()
        for name in self._pidfds:
            has_ended = name in self._ended
            deeply = has_ended or self._state.guests[name].stage is not Stage.RUNNING
            if not self._families.recognise(name, now, deeply=deeply) and has_ended:
                self._search.ask(name)

    def _take_found(self) -> None:
        """A search is done. Gone: the leader has ended, and two looks with a search between them find nothing."""
        found = self._search.take()
        if found is None or found.marked is None:
            self._look_soon()
            return
        now = table.read_table()
        for name in found.leaders & self._pidfds.keys():
            self._families.found(name, found.marked[name])
            left = self._families.recognise(name, now)
            if name in self._ended and not found.marked[name] and not left:
                self._forget(name)
                self._tell(wire.GONE, name)

    def _forget(self, name: Name) -> None:
        self._state = rules.disarm(self._state, name)
        self._families.forget(name)
        self._stillness.pop(name, None)
        self._stands.pop(name, None)
        self._commands.end(name)
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
        """The other side is gone: from here on everything is up to the deadlines. Of guests that it has started itself,
        nobody else can say that they may run again.
        """
        self._poll.unregister(link)
        link.close()
        self._link = None
        self._state = rules.abandon(self._state, self._families.of_our_parent)
        self._look()        # while whoever reaps the leader may not have done so yet

    def _obey(self, verb: str, rest: list[str], *, pidfds: list[int]) -> rules.Refusal | None:
        refusal = None
        match verb:
            case wire.LIMITS:
                self._state = rules.State(wire.unpack_limits(*rest))
            case wire.ARM | wire.HOLD:
                return self._take_in_charge(verb, wire.unpack_name(rest[0]), rest[1], pidfds=pidfds)
            case wire.GO_ON:
                refusal = self._let_go_on(wire.unpack_name(rest[0]))
            case wire.PROVE:
                self._state = rules.prove(self._state, rest[1], at_seconds=float(rest[0]), now=instant.read())
            case wire.WATCH:
                self._watchdog.wait_no_longer()
                self._try(self._watch)      # what becomes of it is told before the answer
            case wire.DISARM:
                self._forget(wire.unpack_name(rest[0]))
            case wire.CLOSE:
                self._closing = not self._state.guests
        return refusal

    def _take_in_charge(self, verb: str, name: Name, words: str, *, pidfds: list[int]) -> rules.Refusal | None:
        session, charge = wire.unpack_charge(words)
        answer = self._judged(verb, name, session, charge)
        is_new = not isinstance(answer, rules.Refusal) and name not in self._pidfds
        if is_new and not (pidfds and self._try(self._take_in, name, pidfds)):
            answer = rules.Refusal.NO_HANDLE
        for pidfd in pidfds:
            os.close(pidfd)
        if isinstance(answer, rules.Refusal):
            return answer
        self._state = answer
        self._stillness.pop(name, None)
        self._stands.pop(name, None)
        if verb == wire.HOLD:
            self._hold(name)
        return None

    def _judged(self, verb: str, name: Name, session: str, charge: Charge) -> rules.State | rules.Refusal:
        now = instant.read()
        judge = rules.arm if verb == wire.ARM else rules.hold
        return judge(self._state, name, session=session, charge=charge, now=now)

    def _hold(self, name: Name) -> None:
        """See at once whether it stands, for the look of the next round to agree with."""
        self._signal_leader(name, signal.SIGSTOP)
        self._stillness[name] = Stillness()
        self._stillness[name].look(self._families.recognise(name, table.read_table()))

    def _take_in(self, name: Name, pidfds: list[int]) -> None:
        self._families.take_in(name)    # or it is not known at all
        self._pidfds[name] = pidfd = pidfds.pop()
        self._poll.register(pidfd, select.POLLIN)
        self._look_at = min(self._look_at, instant.read().steady_seconds + _FIRST_LOOK_SECONDS)

    def _tell(self, *fields: object) -> None:
        """Never waits: whoever does not read has lost the right to know."""
        if self._link is None:
            return
        try:
            self._link.send(wire.pack(*fields), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, ConnectionError):
            return
