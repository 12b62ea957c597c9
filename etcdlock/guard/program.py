"""How the guard's process is started: its command line and its environment; and the entry point that systemd starts.

A guard is a child of the program that wants one, or has a unit of its own (etcdlock-guard.socket and
etcdlock-guard@.service): then systemd starts it for each connection to that socket, apart from whoever connects.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_FIRST_PASSED = 3       # where systemd puts the connection
_SMALL = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1", "LC_ALL": "C"}
"""All of the guard's memory is locked, also what an allocator or a locale only reserves."""


def command_line(descriptor: int, /) -> tuple[str, ...]:
    """Without site-packages: only the standard library is wanted, and a few milliseconds later it is up."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    return sys.executable, "-s", "-P", "-S", program, str(descriptor)


def environment_of(given: Mapping[str, str], /) -> dict[str, str]:
    """What is given, without what would change what is run."""
    kept = {name: value for name, value in given.items() if not name.startswith(("PYTHON", "LD_", "LC_", "LISTEN_"))}
    return {**kept, **_SMALL}


def become_guard() -> None:
    """`etcdlock-guard`, as systemd starts it: become the guard of the connection that it hands over.

    `--listen PATH`: do systemd's part, for ever.
    """
    if sys.argv[1:2] == ["--listen"] and len(sys.argv) == 3:
        path = sys.argv.pop()
        sys.argv.pop()
        from etcdlock.guard.acceptor import serve

        serve(path)
    if (os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")) != (str(os.getpid()), "1"):
        sys.exit("etcdlock-guard: systemd starts it for whoever connects to etcdlock-guard.socket; or --listen PATH")
    os.set_inheritable(_FIRST_PASSED, True)
    os.chdir("/")
    command = command_line(_FIRST_PASSED)
    os.execve(command[0], command, environment_of(os.environ))  # noqa: S606 - no shell is wanted
