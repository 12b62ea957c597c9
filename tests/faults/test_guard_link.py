"""The line to a real guard: what it takes in, what it refuses, and what becomes known of its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from etcdlock.adapters.guardlink import GuardLink
from etcdlock.adapters.host_processes import FoundGuest, HostProcesses
from etcdlock.adapters.processes import LocalGuest, LocalGuests
from etcdlock.errors import GuardLost, SessionLost
from etcdlock.escalation import KILLED
from etcdlock.guard import table, wire
from etcdlock.testing.guests import FakeGuest
from tests.faults.guarding import BUDGET_SECONDS, CLOCK, SLACK_SECONDS, comes_true, ends, limits, raw_guard, run


class Scene:
    """A guest under a guard, both ours."""

    def __init__(self, link: GuardLink, guest: LocalGuest) -> None:
        self.link = link
        self.guest = guest


async def scene(*, budget_seconds: float = BUDGET_SECONDS) -> Scene:
    link = await GuardLink.start(limits=limits(budget_seconds))
    return Scene(link, await LocalGuests().start(["sleep", "300"], environment={}))


async def end(what: Scene) -> None:
    what.guest.kill()
    await what.guest.gone()
    await what.link.close()


def test_a_proof_moves_the_deadline() -> None:
    async def scenario() -> float:
        on = await scene()
        begun = CLOCK.now()
        await on.link.prove("s", at=begun)
        await on.link.arm(on.guest, session="s")
        on.guest.open_gate(token=1)
        await CLOCK.sleep(BUDGET_SECONDS / 2)
        await on.link.prove("s", at=CLOCK.now())
        assert (await on.guest.gone()).signal == signal.SIGKILL
        lived = CLOCK.now() - begun
        await end(on)
        return lived

    assert BUDGET_SECONDS * 1.5 <= run(scenario()) < BUDGET_SECONDS * 1.5 + SLACK_SECONDS


def test_a_disarmed_guest_outlives_the_deadline() -> None:
    async def scenario() -> None:
        on = await scene(budget_seconds=0.3)
        await on.link.prove("s", at=CLOCK.now())
        await on.link.arm(on.guest, session="s")
        await on.link.disarm(on.guest)
        await CLOCK.sleep(0.6)
        assert not ends(on.guest.pidfd, within_seconds=0)
        await end(on)

    run(scenario())


def test_a_guest_is_not_taken_in_under_a_session_that_is_not_proven() -> None:
    async def scenario() -> None:
        on = await scene()
        with pytest.raises(SessionLost, match="never proven"):
            await on.link.arm(on.guest, session="s")
        await on.link.prove("s", at=CLOCK.now() - 2 * BUDGET_SECONDS)
        with pytest.raises(SessionLost, match=r"never proven|not proven any more"):
            await on.link.arm(on.guest, session="s")
        await end(on)

    run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_who_is_cancelled_as_the_answer_comes_is_cancelled(turns: int) -> None:
    """A keeper that took the answer instead would go on for ever: its program waits for its end."""

    async def scenario() -> None:
        link = await GuardLink.start(limits=limits(BUDGET_SECONDS))
        proof = asyncio.ensure_future(link.prove("s", at=CLOCK.now()))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the answer is there before anybody looks
        for _ in range(turns):
            await asyncio.sleep(0)
        had_ended = proof.done()
        proof.cancel()
        await asyncio.wait((proof,))
        assert proof.cancelled() is not had_ended
        await link.close()

    run(scenario())


def test_a_guard_that_does_not_answer_to_the_end_of_its_program_stays_with_the_guests() -> None:
    """It may only have been held up."""

    async def scenario(guest: FoundGuest) -> None:
        link = await GuardLink.start(limits=limits(BUDGET_SECONDS))
        await link.prove("s", at=CLOCK.now())
        await link.arm(guest, session="s")
        os.kill(link.pid, signal.SIGSTOP)
        await link.close()
        os.kill(link.pid, signal.SIGCONT)
        await guest.gone()

    with subprocess.Popen(["sleep", "300"]) as running:
        try:
            run(scenario(HostProcesses().attach(running.pid)))
        finally:
            running.kill()


def test_a_program_that_was_held_up_itself_does_not_take_its_guard_for_dead() -> None:
    async def scenario() -> None:
        link = await GuardLink.start(limits=limits(BUDGET_SECONDS))
        proofs = [asyncio.ensure_future(link.prove("s", at=CLOCK.now())) for _ in range(20)]
        await asyncio.sleep(0)
        time.sleep(1.2)  # noqa: ASYNC251 - longer than an answer may take
        await asyncio.gather(*proofs)
        await link.close()

    run(scenario())


def test_hundreds_of_guests_are_taken_in_at_the_same_moment() -> None:
    """As when a host's session has been lost, or its agent was started anew."""

    async def scenario(guests: list[FoundGuest]) -> None:
        link = await GuardLink.start(limits=limits(10 * BUDGET_SECONDS))
        await link.prove("s", at=CLOCK.now())
        await asyncio.gather(*(link.arm(guest, session="s") for guest in guests), link.prove("s", at=CLOCK.now()))
        await asyncio.gather(*(link.disarm(guest) for guest in guests))
        await link.close()

    with ExitStack() as undo:
        running = [undo.enter_context(subprocess.Popen(["sleep", "300"])) for _ in range(400)]
        for process in running:
            undo.callback(process.kill)
        run(scenario([HostProcesses().attach(process.pid) for process in running]))


