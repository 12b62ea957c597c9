"""etcd in containers, of one member or more, reached from outside on published ports."""

from __future__ import annotations

import http.client
import time
from contextlib import ExitStack
from http import HTTPStatus

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network

IMAGE = "etcdlock-etcd"
CLIENTS, PEERS = 2379, 2380
HEALTHY_SECONDS = 60.0


def etcd_members(count: int, /, *, stack: ExitStack) -> list[str]:
    """Their endpoints, once every one of them is healthy. They end with the stack."""
    _do_without_the_reaper_where_it_is_not_to_be_had()
    network = stack.enter_context(Network())
    peers = ",".join(f"{name}=http://{name}:{PEERS}" for name in _names(count))
    members = [_member(name, peers=peers, network=network) for name in _names(count)]
    for member in members:
        stack.enter_context(member)
    endpoints = [_endpoint(member) for member in members]
    for endpoint in endpoints:
        _wait_until_healthy(endpoint)
    return endpoints


def _do_without_the_reaper_where_it_is_not_to_be_had() -> None:
    """It ends what a killed run has left; an engine of the tests' own ends that itself."""
    client = DockerClient().client
    if not client.images.list(name=testcontainers_config.ryuk_image):
        testcontainers_config.ryuk_disabled = True


def _names(count: int, /) -> list[str]:
    return [f"member-{number}" for number in range(1, count + 1)]


def _member(name: str, /, *, peers: str, network: Network) -> DockerContainer:
    command = [
        "etcd", f"--name={name}", "--data-dir=/var/lib/etcd/data", f"--initial-cluster={peers}",
        f"--listen-client-urls=http://0.0.0.0:{CLIENTS}", f"--advertise-client-urls=http://{name}:{CLIENTS}",
        f"--listen-peer-urls=http://0.0.0.0:{PEERS}", f"--initial-advertise-peer-urls=http://{name}:{PEERS}",
        # A lease of a second, which the contract asks for, wants quick elections.
        "--heartbeat-interval=50", "--election-timeout=500", "--logger=zap", "--log-level=warn",
    ]  # fmt: skip
    container = DockerContainer(IMAGE).with_command(command).with_exposed_ports(CLIENTS)
    return container.with_network(network).with_network_aliases(name)


def _endpoint(member: DockerContainer, /) -> str:
    host = member.get_container_host_ip().replace("localhost", "127.0.0.1")
    return f"{host}:{member.get_exposed_port(CLIENTS)}"


def _wait_until_healthy(endpoint: str, /) -> None:
    deadline = time.monotonic() + HEALTHY_SECONDS
    while not _is_healthy(endpoint):
        assert time.monotonic() < deadline, f"etcd at {endpoint} does not become healthy"
        time.sleep(0.1)


def _is_healthy(endpoint: str, /) -> bool:
    connection = http.client.HTTPConnection(endpoint, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
