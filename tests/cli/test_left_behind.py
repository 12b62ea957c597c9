"""What lives on of a guest whose first process ended while no agent ran, through a whole change of agents.

The guests' deadline is minutes away, so that how long a loaded machine takes to start an agent decides nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from tests.cli.hosts import Cluster
from tests.cli.site import Site

VM = "6a2f7f9e-0000-4000-8000-000000000001"
FAR_OFF_SECONDS = 250.0
OUTLIVES_THE_CHANGE, ENDS_MEANWHILE = 120, 3


@pytest.fixture(params=[OUTLIVES_THE_CHANGE, ENDS_MEANWHILE], ids=["session stands", "session is gone"])
def site(request: pytest.FixtureRequest, etcd: EmbeddedEtcd, tmp_path: Path) -> Iterator[Site]:
    timing = {"ttl_seconds": request.param, "hold_off_seconds": FAR_OFF_SECONDS}
    timing |= {"renew_every_seconds": 0.7, "try_timeout_seconds": 0.7, "kill_seconds": 1.0}
    cluster = Cluster(etcd.endpoints[0], f"test-{uuid4().hex[:12]}", tmp_path, timing=timing)
    site = Site(cluster, tmp_path)
    site.start_agent()
    yield site
    site.end()
    cluster.close()


def test_what_lives_on_of_a_guest_whose_first_process_ended_while_no_agent_ran_keeps_its_locks(
    site: Site, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    child = f"(trap '' HUP; setsid cat {gate} >/dev/null 2>&1 </dev/null &)"
    guest = site.run("--domain-uuid", VM, script=f"{child}; echo started; exec sleep 300")
    assert guest.line() == "started"
    with gate.open("wb"):   # it is open for as long as the child lives
        site.kill_agent()
        lock = site.cluster.survey().lock_of(UUID(VM))
        assert lock is not None
        os.kill(lock.stored.record.pid, signal.SIGKILL)
        guest.send(signal.SIGKILL)
        guest.ended()
        if site.cluster.timing["ttl_seconds"] == ENDS_MEANWHILE:
            site.cluster.until(lambda survey: not any(session.record for session in survey.sessions))
        agent = site.start_agent()
        agent.says(" adopted domain=")
        refused = site.cluster.do("run", "--domain-uuid", VM, "--", "echo", "never", host="b")
        assert (refused.status, refused.out) == (100, ""), agent.err
        held = site.cluster.survey().lock_of(UUID(VM))
        assert held is not None, agent.err
        assert held.stored.record.token in (lock.stored.record.token, lock.stored.mod_revision), "it is the same lock"
    site.cluster.until(lambda survey: survey.lock_of(UUID(VM)) is None)
