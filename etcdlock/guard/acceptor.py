"""`etcdlock-guard --listen PATH`: starts a guard for each connection, where there is no systemd to do it.

It does what systemd does for `Accept=yes`: the guard is a child of this process, in this process's cgroup or container,
and not of whoever connects. So it outlives the agent's own container. Guaranteed: only who may open the socket file
(mode 0600) gets one; a guard goes on when this process ends, for as long as its container is let be.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

_FIRST_PASSED = 3
_OWNER_ONLY = 0o600
_BACKLOG = 16


def serve(path: str, /) -> None:
    """Until it is ended. What a dead predecessor has left at the path is replaced."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)       # nobody asks how a guard ended; the kernel reaps it
    listener = _listen(path)
    while True:
        link, _ = listener.accept()
        if os.fork() == 0:
            _become_guard_of(link)
        link.close()


def _listen(path: str) -> socket.socket:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.fchmod(listener.fileno(), _OWNER_ONLY)       # before the file is there
    listener.bind(path)
    listener.listen(_BACKLOG)
    return listener


def _become_guard_of(link: socket.socket) -> None:
    """In the child: as systemd would have started it. Never comes back."""
    from etcdlock.guard.program import become_guard

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.setsid()
        os.dup2(link.fileno(), _FIRST_PASSED)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        become_guard()
    finally:
        sys.stderr.write("etcdlock-guard: a guard could not be started\n")
        os._exit(1)
