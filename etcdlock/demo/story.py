"""The seven steps of the demo. Each acts and waits, with a deadline, for what must follow; `NotSo` if it does not.

What is compared comes from etcd's records, from the processes and from the disk itself; of what the programs say, only
the refusal's text is shown, and their log is used to know when one waits in line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from etcdlock.demo import checker
from etcdlock.demo.figures import Figures, milliseconds
from etcdlock.demo.hosts import Host, Run
from etcdlock.demo.owner import Owner
from etcdlock.demo.proxy import Cut
from etcdlock.demo.stage import Stage
from etcdlock.demo.timeline import Timeline, now
from etcdlock.demo.verdict import require, within
from etcdlock.model import Proof, SessionRef

HELD_ELSEWHERE: Final = 100
SESSION_LOST: Final = 103
"""Exit codes of `etcdlock run`, as documented."""

START_SECONDS: Final = 20.0
"""For programs to start on a busy machine."""
SLACK_SECONDS: Final = 10.0
"""Over what the timing contract allows, before the demo gives up waiting."""
IN_LINE_SECONDS: Final = 60.0
RECORDS_AFTER_REJOIN: Final = 50


@dataclass(frozen=True, slots=True)
class Stopped:
    """An owner that was cut off: when that was, when nothing of its guest was left, and who waits for its locks."""

    owner: Owner
    waiting: Run
    cut_at: float
    at: float


class Story:
    """Plays on a stage, tells it to a timeline, and fills in the figures."""

    def __init__(self, stage: Stage, timeline: Timeline, /, *, figures: Figures, cut: Cut) -> None:
        self._stage = stage
        self._timeline = timeline
        self._figures = figures
        self._cut = cut

    async def play(self) -> None:
        """All seven. Raises `NotSo`."""
        first = await self.start_on_a()
        await self.be_refused_on_b(first)
        stopped = await self.cut_off_a(first)
        second = await self.take_over_on_b(stopped)
        third = await self.lose_power_on_b(second)
        await self.revoke_session_of_a(third)
        await self.judge_disk(third)

    # --- 1 and 2: one winner -----------------------------------------------------------------------------------------

    async def start_on_a(self) -> Owner:
        """Step 1."""
        self._timeline.begin("The guest is started on A")
        run = await self._stage.start(self._stage.a)
        return await self._runs_on(self._stage.a, run, after=None, seconds=START_SECONDS)

    async def be_refused_on_b(self, owner: Owner, /) -> None:
        """Step 2."""
        self._timeline.begin("The same guest is started on B, and refused")
        run = await self._stage.start(self._stage.b)
        with self._timeline.waiting("B asks etcd for the locks"):
            async with within(START_SECONDS, "B is refused the locks"):
                require(not await run.says("guest_started"), "B was not refused: its guest runs beside A's")
                status = await run.ended()
        require(status == HELD_ELSEWHERE, f"B was not refused: etcdlock run ended with {status}: {run.reason()}")
        self._timeline.tell("B", f"refused (exit {status}): {run.reason()}")
        require(owner.guest.runs, "A's guest did not survive B's attempt")
        self._require_sole_writer(owner)

    # --- 3 and 4: cut off --------------------------------------------------------------------------------------------

    async def cut_off_a(self, owner: Owner, /) -> Stopped:
        """Step 3."""
        self._timeline.begin("A is cut off from etcd: its guest must stop before B may have the disk")
        waiting = await self._stand_in_line(self._stage.b)
        owner = await owner.as_it_stands()
        cut_at = now()
        await owner.host.network.cut(self._cut)
        self._timeline.tell("A", f"cut off ({self._cut}); its guest writes on, for now", at=cut_at)
        with self._timeline.waiting("A tries to reach etcd"):
            async with within(self._stage.timing.budget_seconds + SLACK_SECONDS, "the guest of A, cut off, is stopped"):
                gone_at = await owner.guest.ended_at()
        last = owner.records()[-1]
        stopped_at = max(gone_at, last.before_at, last.done_at)
        self._figures.stopped_after_cut_ms = milliseconds(stopped_at - cut_at)
        self._timeline.tell("A", self._last_words(last, stopped_at=stopped_at), at=stopped_at)
        return Stopped(owner, waiting, cut_at, stopped_at)

    def _last_words(self, last: checker.Record, /, *, stopped_at: float) -> str:
        return (
            f"guest killed, {self._figures.stopped_after_cut_ms:,} ms after the cut; its last record was begun "
            f"{milliseconds(stopped_at - last.before_at)} ms before that"
        )

    async def take_over_on_b(self, stopped: Stopped, /) -> Owner:
        """Step 4."""
        before = stopped.owner
        self._timeline.begin("B takes over by itself, with a proof")
        proven_at = await self._proof_of(before.session, by="B")
        margin = milliseconds(proven_at - stopped.at)
        self._figures.stopped_before_takeover_ms = margin
        require(margin > 0, f"A's guest was stopped {-margin} ms after B might have taken over")
        owner = await self._runs_on(self._stage.b, stopped.waiting, after=before, seconds=SLACK_SECONDS)
        self._figures.takeover_after_cut_ms = milliseconds(owner.records()[0].before_at - stopped.cut_at)
        async with within(SLACK_SECONDS, "A's etcdlock run ends, its guest being stopped"):
            status = await before.run.ended()
        require(status == SESSION_LOST, f"A's etcdlock run ended with {status}: {before.run.reason()}")
        return owner

    # --- 5: power loss -----------------------------------------------------------------------------------------------

    async def lose_power_on_b(self, before: Owner, /) -> Owner:
        """Step 5."""
        self._timeline.begin("B loses its power, and A takes over")
        await self._stage.a.network.heal()
        waiting = await self._stand_in_line(self._stage.a)
        before = await before.as_it_stands()
        lost_at = now()
        await before.host.lose_power(before.run)
        async with within(SLACK_SECONDS, "the guest of B is gone with B"):
            await before.guest.ended_at()
        self._timeline.tell("B", "power lost: its processes killed, its network dead", at=lost_at)
        await self._proof_of(before.session, by="A")
        owner = await self._runs_on(self._stage.a, waiting, after=before, seconds=SLACK_SECONDS)
        self._figures.takeover_after_power_loss_ms = milliseconds(owner.records()[0].before_at - lost_at)
        return owner

    # --- 6: session lost, guest kept ---------------------------------------------------------------------------------

    async def revoke_session_of_a(self, owner: Owner, /) -> None:
        """Step 6, with B in line: it must not get what A's next session keeps."""
        self._timeline.begin("A's session is revoked under its feet: its guest runs on")
        await self._stage.b.network.heal()
        waiting = await self._stand_in_line(self._stage.b)
        owner = await owner.as_it_stands()
        lease = await self._stage.witness.lease_of(owner.session)
        revoked_at = now()
        await self._stage.store.revoke(lease)
        self._timeline.tell("etcd", f"lease {lease:x} revoked: A's session is gone, its locks are not", at=revoked_at)
        async with within(self._stage.timing.stop_after_seconds + SLACK_SECONDS, "A joins anew and keeps its locks"):
            joined = await self._stage.witness.rewritten(owner.stored)
        record = joined.what.record
        require(record.owner.host == owner.host.name, f"the locks went to {record.owner}")
        require(joined.what.token == owner.token, f"the token changed from {owner.token} to {joined.what.token}")
        require(record.pid == owner.guest.pid, "the lock names another process than before")
        async with within(SLACK_SECONDS, "A's guest writes on after its session was revoked"):
            await owner.written(RECORDS_AFTER_REJOIN, after=joined.at)
        self._require_sole_writer(owner, since=revoked_at)
        self._note_rejoined(owner, revoked_at=revoked_at, joined_at=joined.at)
        await self._leave_line(waiting)

    def _note_rejoined(self, owner: Owner, /, *, revoked_at: float, joined_at: float) -> None:
        meanwhile = [record for record in owner.records() if record.before_at >= revoked_at - 1.0]
        self._figures.rejoined_after_ms = milliseconds(joined_at - revoked_at)
        self._figures.longest_pause_while_rejoining_ms = milliseconds(checker.longest_pause_seconds(meanwhile))
        self._timeline.tell(
            "A",
            f"joined anew after {self._figures.rejoined_after_ms:,} ms, locks kept; its guest is the same "
            f"(pid {owner.guest.pid}, token {owner.token}) and wrote on",
            at=joined_at,
        )

    async def _leave_line(self, waiting: Run, /) -> None:
        waiting.ask_to_end()
        async with within(SLACK_SECONDS, "B leaves the line when asked to"):
            await waiting.ended()

    # --- 7: the disk -------------------------------------------------------------------------------------------------

    async def judge_disk(self, last: Owner, /) -> None:
        """Step 7: end in order, then judge."""
        self._timeline.begin("The guest is shut down; what is on the disk?")
        last.run.ask_to_end()
        async with within(SLACK_SECONDS, "A's guest ends when asked to"):
            status = await last.run.ended()
        require(status == 0, f"A's etcdlock run ended with {status}: {last.run.reason()}")
        left = await self._stage.witness.locks()
        require(not left, f"locks or sessions were left behind in etcd: {', '.join(left)}")
        self._timeline.tell("etcd", "every lock given back, no session left")
        report = self._stage.read_disk()
        owners = [tenure.who for tenure in report.tenures]
        self._figures.records, self._figures.owners = len(report.records), owners
        require(not report.faults, f"the disk has {len(report.faults)} faults: {'; '.join(report.faults[:3])}")
        require(len(owners) == 3, f"the disk had {len(owners)} owners instead of three: {', '.join(owners)}")
        self._timeline.tell(
            "disk",
            f"{len(report.records):,} records by {', then '.join(owners)}: no two owners overlapped, tokens only grew, "
            "no record is lost or torn",
        )

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _stand_in_line(self, host: Host, /) -> Run:
        run = await self._stage.start(host, wait_seconds=IN_LINE_SECONDS)
        with self._timeline.waiting(f"{host.name} asks etcd for the locks"):
            async with within(START_SECONDS, f"{host.name} waits in line"):
                is_waiting = await run.says("waiting")
        require(is_waiting, f"{host.name} does not wait in line; it said: {run.reason()}")
        self._timeline.tell(host.name, f"waits in line: etcdlock run --wait {IN_LINE_SECONDS:g}")
        return run

    async def _proof_of(self, dead: SessionRef, /, *, by: str) -> float:
        """Wait for the obituary; when it was there."""
        with self._timeline.waiting(f"{by} waits until {dead.host}'s silence is proof"):
            seconds = self._stage.timing.takeover_seconds + SLACK_SECONDS
            async with within(seconds, f"the end of {dead.host}'s session is proven"):
                proof = await self._stage.witness.obituary(dead)
        obituary = proof.what
        require(
            (obituary.proof, obituary.by) == (Proof.SILENCE, by),
            f"the proof of {dead.host}'s end is {obituary.proof}, by {obituary.by}; expected silence, by {by}",
        )
        said = f"{by} has proven the end of session {dead}: {obituary.proof}, {obituary.reason}"
        self._timeline.tell("etcd", said, at=proof.at)
        return proof.at

    async def _runs_on(self, host: Host, run: Run, /, *, after: Owner | None, seconds: float) -> Owner:
        """Wait until the host has the locks and its guest has written."""
        with self._timeline.waiting(f"{host.name} starts the guest"):
            async with within(seconds, f"{host.name} gets the locks and its guest writes"):
                owner = await Owner.become(self._stage, host, run, after=after)
        require(after is None or owner.token > after.token, f"the token did not grow: {owner.token}")
        grown = f" > {after.token}" if after else ""
        said = f"guest runs (pid {owner.guest.pid}), locks held, token {owner.token}{grown}"
        self._timeline.tell(host.name, said, at=owner.records()[0].before_at)
        return owner

    def _require_sole_writer(self, owner: Owner, /, *, since: float = 0.0) -> None:
        others = {r.who for r in self._stage.read_disk().records if r.before_at > since and r.token != owner.token}
        require(not others, f"{', '.join(sorted(others))} wrote to the disk of {owner.host.name}")
