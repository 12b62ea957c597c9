"""The lab's network: what was cut is cut, in the direction that was meant and in no other, and heals."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.network import US, Network
from tests.cluster.test_faults import SEED
from tests.libvirt.machine import Machine, Program
from tests.libvirt.waiting import wait_until

PORT = 9999
WAIT_SECONDS = 0.3
ECHO = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", {PORT}))
heard = 0
while True:
    word, sender = s.recvfrom(100)
    heard += word != b"count"
    s.sendto(b"%d" % heard, sender)
"""


class Line:
    """From us to a machine that answers with how many words it has heard."""

    def __init__(self, network: Network, machine: Machine, log: Path) -> None:
        self._to = (network.address("far"), PORT)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_SECONDS)
        self._program = Program(machine, [sys.executable, "-c", ECHO], env={}, log=log)

    def says(self, word: bytes = b"word") -> int | None:
        """The answer; None if none came."""
        try:
            self._socket.sendto(word, self._to)
            return int(self._socket.recv(100))
        except OSError:
            return None

    def close(self) -> None:
        self._socket.close()
        self._program.kill()


@pytest.fixture
def network(lab_tools: None) -> Iterator[Network]:
    with Network(seed=SEED) as network:
        yield network


@pytest.fixture
def line(network: Network, tmp_path: Path) -> Iterator[Line]:
    with Machine("ip link set lo up") as machine:
        network.plug_in("far", machine)
        with closing(Line(network, machine, tmp_path / "far.log")) as line:
            wait_until(lambda: line.says() is not None, what="the far end answers")
            yield line


def test_a_cut_one_way_lets_the_other_way_pass(network: Network, line: Line) -> None:
    heard = line.says(b"count")
    assert heard is not None
    network.cut(["far"], [US])
    assert line.says() is None
    network.heal()
    assert line.says(b"count") == heard + 1
    network.cut([US], ["far"])
    assert line.says() is None
    network.heal()
    assert line.says(b"count") == heard + 1


def test_what_is_late_comes_late_and_what_is_lost_is_lost_in_part(network: Network, line: Line) -> None:
    network.impair([US], ["far"], delay_seconds=0.2)
    begun = time.monotonic()
    assert line.says() is not None
    assert time.monotonic() - begun >= 0.2
    network.impair([US], ["far"], loss=0.5)
    answers = [line.says() is not None for _ in range(12)]
    assert {True, False} == set(answers)


def test_a_machine_that_is_off_is_not_on_the_network_and_one_that_is_on_again_is(
    network: Network, line: Line, tmp_path: Path
) -> None:
    network.unplug("far")
    assert line.says() is None
    with Machine("ip link set lo up") as machine:
        network.plug_in("far", machine)
        with closing(Line(network, machine, tmp_path / "again.log")) as again:
            wait_until(lambda: again.says() is not None, what="its next boot answers")
