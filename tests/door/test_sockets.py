"""Where the door listens: its file, systemd's socket, servers that were there before; and descriptors enough."""

from __future__ import annotations

import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from etcdlock.errors import InvalidSetting, SocketInUse
from etcdlock.libvirt.sockets import Listener, allow_descriptors, listen

NOT_BY_SYSTEMD: dict[str, str] = {}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "libvirt" / "virtlockd-sock")


@contextmanager
def listening(path: str) -> Iterator[Listener]:
    listener = listen(path, environment=NOT_BY_SYSTEMD)
    with listener.socket:
        yield listener


def can_connect(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_can_open_the_socket_whatever_the_umask(path: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        with listening(path):
            mode = Path(path).lstat().st_mode
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_what_a_dead_server_has_left_is_replaced(path: str) -> None:
    with listening(path):
        pass
    assert Path(path).exists()
    assert not can_connect(path)
    with listening(path):
        assert can_connect(path)


def test_a_living_server_is_left_alone(path: str) -> None:
    with listening(path):
        with pytest.raises(SocketInUse, match=r"another program listens on .*virtlockd-sock") as refused:
            listen(path, environment=NOT_BY_SYSTEMD)
        assert "systemctl stop virtlockd.socket" in refused.value.hint
        assert can_connect(path)


def test_a_living_server_so_busy_that_nobody_gets_in_is_left_alone_too(path: str) -> None:
    with listening(path) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.socket.listen(0)
        client.connect(path)
        with pytest.raises(SocketInUse):
            listen(path, environment=NOT_BY_SYSTEMD)


def test_of_many_servers_that_find_a_dead_ones_socket_one_gets_it(path: str) -> None:
    with listening(path):
        pass
    servers = 8
    start = threading.Barrier(servers)

    def serve() -> Listener | None:
        start.wait()
        try:
            return listen(path, environment=NOT_BY_SYSTEMD)
        except SocketInUse:
            return None

    for _ in range(20):
        with ThreadPoolExecutor(servers) as pool:
            won = [each for each in pool.map(lambda _: serve(), range(servers)) if each is not None]
        for listener in won:
            listener.socket.close()
        assert len(won) == 1


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).parent.mkdir()
    for make in (Path(path).touch, Path(path).mkdir):
        make()
        with pytest.raises(SocketInUse, match="is no socket"):
            listen(path, environment=NOT_BY_SYSTEMD)
        assert Path(path).exists()
        if Path(path).is_file():
            Path(path).unlink()


@pytest.mark.parametrize("bad", ["/proc/version/sock", f"/{'n' * 120}", "/dev/null/x"])
def test_a_path_where_no_socket_can_be_is_named(bad: str) -> None:
    with pytest.raises(InvalidSetting, match="no socket can be made there") as refused:
        listen(bad, environment=NOT_BY_SYSTEMD)
    assert str(refused.value).startswith(bad)


def test_its_file_goes_with_it_but_never_a_successors(path: str) -> None:
    with listening(path) as first:
        first.remove()
        assert not Path(path).exists()
        first.remove()
        with listening(path):
            first.remove()
            assert can_connect(path)


def test_a_socket_of_systemds_is_taken_and_its_file_left(path: str) -> None:
    with listening(path) as systemds:
        descriptor = os.dup(systemds.socket.fileno())
        given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(descriptor - 2)}
        os.set_inheritable(descriptor, True)
        systemds.socket.close()
        taken = listen(path, environment=given)
        with taken.socket:
            assert taken.inode is None
            assert not os.get_inheritable(taken.socket.fileno())
            taken.remove()
            assert can_connect(path)


def test_of_systemds_sockets_only_the_one_that_listens_there_is_taken(path: str, tmp_path: Path) -> None:
    with listening(str(tmp_path / "admin")) as admin, socket.socket() as other, socket.socket(socket.AF_UNIX) as idle:
        idle.bind(str(tmp_path / "idle"))
        most = max(admin.socket.fileno(), other.fileno(), idle.fileno())
        mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(most - 2 + 5)}
        for wanted in (path, str(tmp_path / "elsewhere")):
            with listen(wanted, environment=mine).socket as made:
                assert made.fileno() not in (admin.socket.fileno(), other.fileno(), idle.fileno())
        not_for_us = {**mine, "LISTEN_PID": "1"}
        with pytest.raises(SocketInUse):
            listen(admin.path, environment=not_for_us)
        with pytest.raises(SocketInUse):
            listen(admin.path, environment={**mine, "LISTEN_FDS": "many"})


def test_descriptors_are_allowed_as_far_as_may_be_and_never_fewer() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert allow_descriptors(512) == 512
        assert allow_descriptors(300) == 512
        assert allow_descriptors(2**40) >= 512
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_looking_for_systemds_socket_leaves_no_copy_of_anything_else_open(tmp_path: Path) -> None:
    ends = os.pipe()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(max(ends) - 2)}
    listener = listen(str(tmp_path / "socket"), environment=given)
    listener.socket.close()
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    for end in ends:
        os.close(end)