def test_a_guard_that_was_killed_is_noticed_and_answers_no_more() -> None:
    async def scenario() -> None:
        on = await scene()
        os.kill(on.link.pid, signal.SIGKILL)
        await on.link.died()
        with pytest.raises(GuardLost):
            await on.link.prove("s", at=CLOCK.now())
        await end(on)

    run(scenario())


def test_a_guard_that_hangs_is_as_good_as_none() -> None:
    async def scenario() -> None:
        on = await scene()
        os.kill(on.link.pid, signal.SIGSTOP)
        with pytest.raises(GuardLost):
            await on.link.prove("s", at=CLOCK.now())
        os.kill(on.link.pid, signal.SIGKILL)
        await end(on)

    run(scenario())


def test_a_guard_that_hangs_when_it_is_closed_has_ended_all_the_same() -> None:
    async def scenario() -> int:
        link = await GuardLink.start(limits=limits(1.0))
        os.kill(link.pid, signal.SIGSTOP)
        await link.close()
        return link.pid

    assert table.look_up(run(scenario())) is None


def test_a_guest_without_a_descriptor_is_not_taken_in() -> None:
    """As when the guard may hold no more of them."""
    answers = []
    with raw_guard() as (link, _):
        for words in ((wire.PROVE, 1, CLOCK.now(), "s"), (wire.ARM, 2, "1:1", wire.pack_charge("s", KILLED))):
            link.send(wire.pack(*words))
            answers.append(link.recv(4096))
    assert answers == [b"done 1", b"refused 2 no descriptor could be had for the guest"]


def test_the_guard_hears_no_signal_of_its_parents_terminal() -> None:
    async def scenario() -> None:
        link = await GuardLink.start(limits=limits(1.0))
        assert os.getsid(link.pid) == link.pid
        await link.close()

    run(scenario())


def test_a_closed_guard_has_ended() -> None:
    async def scenario() -> int:
        link = await GuardLink.start(limits=limits(1.0))
        await link.close()
        return link.pid

    assert table.look_up(run(scenario())) is None


def impostor(stranger: subprocess.Popen[bytes]) -> FakeGuest:
    """A guest whose process ended, and whose pid and group are now a stranger's."""
    process = table.look_up(stranger.pid)
    assert process is not None
    ended = subprocess.Popen(["true"])
    guest = FakeGuest(["true"], environment={}, pid=stranger.pid, life_seconds=None, death_seconds=0.0)
    guest.pid_start, guest.pidfd = process.name.start - 1, os.pidfd_open(ended.pid)
    ended.wait()
    return guest


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], process_group=0)
    yield process
    process.kill()
    process.wait()


def test_a_stranger_who_got_the_guests_number_is_not_hit(stranger: subprocess.Popen[bytes]) -> None:
    async def scenario(left: subprocess.Popen[bytes]) -> None:
        link = await GuardLink.start(limits=limits(0.5))
        guest = impostor(stranger)
        await link.prove("s", at=CLOCK.now())
        await link.arm(guest, session="s")
        assert await asyncio.to_thread(comes_true, lambda: left.poll() is not None)
        os.close(guest.pidfd)
        await link.close()

    process = table.look_up(stranger.pid)
    assert process is not None
    marked = {**os.environ, table.MARK: f"{stranger.pid}:{process.name.start - 1}"}
    with subprocess.Popen(["sleep", "300"], env=marked, process_group=0) as left:      # or nobody would be struck
        run(scenario(left))
    assert stranger.poll() is None
