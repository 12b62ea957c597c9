"""Many guests as libvirt starts them: each is a process that announces itself to the lock server, then becomes a guest.

Run as `python -m benchmarks.crowd SOCKET COUNT`. Each guest connects, registers and restricts its connection, as the
child that libvirt forks does, and becomes `sleep`, which keeps the connection open as QEMU does. For each a line
`pid uuid` is printed. All of them end with this process, and this with its standard input.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from etcdlock.libvirt.packet import Packet, PacketDecoder
from etcdlock.libvirt.procedure import Register, Request, Restrict
from etcdlock.libvirt.wire import encode_call, read_answer

SLEEP = ("sleep", "3600")
PR_SET_PDEATHSIG = 1


def main(path: str, count: str) -> None:
    for _ in range(int(count)):
        uuid = uuid4()
        print(_start(path, uuid), uuid, flush=True)
    sys.stdin.read()


@contextmanager
def crowd(path: str, count: int, /) -> Iterator[list[tuple[int, UUID]]]:
    """That many of them, by pid and the UUID of their domains, announced to the lock server on the socket `path`."""
    command = (sys.executable, "-m", "benchmarks.crowd", path, str(count))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("a process without the pipe that was asked for")
        words = [process.stdout.readline().split() for _ in range(count)]
        yield [(int(pid), UUID(uuid)) for pid, uuid in words]


def _start(path: str, uuid: UUID) -> int:
    """The pid, once it is announced."""
    announced, announces = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_guest(path, uuid)  # never returns; the pipe, which is not inherited, closes as it becomes `sleep`
    os.close(announces)
    os.read(announced, 1)
    os.close(announced)
    return pid


def _become_guest(path: str, uuid: UUID) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(path)
        _must(own, Register(uuid, f"guest-{uuid}", id=1, pid=os.getpid()))
        _must(own, Restrict())
        own.set_inheritable(True)
        os.execvp(SLEEP[0], SLEEP)  # noqa: S606 - no shell is wanted


def _must(own: socket.socket, request: Request) -> None:
    decoder = PacketDecoder()
    own.sendall(encode_call(request, serial=1))
    while not (found := decoder.feed(own.recv(65_536))):
        pass
    if not isinstance(found[0], Packet) or read_answer(found[0]).error is not None:
        raise PermissionError(f"{request} was refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
