"""`etcdlock events` beside a real agent."""

from __future__ import annotations

import json
import signal

from tests.cli.hosts import Cluster
from tests.cli.site import Site


def test_what_has_happened_and_what_happens_is_told_a_line_each_until_the_agent_ends(site: Site) -> None:
    told = site.cluster.start("events", "--kept", "--json", **site.settings)
    first = json.loads(told.line())
    assert (first["event"], first["level"], first["id"].endswith("-1")) != ("dropped", None, False)
    seen = [first]
    while seen[-1]["event"] != "agent_ready":
        seen.append(json.loads(told.line()))
    guest = site.run("--name", "vm1", "--disk", "/san/x")
    while seen[-1]["event"] != "acquired":
        seen.append(json.loads(told.line()))
    assert seen[-1]["fields"]["domain"] == "vm1"
    assert [int(item["id"].rpartition("-")[2]) for item in seen] == list(range(1, len(seen) + 1))
    guest.send(signal.SIGTERM)
    guest.ended()
    agent = site.agents.pop()
    agent.send(signal.SIGTERM)
    assert agent.ended().status == 0
    assert told.ended().status == 0


def test_without_an_agent_nobody_can_tell(cluster: Cluster) -> None:
    done = cluster.do("events")
    assert (done.status, "no agent answers" in done.err) == (101, True)
