"""Fences hosts by itself: one whose sessions are all missing, while locks name them, for which there are switches.

Guaranteed: never this host, nor one that has any session left, nor one whose agent's session is not among the missing:
that of a single `etcdlock run` may end while its host is well. Not while this host's own session is not proven, nor
while more than half of the cluster's hosts are missing, which says more of etcd than of them. One agent at a time
fences a host, as the record in etcd says; together they try `MOST_ATTEMPTS` times, then an operator has to see to it.

Not guaranteed: that a host which lives is never fenced. One that is cut off from etcd for long enough is as good as
dead to all others, though its guests may stand or run until their deadline.

Which clock: `ports.Clock`. What a watch says only makes us look; that a key is missing is confirmed through Raft.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from etcdlock.agent.context import Context
from etcdlock.agent.fencing import Order, fence, is_this_host
from etcdlock.agent.member import Member
from etcdlock.agent.session_ends import wake_at_ends
from etcdlock.agent.waiting import first_of
from etcdlock.errors import EtcdlockError
from etcdlock.journal import note
from etcdlock.model import FencingState, SessionKind, SessionRef, StoredFencing
from etcdlock.ports import PowerSwitch, Snapshot
from etcdlock.session import Phase, is_of
from etcdlock.survey import SessionView, Standing, Survey, take_survey
from etcdlock.transitions import all_domains, confirm_missing

MOST_ATTEMPTS = 3
"""Of one host for the same sessions, by whichever agents; each is of several tries."""
LOOK_EVERY_SECONDS = 10.0
"""Should the watch miss something."""
LOOK_AGAIN_SECONDS = 1.0
AGAIN_SECONDS = 15.0
"""After an attempt that failed."""


class Fencer:
    """`switches` by host id; a host is fenced `after_seconds` from when it was seen missing.

    An attempt of another's counts as under way for `claim_seconds`, unless its session ends before.
    """

    def __init__(
        self,
        context: Context,
        /,
        *,
        member: Member,
        switches: Mapping[str, Sequence[PowerSwitch]],
        after_seconds: float,
        claim_seconds: float,
        answer_seconds: float,
    ) -> None:
        self._context = context
        self._member = member
        self._switches = switches
        self._after_seconds = after_seconds
        self._claim_seconds = claim_seconds
        self._answer_seconds = answer_seconds
        self._known: set[SessionRef] = set()
        self._missing_since: dict[SessionRef, float] = {}
        self._claims_seen: dict[str, tuple[int, float]] = {}
        self._not_before: dict[str, float] = {}
        self._busy: set[str] = set()
        self._said: set[tuple[str, str]] = set()
        self._woken = asyncio.Event()

    async def keep(self) -> None:
        """Look and fence, for ever."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(wake_at_ends(self._context, self._woken, pause_seconds=LOOK_EVERY_SECONDS))
            while True:
                self._woken.clear()
                try:
                    await self._look()
                except EtcdlockError as error:
                    note("fencer_failed", level=logging.INFO, error=error)
                else:
                    for host in sorted(self._due() - self._busy):
                        self._busy.add(host)
                        parts.create_task(self._attend(host))
                await self._pause()

    async def _attend(self, host: str, /) -> None:
        """Beside all other hosts. What has failed is tried again later, by us or by another."""
        try:
            await self._see_to(host)
        except EtcdlockError as error:
            self._not_before[host] = self._context.clock.now() + AGAIN_SECONDS
            note("fencer_failed", level=logging.WARNING, host=host, error=error)
        finally:
            self._busy.discard(host)

    async def _pause(self) -> None:
        seconds = LOOK_AGAIN_SECONDS if self._missing_since else LOOK_EVERY_SECONDS
        await first_of(self._context.clock.sleep(seconds), self._woken.wait())

    # --- seeing ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Which of the sessions that were there, or that locks name, have no key any more, and since when."""
        context = self._context
        found = await context.store.read(context.keys.sessions())
        living = {view.ref for view in take_survey(found, keys=context.keys).sessions}
        if not self._known:
            looked = await context.look(all_domains(context.keys))
            owners = take_survey(Snapshot(looked.revision, looked.replies[1]), keys=context.keys).sessions
            self._known |= {view.ref for view in owners}
        self._known |= living
        for ref in sorted(self._known - living - self._missing_since.keys()):
            if (await context.store.txn(confirm_missing(context.keys, ref))).succeeded:
                self._missing_since[ref] = context.clock.now()

    def _due(self) -> set[str]:
        now = self._context.clock.now()
        due = {ref.host for ref, since in self._missing_since.items() if now >= since + self._after_seconds}
        return {host for host in due if now >= self._not_before.get(host, now)}

    def _forget(self, host: str, /) -> None:
        """Nothing is to be done for the host's sessions that are missing now."""
        gone = {ref for ref in self._missing_since if ref.host == host}
        self._known -= gone
        for ref in gone:
            del self._missing_since[ref]

    # --- deciding --------------------------------------------------------------------------------------------------

    async def _see_to(self, host: str, /) -> None:
        context = self._context
        survey = take_survey(await context.store.read(context.keys.everything), keys=context.keys)
        views = [view for view in survey.sessions if view.ref.host == host]
        silent = [view for view in views if view.standing is Standing.SILENT]
        lives = any(view.standing is Standing.ALIVE for view in views)
        if lives or not any(is_of(SessionKind.AGENT, view.ref) for view in silent):
            self._forget(host)
            return
        switches = self._switches.get(host, ())
        if is_this_host(host, mine=context.host) or not switches:
            self._say("fence_not_configured", host)
            self._forget(host)
        elif self._is_crowd(survey):
            self._say("fencing_held", host)
        elif not self._is_anothers(survey, survey.fencing_of(host), silent):
            await self._fence(host, switches, silent, survey.fencing_of(host))

    def _is_crowd(self, survey: Survey, /) -> bool:
        """More than half of the hosts that have sessions, or locks, have none that lives."""
        hosts = {view.ref.host for view in survey.sessions if view.standing is not Standing.DEAD}
        living = {view.ref.host for view in survey.sessions if view.standing is Standing.ALIVE}
        return 2 * len(hosts - living) > len(hosts)

    def _is_anothers(self, survey: Survey, found: StoredFencing | None, silent: Sequence[SessionView], /) -> bool:
        """Whether another is about to fence them; an attempt whose claimant has ended, or takes too long, is void."""
        if found is None or found.record.state is not FencingState.UNDER_WAY:
            return False
        record, now = found.record, self._context.clock.now()
        if not {view.ref.session for view in silent} & set(record.sessions):
            return False
        if record.claimant is not None and record.claimant not in {view.ref for view in survey.sessions if view.record}:
            return False
        if record.claimant == self._member.session.ref:
            return False
        revision, since = self._claims_seen.get(record.host, (0, now))
        self._claims_seen[record.host] = (found.mod_revision, since if revision == found.mod_revision else now)
        return now < self._claims_seen[record.host][1] + self._claim_seconds

    async def _fence(
        self,
        host: str,
        switches: Sequence[PowerSwitch],
        silent: Sequence[SessionView],
        before: StoredFencing | None,
        /,
    ) -> None:
        context, session = self._context, self._member.session
        same = before is not None and {view.ref.session for view in silent} <= set(before.record.sessions)
        if same and before is not None and before.record.attempt >= MOST_ATTEMPTS:
            self._say("fencing_given_up", host)
            self._forget(host)
            return
        if self._member.phase is not Phase.LIVE:
            return
        refs = ", ".join(str(view.ref) for view in silent)
        order = Order(
            host=host,
            by=context.host,
            reason=f"automatically: {refs} missing for {self._after_seconds:g} s",
            session=session,
            seen=before.mod_revision if before else 0,
        )
        await fence(context, switches, order, answer_seconds=self._answer_seconds)
        self._forget(host)

    def _say(self, event: str, host: str, /) -> None:
        """Once for each host until it is back."""
        refs = ",".join(sorted(ref.session for ref in self._missing_since if ref.host == host))
        if (event, refs) not in self._said:
            self._said.add((event, refs))
            note(event, level=logging.ERROR, host=host, sessions=refs)
