"""Sockets that libvirt connects to: from systemd if it gave them to us, else made here; and room for many connections.

Guaranteed: a socket file of ours has the mode 0600 from its first instant, whatever the umask. One that a dead server
has left is replaced, one that a living server listens on never is, however many servers start at the same time: they
take turns under a lock on the folder. What is no socket is left alone.
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etcdlock.errors import InvalidSetting, SocketInUse

BACKLOG = 1024
"""Connections that wait to be accepted: a host's guests may all start at the same time."""

_FIRST_INHERITED = 3
_OWNER_ONLY = 0o600
_FOLDER = 0o755


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens at `path`. `inode` is its file's, if we made it: then it goes when we do."""

    socket: socket.socket
    path: str
    inode: int | None = None

    def remove(self) -> None:
        """Remove the file that we made, unless another server has put its own in its place."""
        if self.inode is None:
            return
        with _alone_in(Path(self.path).parent):
            if _inode(self.path) == self.inode:
                Path(self.path).unlink()


def listen(path: str, /, *, environment: Mapping[str, str] = os.environ) -> Listener:
    """The listening socket at `path`. Raises `SocketInUse`, or `InvalidSetting` for a path that cannot be had."""
    inherited = _inherited(path, environment)
    if inherited is not None:
        return Listener(inherited, path)
    try:
        Path(path).parent.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        with _alone_in(Path(path).parent):
            _make_way(path)
            return _made(path)
    except OSError as error:
        raise InvalidSetting(f"{path}: no socket can be made there: {error}") from error


def allow_descriptors(wanted: int, /) -> int:
    """Let this process have at least so many files and connections open, as far as may be; how many it may have now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, most)), most))
        except (ValueError, OSError):  # only root may raise the hard limit, and not above the kernel's own
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _inherited(path: str, environment: Mapping[str, str]) -> socket.socket | None:
    """systemd's socket for this path, by its protocol of `LISTEN_FDS`; known by where it listens, not by its name."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return None
    for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)):
        if _listens_at(path, descriptor):
            os.set_inheritable(descriptor, False)
            return socket.socket(fileno=descriptor)
    return None


def _listens_at(path: str, descriptor: int) -> bool:
    if not _is_socket(descriptor):
        return False
    probe = socket.socket(fileno=os.dup(descriptor))
    with probe:
        if (probe.family, probe.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            return False
        listens = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and os.path.realpath(probe.getsockname()) == os.path.realpath(path)


def _is_socket(descriptor: int) -> bool:
    """Asked before it is copied: a copy of what is no socket would stay open, and with it another's pipe."""
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # not open
        return False


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Only one server at a time looks at and changes the sockets of a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_way(path: str) -> None:
    """Remove the socket file of a dead server."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(f"{path} is no socket; it has been left alone", hint="move it away")
    if _is_listened_on(path):
        raise SocketInUse(
            f"another program listens on {path}",
            hint="end the etcdlock agent that runs; or if it is virtlockd: 'systemctl stop virtlockd.socket "
            "virtlockd.service', while guests run only after 'systemctl kill --signal=KILL virtlockd.service': "
            "on SIGTERM it kills them",
        )
    Path(path).unlink()


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # so many want to connect that there is no room for us
            return True
        return True


def _made(path: str) -> Listener:
    made = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(made.fileno(), _OWNER_ONLY)  # Linux gives the file that `bind` makes the mode of the socket
        made.bind(path)
        made.listen(BACKLOG)
        return Listener(made, path, _inode(path))
    except OSError:
        made.close()
        raise


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None
