"""`etcdlock fence`, and the agent that fences by itself, with real fence agents and real hosts that they kill."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etcdlock.model import FencingState, Proof
from etcdlock.survey import Standing
from tests.cli.hosts import Cluster, Running, children, kill_host
from tests.cli.site import Site, on_host

VM = "6a2f7f9e-0000-4000-8000-000000000001"
SECRET = "not for anybody's eyes"  # noqa: S105 - it is to be found nowhere

POWER = """#!{python}
import os, signal, sys
given = dict(line.rstrip("\\n").split("=", 1) for line in sys.stdin)
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "called"), "a").close()
print("the password is", given.get("password"))
pids = [int(word) for word in open(given["plug"]).read().split()]
if given["action"] == "off":
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    sys.exit({off})
if given["action"] != "status":
    sys.exit(1)
def lives(pid):
    try:
        return open(f"/proc/{{pid}}/stat").read().rsplit(")")[1].split()[0] not in "ZX"
    except OSError:
        return False
sys.exit(0 if any(map(lives, pids)) else 2)
"""
"""A fence agent by the convention: its plug is a file that names the processes of a host."""


def fence_agent(folder: Path, text: str = POWER, *, off: int = 0) -> Path:
    path = folder / "fence_pids"
    path.write_text(text.format(python=sys.executable, off=off), encoding="utf-8")
    path.chmod(0o755)
    return path


def configured(folder: Path, agent: Path | str, *, more: str = "", **options: str) -> str:
    """A file of settings with a table for host b."""
    (folder / "secret").write_text(f"{SECRET}\n", encoding="utf-8")
    file = folder / "etcdlock.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in options.items())
    file.write_text(
        f'{more}\n[fence.b]\nagent = "{agent}"\nsecrets = {{ password = "{folder}/secret" }}\n'
        f"[fence.b.options]\n{lines}",
        encoding="utf-8",
    )
    return str(file)


@contextmanager
def proofs_may_stay(cluster: Cluster, host: str) -> Iterator[None]:
    yield
    survey = cluster.survey()
    cluster.may_stay |= {cluster.keys.obituary(item.dead) for item in survey.obituaries if item.dead.host == host}
    cluster.may_stay.add(cluster.keys.fencing(host))


def dead_host(cluster: Cluster) -> None:
    guest = cluster.guest("--domain-uuid", VM, "--name", "vm1", host="b", script="echo $$; exec sleep 300")
    kill_host(guest, guests=[int(guest.line())])
    cluster.revoke_sessions("b")


def test_a_real_fence_agent_is_told_off_and_asked_and_its_word_is_the_proof(cluster: Cluster, tmp_path: Path) -> None:
    if not (dummy := shutil.which("fence_dummy", path="/usr/sbin:/sbin")):
        pytest.skip("needs fence-agents: make system-deps")
    status = tmp_path / "status"
    status.write_text("on", encoding="utf-8")
    config = configured(tmp_path, dummy, status_file=str(status), ip="10.0.0.7")
    dead_host(cluster)
    with proofs_may_stay(cluster, "b"):
        checked = cluster.do("fence", "b", "--check", ETCDLOCK_CONFIG=config)
        assert (checked.status, checked.out) == (0, "fence_dummy (ip 10.0.0.7): power is on\n")
        assert cluster.survey().obituaries == ()
        done = cluster.do("fence", "b", "--by", "me", "--reason", "it burns", "--json", ETCDLOCK_CONFIG=config)
        assert (done.status, status.read_text(encoding="utf-8")) == (0, "off")
        (obituary,) = done.document()["obituaries"]
        assert (obituary["proof"], obituary["by"]) == (Proof.FENCE_AGENT, "me on a")
        assert obituary["reason"] == "it burns; fence_dummy (ip 10.0.0.7) confirmed off"
        assert [domain["name"] for domain in done.document()["freed"]] == ["vm1"]
        shown = cluster.do("hosts", COLUMNS="200")
        assert "b: off, " in shown.out
        assert "by me on a (it burns): fence_dummy (ip 10.0.0.7) confirmed off" in shown.out
        assert cluster.do("run", "--domain-uuid", VM, "--", "true").status == 0


def test_an_agent_that_fails_proves_nothing_and_its_secret_is_in_no_record(cluster: Cluster, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.write_text(str(os.getpid()), encoding="utf-8")  # whoever lives on
    refuses = POWER.replace("os.kill(pid, signal.SIGKILL)", "pass")
    config = configured(tmp_path, fence_agent(tmp_path, refuses, off=1), plug=str(pids))
    dead_host(cluster)
    (dead,) = (view.ref for view in cluster.survey().sessions)
    cluster.may_stay |= {cluster.keys.obituary(dead), cluster.keys.fencing("b")}
    failed = cluster.do("fence", "b", "--log-level", "debug", ETCDLOCK_CONFIG=config)
    assert (failed.status, "power is on: " in failed.err, "the password is ****" in failed.err) == (102, True, True)
    assert cluster.survey().obituaries == ()
    assert SECRET not in failed.err + failed.out
    assert all(SECRET.encode() not in item.value for item in cluster.found())
    assert cluster.do("run", "--domain-uuid", VM, "--", "true").status == 100
    assert cluster.do("break", "b", "--confirmed-by", "me", "--reason", "looked").status == 0
    assert cluster.do("run", "--domain-uuid", VM, "--", "true").status == 0


def test_a_host_that_lives_and_bad_orders_are_refused(quick_cluster: Cluster, tmp_path: Path) -> None:
    cluster = quick_cluster
    pids = tmp_path / "pids"
    config = configured(tmp_path, fence_agent(tmp_path), plug=str(pids))
    guest = cluster.guest("--domain-uuid", VM, host="b")
    alive = cluster.do("fence", "b", ETCDLOCK_CONFIG=config)
    assert (alive.status, "still has its key" in alive.err) == (104, True)
    hasty = cluster.do("fence", "b", "--force", ETCDLOCK_CONFIG=config)
    assert (hasty.status, "--force needs --reason" in hasty.err) == (2, True)
    itself = cluster.do("fence", "b", "--force", "--reason", "x", host="b", ETCDLOCK_CONFIG=config)
    assert (itself.status, "this very host" in itself.err) == (104, True)
    unset = cluster.do("fence", "c", ETCDLOCK_CONFIG=config)
    assert (unset.status, "no table [fence.c]" in unset.err) == (2, True)
    assert not (tmp_path / "called").exists()
    pids.write_text(" ".join(map(str, family(guest))), encoding="utf-8")
    with proofs_may_stay(cluster, "b"):
        forced = cluster.do("fence", "b", "--force", "--reason", "it hangs", ETCDLOCK_CONFIG=config)
        assert forced.status == 0, forced.err
        assert "fence agent" in forced.out
        assert cluster.do("run", "--domain-uuid", VM, "--", "true").status == 0


def family(*running: Running) -> list[int]:
    """A host's processes."""
    return [pid for one in running for pid in (one.process.pid, *children(one.process.pid))]


