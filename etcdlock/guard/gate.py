"""What a guest's process runs until it may start: wait for the token, then become the command.

    python -I -S gate.py <descriptor> <path> -- <command> [argument]...

The token comes as one line over the descriptor. Without a whole line (refused, or whoever was to send it died) nothing is
run. The command keeps this process's pid and start time; its environment is the one given to this process, plus
ETCDLOCK_TOKEN and the guest's mark. Exit status 125: not let through; 126, 127: the command could not be executed.
"""

from __future__ import annotations

import os
import signal
import sys

NOT_LET_THROUGH, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gate, path, command = int(arguments[0]), arguments[1], arguments[3:]
    with open(gate, "rb") as stream:
        token = stream.readline()
    if not token.endswith(b"\n"):
        return NOT_LET_THROUGH
    environment = given_environment()
    environment[b"ETCDLOCK_TOKEN"] = token.strip()
    environment[b"ETCDLOCK_GUEST"] = own_name()
    return become(path, command=command, environment=environment)


def given_environment() -> dict[bytes, bytes]:
    """As it was given to this process: os.environ may hold a locale that the interpreter has chosen for itself."""
    with open("/proc/self/environ", "rb") as stream:
        pairs = (entry.split(b"=", 1) for entry in stream.read().split(b"\0") if b"=" in entry)
        return {name: value for name, value in pairs}


def own_name() -> bytes:
    with open("/proc/self/stat", "rb") as stream:
        start = stream.read().rpartition(b")")[2].split()[19]
    return b"%d:%s" % (os.getpid(), start)


def become(path: str, *, command: list[str], environment: dict[bytes, bytes]) -> int:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):     # the interpreter ignores these, and exec would pass that on
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, command, environment)
    except OSError as error:
        print(f"etcdlock: {path}: {error.strerror}", file=sys.stderr, flush=True)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
