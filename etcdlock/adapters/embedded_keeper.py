"""Keeps private etcd members: starts them on request and leaves nothing of them behind.

Run as `python -I -S embedded_keeper.py PARENT_PID`; standard library only. It reads one JSON request a line and
answers each with one line. When the requests end, SIGTERM comes or the parent is gone, however it went, every member is
killed and the folder removed. Members die with the keeper too (PR_SET_PDEATHSIG), even if it is killed with SIGKILL;
only then the folder stays. It is started in a session of its own, so Ctrl-C in a terminal does not reach it.

    {"do": "start", "member": 0, "command": [...]}       {folder} in the command stands for the private folder
    {"do": "signal", "member": 0, "number": 19}          returns when it is killed or has stopped
    {"do": "end", "member": 0, "within_seconds": 5.0}    SIGTERM, then SIGKILL; returns when it is gone
    {"do": "look", "member": 0}
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LOG_TAIL_BYTES: Final = 4000


class Keeper:
    """The members and their folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: dict[int, subprocess.Popen[bytes]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        member = int(request["member"])
        match request["do"]:
            case "start":
                return self._start(member, command=request["command"])
            case "signal":
                return self._signal(member, number=request["number"])
            case "end":
                return self._end(member, within_seconds=request["within_seconds"])
        return self._look(member)

    def _start(self, member: int, *, command: list[str]) -> dict[str, Any]:
        command = [word.replace("{folder}", str(self._folder)) for word in command]
        with self._log(member).open("ab") as log:
            try:
                self._members[member] = subprocess.Popen(  # noqa: S603  # what the parent asks for
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
                    preexec_fn=functools.partial(_die_with, os.getpid()),  # noqa: PLW1509  # there is one thread here
                )
            except OSError as error:
                return {"error": f"{command[0]}: {error}"}
        return self._look(member)

    def _signal(self, member: int, *, number: int) -> dict[str, Any]:
        process = self._members[member]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
        if number == signal.SIGSTOP and process.poll() is None:
            # Its threads run on for a moment: until the last of them has stopped, it may still answer.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return self._look(member)

    def _end(self, member: int, *, within_seconds: float) -> dict[str, Any]:
        process = self._members[member]
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return self._look(member)

    def _look(self, member: int) -> dict[str, Any]:
        process = self._members[member]
        log = self._log(member).read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        return {"pid": process.pid, "status": process.poll(), "log": log}

    def _log(self, member: int) -> Path:
        return self._folder / f"member-{member}.log"

    def clean(self) -> None:
        for process in self._members.values():
            process.kill()
        for process in self._members.values():
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _die_with(keeper: int) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    # Readable once the parent is gone; our input may stay open, if another process has inherited its other end.
    parent_pid = int(sys.argv[1])
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        return
    if os.getppid() != parent_pid:
        return  # it is gone, and its number may be somebody else's by now
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    terminated = _readable_when_terminated()
    folder = Path(tempfile.mkdtemp(prefix="etcdlock-etcd-"))
    keeper = Keeper(folder)
    try:
        with suppress(BrokenPipeError):  # the parent is gone
            print(json.dumps({"folder": str(folder)}), flush=True)
            _serve(keeper, until_readable=(parent, terminated))
    finally:
        keeper.clean()
        os._exit(0)  # whatever is left to flush has no reader


def _readable_when_terminated() -> int:
    """SIGTERM becomes a descriptor to poll, so that it interrupts nothing half done."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    return reading


def _serve(keeper: Keeper, *, until_readable: tuple[int, ...]) -> None:
    poll = select.poll()
    for descriptor in (sys.stdin.fileno(), *until_readable):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if not set(ready).isdisjoint(until_readable):
            return
        line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]  # unbuffered: poll must see every line
        if not line:
            return
        print(json.dumps(keeper.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
