"""What somebody else on the host may try on the agent's sockets; knows nothing of ours, and prints how far it came.

    attacker.py UID GID idle SOCKET NUMBER        connects so often and says nothing, until its standard input ends
    attacker.py UID GID send SOCKET BYTES         sends what is on its standard input, then zeros up to so many bytes
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import sys

CHUNK = bytes(1 << 20)


def connect(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # connecting waits for its turn, but not for ever
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 20, 0))
    made.connect(os.path.basename(path))  # noqa: PTH119  # only the standard library's least
    return made


def idle(path: str, number: int) -> None:
    held = [connect(path)]
    with contextlib.suppress(OSError):
        for _ in range(number - 1):
            held.append(connect(path))  # noqa: PERF401  # as many as it lets us, and each stays open
    print("connected", len(held), flush=True)
    sys.stdin.read()


def send(path: str, number: int) -> None:
    with connect(path) as link:
        sent = 0
        try:
            link.sendall(sys.stdin.buffer.read())
            while sent < number:
                sent += link.send(CHUNK)
        except OSError:
            pass
        heard = b""
        with contextlib.suppress(OSError):
            while piece := link.recv(65_536):
                heard += piece
    print("sent", sent, heard.split(b"\r\n")[0].decode(errors="replace"), flush=True)


def main() -> None:
    uid, gid, what, path, number = sys.argv[1:]
    os.chdir(os.path.dirname(path))  # noqa: PTH120
    if what == "idle":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(number) + 64, int(number) + 64))
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    try:
        (idle if what == "idle" else send)(path, int(number))
    except PermissionError:
        print("denied", flush=True)


if __name__ == "__main__":
    main()
