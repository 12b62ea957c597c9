"""`etcdlock run` in good order: locks held while the command runs, its status and signals passed through."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from uuid import uuid4

from etcdlock.config import FOR_GUESTS
from tests.cli.hosts import Cluster


def test_the_command_holds_its_locks_while_it_runs_and_none_afterwards(cluster: Cluster) -> None:
    uuid = uuid4()
    guest = cluster.guest("--domain-uuid", str(uuid), "--name", "vm1", "--disk", "/san/x", "--disk", "/san/y:shared")
    lock = cluster.survey().lock_of(uuid)
    assert lock is not None
    assert [str(resource) for resource in lock.stored.record.resources] == ["/san/x", "/san/y"]
    guest.send(signal.SIGTERM)
    assert guest.ended().status == 128 + signal.SIGTERM
    assert cluster.found() == ()


def test_the_commands_own_status_and_output_come_through_and_nothing_else_is_printed(cluster: Cluster) -> None:
    done = cluster.do("run", "--disk", "/san/x", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.status, done.out, done.err) == (7, "out\n", "err\n")


def test_a_signal_is_passed_on_and_the_command_decides_what_comes_of_it(cluster: Cluster) -> None:
    script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    guest = cluster.guest("--disk", "/san/x", script=script)
    assert guest.line() == "ready"
    guest.send(signal.SIGUSR1)
    done = guest.ended()
    assert (done.status, done.out) == (9, "caught\n")


def test_a_command_that_dies_of_a_signal_gives_128_and_its_number(cluster: Cluster) -> None:
    numbers = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
    runs = cluster.do_all(*(["run", "--disk", f"/san/{n}", "--", "sh", "-c", f"kill -{int(n)} $$"] for n in numbers))
    assert [done.status for done in runs] == [128 + number for number in numbers]


def test_the_command_finds_token_and_domain_in_its_environment_and_all_of_it_is_documented(cluster: Cluster) -> None:
    uuid = uuid4()
    done = cluster.do("run", "--domain-uuid", str(uuid), "--name", "vm1", "--disk", "/san/x", "--", "env", "-0")
    given = dict(line.split("=", 1) for line in done.out.split("\0") if "=" in line)
    ours = {name for name in given if name.startswith("ETCDLOCK_")} - cluster.environment("a", {}).keys()
    assert ours == {f"ETCDLOCK_{name}" for name in FOR_GUESTS}
    assert given["ETCDLOCK_DOMAIN_UUID"] == str(uuid)
    assert given["ETCDLOCK_DOMAIN_NAME"] == "vm1"
    assert int(given["ETCDLOCK_TOKEN"]) > 0
    page = Path(__file__).parents[2].joinpath("docs", "CLI.md").read_text(encoding="utf-8")
    assert [name for name in sorted(ours) if f"`{name}`" not in page] == []


def test_a_guest_may_itself_run_etcdlock(cluster: Cluster) -> None:
    inner = 'exec "$PYTHON" -m etcdlock run --disk /san/inner -- sh -c \'echo $ETCDLOCK_TOKEN; exit 5\''
    script = f"echo $ETCDLOCK_TOKEN; {inner}"
    done = cluster.do("run", "--disk", "/san/outer", "--", "sh", "-c", script, PYTHON=sys.executable)
    outer_token, inner_token = map(int, done.out.split())
    assert (done.status, done.err) == (5, "")
    assert inner_token > outer_token


def test_another_host_is_refused_with_who_holds_it_where_and_what_to_do(cluster: Cluster) -> None:
    uuid = uuid4()
    guest = cluster.guest("--domain-uuid", str(uuid), "--name", "vm1", "--disk", "/san/x")
    token = cluster.survey().locks[0].stored.token
    refused = cluster.do("run", "--disk", "/san/x", "--", "echo", "never", host="b")
    assert (refused.status, refused.out) == (100, "")
    assert "disk /san/x is held by domain vm1 on host a since " in refused.err
    assert f"(token {token}); host a is alive: stop or migrate vm1 there" in refused.err
    refused = cluster.do("run", "--domain-uuid", str(uuid), "--json", "--", "echo", "never", host="b")
    document = refused.document()
    assert (refused.status, document["error"]) == (100, "HeldElsewhere")
    assert [(item["host"], item["token"], item["alive"]) for item in document["blockers"]] == [("a", token, True)]
    guest.send(signal.SIGTERM)
    guest.ended()


def test_a_domain_without_a_name_is_called_by_its_uuid_once(cluster: Cluster) -> None:
    uuid = str(uuid4())
    guest = cluster.guest("--domain-uuid", uuid)
    refused = cluster.do("run", "--domain-uuid", uuid, "--", "true", host="b")
    assert (refused.status, refused.err.count(uuid)) == (100, 1)
    guest.send(signal.SIGTERM)
    guest.ended()


def test_shared_disks_are_shared_and_keep_out_who_wants_one_alone(cluster: Cluster) -> None:
    guest = cluster.guest("--disk", "/san/iso:shared")
    shared, alone = cluster.do_all(
        ["run", "--disk", "/san/iso:shared", "--", "true"], ["run", "--disk", "/san/iso", "--", "true"], host="b"
    )
    assert (shared.status, alone.status) == (0, 100)
    guest.send(signal.SIGTERM)
    guest.ended()


def test_who_waits_gets_the_lock_as_soon_as_its_holder_ends(cluster: Cluster) -> None:
    first = cluster.guest("--disk", "/san/x")
    waiting = ("run", "--wait", "30", "--log-level", "info", "--disk", "/san/x")
    second = cluster.start(*waiting, "--", "echo", "mine", host="b")
    second.says(" waiting ")
    first.send(signal.SIGTERM)
    assert first.ended().status == 128 + signal.SIGTERM
    done = second.ended()
    assert (done.status, done.out) == (0, "mine\n")


def test_who_waits_in_vain_is_refused_in_the_end_and_a_signal_ends_the_waiting(cluster: Cluster) -> None:
    guest = cluster.guest("--disk", "/san/x")
    patient = cluster.start("run", "--wait", "300", "--log-level", "info", "--disk", "/san/x", "--", "echo", host="b")
    refused = cluster.do("run", "--wait", "0.5", "--disk", "/san/x", "--", "echo", "never", host="c")
    assert (refused.status, refused.out) == (100, "")
    patient.says(" waiting ")
    patient.send(signal.SIGTERM)
    assert patient.ended().status == 128 + signal.SIGTERM
    assert [view.ref.host for view in cluster.survey().sessions] == ["a"]
    guest.send(signal.SIGTERM)
    guest.ended()


def test_a_command_that_does_not_exist_is_127_and_one_that_cannot_be_executed_126(
    cluster: Cluster, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("no program", encoding="utf-8")
    missing, unfit = cluster.do_all(
        ["run", "--disk", "/san/x", "--", "no-such-command-anywhere"], ["run", "--disk", "/san/y", "--", str(plain)]
    )
    assert (missing.status, missing.err) == (127, "etcdlock: there is no command no-such-command-anywhere\n")
    assert (unfit.status, str(plain) in unfit.err) == (126, True)
    assert cluster.found() == ()


def test_any_path_that_the_kernel_takes_can_be_locked_and_is_shown_in_one_piece(cluster: Cluster) -> None:
    odd = ["/san/with\nnewline", os.fsdecode(b"/san/\xff\xfe"), "/san/ünï", "/san/a:b", "/san/[red]x", "/san/\x1b[2J"]
    paths = [*odd, "/" + "/".join(["d" * 200] * 20)]
    disks = [word for path in paths for word in ("--disk", path)]
    guest = cluster.guest("--name", "vm1", *disks)
    asked, status, refused = cluster.do_all(
        ["inquire", "vm1", "--json"], ["status"], ["run", *disks, "--", "true"], host="b"
    )
    assert [item["path"] for item in asked.document()["locks"][0]["resources"]] == paths
    assert refused.status == 100
    assert len(refused.err.splitlines()) == len(paths)
    assert status.status == 0
    assert all(character.isprintable() or character == "\n" for character in status.out + refused.err)
    assert "/san/with\\nnewline" in status.out
    assert "/san/[red]x" in status.out
    assert max(map(len, status.out.splitlines())) <= 80
    guest.send(signal.SIGTERM)
    guest.ended()
