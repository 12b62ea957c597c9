"""What systemd hears of the agent, and what happens where there is no systemd."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.systemd import Systemd
from etcdlock.timing import Timing


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5.0)
        yield listening


def of(manager: socket.socket, **more: str) -> Systemd:
    return Systemd({"NOTIFY_SOCKET": manager.getsockname(), **more})


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


async def informed(systemd: Systemd, *rounds: int) -> None:
    """Until it has asked for more rounds than there are."""
    left = list(rounds)
    with pytest.raises(IndexError):
        await systemd.keep_informed(lambda: left.pop(0), lambda: "2 guests", overdue_seconds=12.5)


def test_it_hears_when_the_agent_serves_and_when_it_stops(manager: socket.socket) -> None:
    systemd = of(manager)
    systemd.ready("2 guests")
    systemd.stopping()
    assert heard(manager) == ["READY=1", "STATUS=2 guests"]
    assert heard(manager)[0] == "STOPPING=1"


def test_without_systemd_nobody_is_told_and_nothing_fails() -> None:
    Systemd({}).ready("2 guests")
    assert not Systemd({}).wants_signs_of_life


def test_a_systemd_that_is_gone_does_not_end_the_agent(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("2 guests")


def test_an_abstract_socket_is_reached() -> None:
    name = f"etcdlock-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(5.0)
        Systemd({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert heard(manager)[0] == "STOPPING=1"


def test_a_watchdog_that_watches_another_process_is_left_to_it(manager: socket.socket) -> None:
    assert not of(manager, WATCHDOG_USEC="1", WATCHDOG_PID="1").wants_signs_of_life
    assert of(manager, WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid())).wants_signs_of_life


def test_a_session_that_is_not_attended_to_any_more_gives_no_sign_of_life(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcdlock.adapters.systemd.LOOK_EVERY_SECONDS", 0.0)
    systemd = of(manager, WATCHDOG_USEC="30000000")
    asyncio.run(informed(systemd, 0, 1, 1, 1, 2))
    assert heard(manager) == ["WATCHDOG_USEC=12500000", "WATCHDOG=1"]
    assert [heard(manager) for _ in range(3)] == [["WATCHDOG=1", "STATUS=2 guests"]] * 3
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard(manager)


def test_a_hung_agent_is_found_out_while_there_is_time_and_a_slow_one_is_left_alone() -> None:
    timing = Timing()
    assert timing.second_try_seconds < timing.unattended_seconds < timing.stop_after_seconds
