"""docker-compose.yml, driven by the commands that README.md gives, and through what can befall a host in containers."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.containers.trial import HOSTS, OUTLIVED_SECONDS, Trial, eventually

pytestmark = pytest.mark.timeout(400)  # the first test also waits for images and cluster
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (docker compose .*)$", README, flags=re.MULTILINE)
HELD_ELSEWHERE = 100


def test_the_five_commands_of_the_readme_do_what_it_says(cluster: Trial) -> None:
    start, refused, migrate, kill, take_over = COMMANDS
    started = cluster.as_written(start)
    assert (started.returncode, "vm1 runs on host-a" in started.stdout) == (0, True), started.stderr
    no = cluster.as_written(refused)
    assert no.returncode == HELD_ELSEWHERE
    assert "vm1 is held on host host-a" in no.stderr
    eventually(lambda: len(cluster.prometheus('up{job="etcdlock"} == 1')) == len(HOSTS))
    moved = cluster.as_written(migrate)
    assert (moved.returncode, "vm1 runs on host-b" in moved.stdout) == (0, True), moved.stderr
    assert "vm1" not in cluster.on("host-a", "vm", "list").stdout
    assert cluster.as_written(kill).returncode == 0
    taken = cluster.as_written(take_over)
    assert (taken.returncode, "vm1 runs on host-c" in taken.stdout) == (0, True), taken.stderr
    assert list(cluster.records("vm1", seen_from="host-c")) == ["host-a", "host-b", "host-c"]
    away = 'ALERTS{alertname="EtcdlockAgentAway", instance="host-b"}'  # pending; that it fires is tests/deploy's
    eventually(lambda: bool(cluster.prometheus(away)))
    assert cluster.compose("start", "host-b").returncode == 0
    assert cluster.on("host-b", "vm", "ready").returncode == 0


def test_a_guest_outlives_a_short_time_without_etcd(cluster: Trial) -> None:
    assert cluster.on("host-a", "vm", "start", "vm2").returncode == 0
    cluster.pause_etcd()
    cluster.cut_off("host-a")
    time.sleep(OUTLIVED_SECONDS)
    cluster.connect("host-a")
    before = cluster.records("vm2", seen_from="host-a")
    eventually(lambda: cluster.records("vm2", seen_from="host-a")["host-a"] > before["host-a"])
    assert list(before) == ["host-a"]
    assert cluster.on("host-b", "vm", "start", "vm2").returncode == HELD_ELSEWHERE
    assert cluster.on("host-a", "vm", "stop", "vm2").returncode == 0


def test_a_guest_of_a_host_that_is_cut_off_is_stopped_before_another_host_has_it(cluster: Trial) -> None:
    assert cluster.on("host-a", "vm", "start", "vm3").returncode == 0
    cluster.cut_off("host-a")
    try:
        taken = cluster.on("host-b", "vm", "start", "vm3", "--wait", "60")
        assert taken.returncode == 0, taken.stderr
        assert "vm3" not in cluster.on("host-a", "vm", "list").stdout
    finally:
        cluster.connect("host-a")
    assert list(cluster.records("vm3", seen_from="host-b")) == ["host-a", "host-b"]
    assert cluster.on("host-a", "vm", "start", "vm3").returncode == HELD_ELSEWHERE
