"""The agent's metrics over TCP: read by anybody who reaches the port, and nothing else is to be had there."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from etcdlock.api.metrics import names
from tests.api.test_agent_program import UP_SECONDS, cluster, etcd
from tests.api.test_agent_program import agent as started
from tests.cli.hosts import Cluster

__all__ = ["cluster", "etcd"]

CALLS = (
    ("GET", "/v1/status"), ("GET", "/v1/keys"), ("GET", "/v1/events"), ("GET", "/openapi.json"), ("GET", "/"),
    ("POST", "/v1/hosts/node-1/break"), ("POST", "/metrics"), ("DELETE", "/metrics"),
)  # fmt: skip


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def free_port() -> int:
    with taken_port() as port:
        return port


def asked(port: int, method: str, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=UP_SECONDS)) as connection:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_prometheus_reads_the_numbers_over_tcp_and_nobody_gets_anything_else_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    port = free_port()
    running, _ = started(cluster, tmp_path, ETCDLOCK_METRICS_LISTEN=f"127.0.0.1:{port}")
    status, page = asked(port, "GET", "/metrics")
    assert status == 200
    assert [name for name in names() if f"# TYPE {name.removesuffix('_total')}" not in page] == []
    answers = {call: asked(port, *call) for call in CALLS}
    assert {call: status for call, (status, _) in answers.items() if status not in (404, 405)} == {}
    assert all(json.loads(text)["hint"] == "GET /metrics" for _, text in answers.values())
    running.send(signal.SIGTERM)
    assert running.ended().status == 0
    with pytest.raises(ConnectionRefusedError):
        asked(port, "GET", "/metrics")


def test_a_port_that_somebody_else_has_stops_no_agent_and_is_told(cluster: Cluster, tmp_path: Path) -> None:
    with taken_port() as port:
        running, client = started(cluster, tmp_path, ETCDLOCK_METRICS_LISTEN=f"127.0.0.1:{port}")
        assert client.agent()["ready"]
        running.says("metrics_not_served")
        assert f"127.0.0.1:{port}" in running.err