def test_an_agent_switches_off_a_host_that_hangs_and_only_then_its_guest_runs_elsewhere(
    quick_cluster: Cluster, tmp_path: Path
) -> None:
    """Everything of host b stands still at once, as in a paused machine: it could go on at any time."""
    cluster, pids = quick_cluster, tmp_path / "pids"
    needs = {"ETCDLOCK_TAKEOVER_NEEDS": "fence"}
    more = 'fencing = "automatic"\nfence_after_seconds = 1\n'
    config = configured(tmp_path, fence_agent(tmp_path), more=more, plug=str(pids))
    (tmp_path / "b").mkdir()
    on_b = on_host(tmp_path / "b") | needs
    agent = cluster.start("agent", host="b", **on_b)
    agent.says("agent_ready")
    guest = cluster.guest("--domain-uuid", VM, "--via", "agent", host="b", script="echo $$; exec sleep 300", **on_b)
    victim = int(guest.line())
    pids.write_text(" ".join(map(str, {*family(agent, guest), victim})), encoding="utf-8")
    site = Site(cluster, tmp_path)
    site.start_agent(**needs, ETCDLOCK_CONFIG=config)
    for pid in map(int, pids.read_text(encoding="utf-8").split()):
        os.kill(pid, signal.SIGSTOP)
    with proofs_may_stay(cluster, "b"):
        taken = site.do("run", "--domain-uuid", VM, "--wait", "30", "--via", "own", "--",
                        "sh", "-c", f"! grep -q . /proc/{victim}/cmdline", **needs)  # fmt: skip
        assert taken.status == 0, taken.err
        survey = cluster.survey()
        (obituary,) = (item for item in survey.obituaries if item.dead.host == "b")
        assert (obituary.proof, obituary.by) == (Proof.FENCE_AGENT, "a")
        assert "fence_pids (plug " in obituary.reason
        (attempt,) = survey.fencings
        assert (attempt.record.state, attempt.record.attempt) == (FencingState.OFF, 1)
        site.agents[0].says("fenced")
    assert all(view.standing is not Standing.ALIVE for view in survey.sessions if view.ref.host == "b")
    for one in (agent, guest):
        one.ended()
    site.end()
