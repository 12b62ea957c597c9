"""Disks held by `etcdlock reserve` on real hosts, under the agent and without one."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.gated import is_gated
from etcdlock.guard import table
from tests.cli.hosts import Cluster, Running
from tests.cli.site import Site

WAYS = ("agent", "own")


def xml(folder: Path, *disks: str) -> str:
    file = folder / "vm1.xml"
    elements = "".join(
        f"<disk type='file'><source file='{path}'/><target dev='vd{n}'/></disk>" for n, path in enumerate(disks)
    )
    file.write_text(
        f"<domain><name>vm1</name><uuid>{uuid4()}</uuid><devices>{elements}</devices></domain>", encoding="utf-8"
    )
    return str(file)


def modes(cluster: Cluster) -> dict[str, str]:
    return {item.path: str(item.mode) for lock in cluster.survey().locks for item in lock.stored.record.resources}


@pytest.mark.parametrize("way", WAYS)
def test_a_command_runs_under_whole_domains_and_single_disks_and_all_is_given_back(
    site: Site, tmp_path: Path, way: str
) -> None:
    what = ("--domain", f"{xml(tmp_path, '/san/1', '/san/2')}:readonly", "--disk", "/san/x", "--disk", "/san/y:shared")
    script = "echo $ETCDLOCK_TOKEN; read line; exit 7"
    held = site.cluster.start_reading("reserve", "--via", way, *what, "--", "sh", "-c", script, **site.settings)
    token = int(held.line())
    (lock,) = site.cluster.survey().locks
    assert (lock.stored.token, lock.stored.record.domain.name) == (token, "reserved for sh")
    assert modes(site.cluster) == {
        "/san/1": "shared", "/san/2": "shared", "/san/x": "exclusive", "/san/y": "shared"
    }  # fmt: skip
    process = table.look_up(lock.stored.record.pid)
    assert process is not None
    assert is_gated(process)  # an agent that comes later knows it for one whose every process counts
    refused = site.cluster.do("run", "--disk", "/san/1", "--", "echo", "never", host="b")
    assert (refused.status, refused.out, "reserved for sh" in refused.err) == (100, "", True)
    assert held.process.stdin is not None
    held.process.stdin.write(b"go\n")
    assert held.ended().status == 7
    assert site.cluster.survey().locks == ()


def held_open(site: Site, way: str) -> Running:
    """One that waits for the end of its input, and has said what it holds."""
    words = ("reserve", "--json", "--via", way, "--disk", "/san/x", "--name", "a look")
    held = site.cluster.start_reading(*words, **site.settings)
    lines: list[str] = []
    while lines[-1:] != ["}"]:
        lines.append(held.line())
    said = json.loads("".join(lines))
    (lock,) = site.cluster.survey().locks
    assert said["token"] == lock.stored.token
    assert said["reservation"] == {"uuid": str(lock.stored.record.domain.uuid), "name": "a look"}
    assert [item["path"] for item in said["resources"]] == ["/san/x"]
    return held


@pytest.mark.parametrize("way", WAYS)
def test_without_a_command_disks_are_held_until_input_ends_or_a_signal_comes(site: Site, way: str) -> None:
    held = held_open(site, way)
    refused = site.do("reserve", "--via", way, "--disk", "/san/x")
    assert (refused.status, refused.out, "held by domain a look" in refused.err) == (100, "", True)
    assert held.process.stdin is not None
    held.process.stdin.close()
    held.process.stdin = None
    assert held.ended().status == 0
    assert site.cluster.survey().locks == ()
    held = held_open(site, way)
    held.send(signal.SIGTERM)
    assert held.ended().status == 0
    assert site.cluster.survey().locks == ()


def test_a_reservation_of_the_agents_ends_with_the_program_that_holds_it(site: Site) -> None:
    held = held_open(site, "agent")
    held.process.kill()
    held.process.wait()
    site.cluster.until(lambda survey: not survey.locks)


def test_a_reserved_command_is_stopped_like_a_guest(quick_site: Site) -> None:
    held = quick_site.cluster.start("reserve", "--disk", "/san/x", "--", "sh", "-c", "echo runs; exec sleep 300",
                                    **quick_site.settings)  # fmt: skip
    assert held.line() == "runs"
    quick_site.kill_agent()
    done = held.ended()
    assert (done.status, "was stopped" in done.err) == (103, True)
    quick_site.start_agent()
    quick_site.cluster.until(lambda survey: not survey.locks)
