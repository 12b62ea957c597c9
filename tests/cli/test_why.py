"""`etcdlock why` after what really happened: an agent killed, a takeover, etcd away; from here and from elsewhere."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.model import Proof
from tests.cli.hosts import DEADLINE_SECONDS, SHORT_TIMING, Cluster, Done, kill_host
from tests.cli.site import Site

VM = "6a2f7f9e-0000-4000-8000-000000000001"
STOP_SECONDS = 2.9
"""After the last heartbeat, by the short timing."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of memory, as /run is: where a guard keeps its record."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def started(site: Site, memory: Path) -> None:
    site.settings["ETCDLOCK_RUN_FOLDER"] = str(memory)
    site.start_agent()


def names(told: Done | dict[str, Any]) -> list[str]:
    document = told.document() if isinstance(told, Done) else told
    return [event["event"] for event in document["events"]]


def event(told: Done, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in told.document()["events"] if item["event"] == name)
    return found


def test_a_guest_that_the_guard_stopped_after_its_agent_was_killed_and_who_took_over(
    quick_cluster: Cluster, tmp_path: Path, memory: Path
) -> None:
    cluster, site = quick_cluster, Site(quick_cluster, tmp_path)
    started(site, memory)
    guest = site.run("--domain-uuid", VM, "--name", "vm1", "--disk", "/san/x")
    token = cluster.survey().locks[0].stored.token
    (session,) = (view.ref for view in cluster.survey().sessions)
    site.kill_agent()
    guest.ended()
    told = site.do("why", "vm1", "--via", "own", "--json")
    strike = event(told, "guard_strikes")
    assert STOP_SECONDS <= strike["fields"]["proven_seconds_ago"] < STOP_SECONDS + 2.0
    assert strike["fields"]["session"] == session.session
    assert strike["meaning"] == "the guard killed it: its session had not been proven in time"
    assert names(told).index("acquired") < names(told).index("session_suspect") < names(told).index("guard_strikes")
    # Another host takes over, and knows the story from etcd alone.
    cluster.may_stay.add(cluster.keys.obituary(session))
    other = cluster.guest("--domain-uuid", VM, "--name", "vm1", "--wait", "30", host="b")
    there = cluster.do("why", "vm1", "--json", host="b")
    (lock,) = there.document()["locks"]
    (handover,) = lock["history"]
    assert (lock["host"], handover["host"], handover["token"], handover["why"]) == ("b", "a", token, Proof.SILENCE)
    assert lock["token"] > token
    shown = cluster.do("why", "vm1", host="b", COLUMNS="200")
    assert f"it was taken over from host a (session {session.session}, token {token}): silence, by b at " in shown.out
    assert "key missing for 4.5 s" in shown.out
    assert "session a/" in cluster.do("why", "a", host="b", COLUMNS="200").out
    assert cluster.do("why", "nobody", host="b").status == 2
    # The next agent takes the guard's record over, for good, and tells the same.
    site.start_agent()
    kept = (tmp_path / "state-a/record-a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in kept].count("guard_strikes") == 1
    through, own = ["--via", "agent"], ["--via", "own"]
    deadline = time.monotonic() + DEADLINE_SECONDS     # the agent that has just started still adds to its record
    while (both := [site.do("why", "vm1", *way, "--json").document() for way in (through, own)])[0] != both[1]:
        assert time.monotonic() < deadline, both
    assert names(both[0]).count("guard_strikes") == 1
    assert list(memory.glob("flight-*")) != []  # of the guard that lives
    other.send(signal.SIGTERM)
    other.ended()
    site.end()


def test_a_guest_that_was_stopped_because_etcd_was_away_and_that_is_told_without_etcd(
    tmp_path: Path, memory: Path
) -> None:
    with EmbeddedEtcd() as etcd:
        cluster = Cluster(etcd.endpoints[0], "outage", tmp_path, timing=SHORT_TIMING)
        site = Site(cluster, tmp_path)
        started(site, memory)
        guest = site.run("--domain-uuid", VM, "--name", "vm1")
        etcd.kill()
        guest.ended()
        site.agents[0].says("guest_gone")
        for way in ("own", "agent"):
            told = site.do("why", "vm1", "--via", way, "--json")
            assert told.status == 101, told.err
            document = told.document()
            assert document["etcd_error"]
            order = ["acquired", "heartbeat_failed", "session_suspect", "guest_gone"]
            assert [name for name in names(document) if name in order] == order
            assert {"guest_stopped", "guard_strikes"} & set(names(document))  # whoever was first
        site.kill_agent()
        for running in cluster.started:
            running.end()


def test_what_an_operator_has_said_of_a_host_is_told_with_what_may_be_taken_for_it(cluster: Cluster) -> None:
    guest = cluster.guest("--domain-uuid", VM, "--name", "vm1", host="b", script="echo $$; exec sleep 300")
    kill_host(guest, guests=[int(guest.line())])
    cluster.revoke_sessions("b")
    assert cluster.do("break", "b", "--confirmed-by", "me", "--reason", "it burnt").status == 0
    (dead,) = (item.dead for item in cluster.survey().obituaries)
    cluster.may_stay |= {cluster.keys.obituary(dead), cluster.keys.domain(UUID(VM))}
    told = cluster.do("why", "vm1", COLUMNS="200")
    assert told.status == 0
    assert "operator, by me at " in told.out
    assert "it burnt (an operator confirmed that it is off)" in told.out
    assert "is proven dead: operator, by me at " in cluster.do("why", "b", COLUMNS="200").out
