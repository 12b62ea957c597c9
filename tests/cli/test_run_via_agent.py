"""Guests of `etcdlock run` that are the agent's: under its session, guarded by its guard, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.api.client import AgentClient
from etcdlock.errors import InvalidInput, Refused
from etcdlock.escalation import Action
from etcdlock.model import DomainId, Owner, SessionKind
from etcdlock.survey import Survey
from tests.cli.hosts import DEADLINE_SECONDS
from tests.cli.site import Site, lossy

VM = "6a2f7f9e-0000-4000-8000-000000000001"


def kinds(survey: Survey) -> list[SessionKind]:
    return [view.record.kind for view in survey.sessions if view.record]


def test_a_guest_of_run_is_the_agents_with_one_session_and_others_are_refused(site: Site) -> None:
    script = "echo $ETCDLOCK_TOKEN; exec sleep 300"
    guest = site.run("--domain-uuid", VM, "--name", "vm1", "--disk", "/san/x", script=script)
    survey = site.cluster.survey()
    lock = survey.lock_of(UUID(VM))
    assert lock is not None
    assert kinds(survey) == [SessionKind.AGENT]
    assert int(guest.line()) == lock.stored.token
    assert [item["pid"] for item in AgentClient(str(site.socket)).agent()["guests"]] == [lock.stored.record.pid]
    for refused in (
        site.do("run", "--disk", "/san/x", "--json", "--", "echo", "never"),
        site.cluster.do("run", "--disk", "/san/x", "--json", "--", "echo", "never", host="b"),
    ):
        document = refused.document()
        assert (refused.status, document["error"]) == (100, "HeldElsewhere")
        assert [(item["host"], item["token"]) for item in document["blockers"]] == [("a", lock.stored.token)]
    guest.send(signal.SIGTERM)
    assert guest.ended().status == 128 + signal.SIGTERM
    assert site.cluster.survey().locks == ()


def test_status_output_and_signals_of_a_guest_come_through_as_without_an_agent(site: Site) -> None:
    done = site.do("run", "--disk", "/san/x", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.status, done.out, done.err) == (7, "out\n", "err\n")
    script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    guest = site.run("--disk", "/san/x", script=script)
    assert guest.line() == "ready"
    guest.send(signal.SIGUSR1)
    done = guest.ended()
    assert (done.status, done.out) == (9, "caught\n")
    killed = site.do("run", "--disk", "/san/x", "--", "sh", "-c", "kill -9 $$")
    assert (killed.status, killed.err) == (128 + signal.SIGKILL, "")  # by somebody else, which the agent knows
    unfit = [site.do("run", "--disk", "/san/x", "--", word).status for word in ("no-such-command", "/dev/null")]
    assert unfit == [127, 126]
    assert site.cluster.survey().locks == ()


def test_who_waits_gets_the_lock_once_its_holder_ends_and_a_signal_ends_the_waiting(site: Site) -> None:
    first = site.cluster.guest("--disk", "/san/x", host="b")
    wait = ("run", "--wait", "60", "--log-level", "info", "--disk", "/san/x", "--", "echo", "mine")
    given_up, second = (site.cluster.start(*wait, **site.settings) for _ in range(2))
    for waiting in (given_up, second):
        waiting.says(" waiting ")
    given_up.send(signal.SIGTERM)
    assert given_up.ended().status == 128 + signal.SIGTERM
    first.send(signal.SIGTERM)
    first.ended()
    done = second.ended()
    assert (done.status, done.out) == (0, "mine\n")
    assert site.cluster.survey().locks == ()


@pytest.mark.parametrize("agents", [1, 2])
def test_locks_stay_until_the_last_process_of_the_guest_is_gone_even_if_run_is_killed(
    site: Site, tmp_path: Path, agents: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"(trap '' HUP; setsid cat {gate} >/dev/null 2>&1 </dev/null &) ; echo started; exec sleep 300"
    guest = site.run("--domain-uuid", VM, script=script)
    assert guest.line() == "started"
    for _ in range(agents - 1):
        site.kill_agent()
        site.start_agent()
    with gate.open("wb"):  # it has this open on the other side: it lives
        guest.send(signal.SIGKILL)
        guest.ended()
        again = site.do("run", "--domain-uuid", VM, "--", "echo", "never", ETCDLOCK_ANSWER_SECONDS="0.5")
        assert (again.status != 0, again.out) == (True, "")
        assert site.cluster.survey().lock_of(UUID(VM)) is not None
    site.cluster.until(lambda survey: survey.lock_of(UUID(VM)) is None)


def test_a_guest_and_its_lock_outlive_the_agent_and_the_next_one_gives_it_back(site: Site) -> None:
    guest = site.run("--domain-uuid", VM, "--disk", "/san/x")
    before = site.cluster.survey().lock_of(UUID(VM))
    site.kill_agent()
    refused = site.cluster.do("run", "--disk", "/san/x", "--", "echo", "never", host="b")
    site.start_agent()
    after = site.cluster.survey().lock_of(UUID(VM))
    assert before is not None
    assert after is not None
    assert (refused.status, refused.out, guest.process.poll()) == (100, "", None)
    assert (after.stored.token, after.stored.record.pid) == (before.stored.token, before.stored.record.pid)
    guest.send(signal.SIGTERM)
    done = guest.ended()
    assert (done.status, done.err) == (128 + signal.SIGTERM, "")
    assert site.cluster.survey().locks == ()


def test_a_guest_whose_agent_stays_dead_is_stopped_by_the_guard_and_run_says_that_the_session_was_lost(
    quick_site: Site,
) -> None:
    guest = quick_site.run("--domain-uuid", VM, "--name", "vm1")
    quick_site.kill_agent()
    done = guest.ended()
    assert (done.status, "vm1 was stopped" in done.err, "not given back yet" in done.err) == (103, True, True)
    quick_site.start_agent()
    quick_site.cluster.until(lambda survey: survey.lock_of(UUID(VM)) is None)


def test_a_guest_that_is_killed_while_no_agent_runs_is_not_said_to_have_been_stopped(site: Site) -> None:
    guest = site.run("--domain-uuid", VM, script="echo $$; exec sleep 300")
    pid = int(guest.line())
    site.kill_agent()
    os.kill(pid, signal.SIGKILL)
    done = guest.ended()
    assert (done.status, "nobody can tell" in done.err) == (128 + signal.SIGKILL, True)
    site.start_agent()
    site.cluster.until(lambda survey: survey.lock_of(UUID(VM)) is None)


def test_a_guest_that_chooses_to_be_frozen_is_the_agents_all_the_same(quick_site: Site) -> None:
    guest = quick_site.run(
        "--domain-uuid", VM, "--on-session-lost", "freeze", script="echo $$; exec sleep 300"
    )
    pid = int(guest.line())
    assert kinds(quick_site.cluster.survey()) == [SessionKind.AGENT]
    agent = quick_site.agents[0]
    agent.send(signal.SIGSTOP)
    try:
        _until(lambda: _state(pid) == "T")
    finally:
        agent.send(signal.SIGCONT)
    agent.says("guest_goes_on")
    _until(lambda: _state(pid) == "S")
    guest.send(signal.SIGTERM)
    assert guest.ended().status == 128 + signal.SIGTERM


def test_a_choice_that_the_host_cannot_keep_is_refused_and_one_that_was_made_stands(site: Site) -> None:
    client, owner = AgentClient(str(site.socket)), Owner(DomainId(UUID(VM), "vm1"), os.getpid())
    with pytest.raises(InvalidInput, match="this host knows no command"):
        client.acquire(owner, (), on_session_lost=Action.COMMAND)
    guest = site.run("--domain-uuid", VM, "--on-session-lost", "freeze", script="echo $$; exec sleep 300")
    its = Owner(DomainId(UUID(VM), ""), int(guest.line()))
    client.acquire(its, (), on_session_lost=Action.FREEZE)
    with pytest.raises(Refused, match="with freeze at a lost session and not kill"):
        client.acquire(its, (), on_session_lost=Action.KILL)
    guest.send(signal.SIGTERM)
    guest.ended()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def test_a_guest_that_the_guard_stops_beside_a_frozen_agent_is_said_to_be_stopped_once_it_goes_on(
    quick_site: Site,
) -> None:
    guest = quick_site.run("--domain-uuid", VM)
    agent = quick_site.agents[0]
    agent.send(signal.SIGSTOP)
    try:
        quick_site.cluster.until(lambda survey: not kinds(survey))
    finally:
        agent.send(signal.SIGCONT)
    done = guest.ended()
    assert (done.status, "was stopped" in done.err) == (103, True)
    quick_site.cluster.until(lambda survey: survey.lock_of(UUID(VM)) is None)


def test_a_yes_that_is_lost_is_asked_for_again_and_the_guest_runs_once(site: Site) -> None:
    with lossy(site, losses=2) as settings:
        done = site.do("run", "--domain-uuid", VM, "--", "echo", "runs", **settings)
    assert (done.status, done.out) == (0, "runs\n")
    assert site.cluster.survey().locks == ()


def test_a_guest_whose_yes_never_arrives_never_runs_and_leaves_no_lock(site: Site) -> None:
    with lossy(site, losses=1000) as settings:
        done = site.do(
            "run", "--domain-uuid", VM, "--", "echo", "never", **settings | {"ETCDLOCK_ANSWER_SECONDS": "1.5"}
        )
    assert (done.status, done.out, "answer was lost" in done.err) == (102, "", True)
    assert "acquired" in site.agents[0].err  # it had been locked
    assert site.cluster.survey().locks == ()
