"""What a guest's process runs until it may start: wait for the token, then become the command.

    python -I -S gate.py <descriptor> <parent> <path> -- <command> [argument]...
    python -I -S gate.py --ask <socket> -- <command> [argument]...

The token comes as one line over the descriptor. Without a whole line (refused, or whoever was to send it died) nothing
is run. The command keeps this process's pid and start time; its environment is the one given to this process, plus
ETCDLOCK_TOKEN and the guest's mark.

The kernel kills this process, and the command that it becomes, when the parent dies: should the guard die with it,
there is nobody else who could. That covers neither what the command starts nor a command that changes its user; the
guard does.

With --ask the line comes over a Unix socket, from a program that embeds the driver. Whoever starts this process need
not be its parent, and the command outlives both: its guard does, too. An empty line lets it run without a token.
Descriptors that come with the line are the command's, which holds by them what they hold.

Exit status 125: not let through, or nobody there to ask; 126, 127: the command could not be executed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

NOT_LET_THROUGH, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
MOST_DESCRIPTORS = 8
_PR_SET_PDEATHSIG = 1
_MARK = b"ETCDLOCK_GUEST"       # as in `table`, which this must not import: it would cost every guest its start


def main(arguments: list[str]) -> int:
    """Wait, then become the command; the exit status if it does not come to that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if arguments[0] == "--ask":
        path, command, token = arguments[3], arguments[3:], ask(arguments[1])
    else:
        path, command, token = arguments[2], arguments[4:], wait(int(arguments[0]), parent=int(arguments[1]))
    if not token.endswith(b"\n"):
        return NOT_LET_THROUGH
    environment = given_environment()
    if token.strip():
        environment[b"ETCDLOCK_TOKEN"] = token.strip()
    environment[_MARK] = b",".join((*filter(None, (environment.get(_MARK),)), own_name()))
    return become(path, command=command, environment=environment)


def wait(gate: int, *, parent: int) -> bytes:
    """The line; nothing where the parent has died."""
    die_with_parent()
    with open(gate, "rb") as stream:
        token = stream.readline()
    return token if os.getppid() == parent else b""


def ask(path: str) -> bytes:
    """The line; nothing where nobody listens. The descriptors that came with it stay open."""
    import socket  # which takes longer to load than all else here together

    token = b""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
            while not token.endswith(b"\n"):
                said, descriptors, _, _ = socket.recv_fds(link, 64, MOST_DESCRIPTORS)
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, True)
                if not said:
                    break
                token += said
        except OSError as error:
            print(f"etcdlock: {path}: {error.strerror}", file=sys.stderr, flush=True)
            return b""
    return token


def die_with_parent() -> None:
    """Be killed when the parent dies. One that died before this call is seen when the token has come."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def given_environment() -> dict[bytes, bytes]:
    """As it was given to this process: os.environ may hold a locale that the interpreter has chosen for itself."""
    with open("/proc/self/environ", "rb") as stream:
        pairs = (entry.partition(b"=") for entry in stream.read().split(b"\0"))
        return {name: value for name, equals, value in pairs if equals}


def own_name() -> bytes:
    """As `table.Name` writes it."""
    with open("/proc/self/stat", "rb") as stream:
        start = stream.read().rpartition(b")")[2].split()[19]
    return b"%d:%s" % (os.getpid(), start)


def become(path: str, *, command: list[str], environment: dict[bytes, bytes]) -> int:
    """Replace this process; the exit status if the kernel will not. A path without a slash is looked for in PATH."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):     # the interpreter ignores these, and exec would pass that on
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(path, command, environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        print(f"etcdlock: {path}: {error.strerror}", file=sys.stderr, flush=True)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
