"""Keeps private etcd members: starts them on request and leaves nothing of them behind.

Run as `python -I -S embedded_keeper.py PARENT_PID`; standard library only. It reads one JSON request a line and
answers each with one line. When the requests end or the parent is gone, however it went, every member is killed and
the folder removed. Members die with the keeper too (PR_SET_PDEATHSIG), even if it is killed with SIGKILL; only then the
folder stays. It is started in a session of its own, so Ctrl-C in a terminal does not reach it.

    {"do": "start", "member": 0, "command": [...]}       {folder} in the command stands for the private folder
    {"do": "signal", "member": 0, "number": 19}
    {"do": "end", "member": 0, "within_seconds": 5.0}    SIGTERM, then SIGKILL; returns when it is gone
    {"do": "look", "member": 0}
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
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
                self._members[member] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={"PATH": os.defpath},  # no ETCD_... of the surroundings
                    preexec_fn=_die_with_keeper,  # noqa: PLW1509  # there is one thread here
                )
            except OSError as error:
                return {"error": f"{command[0]}: {error}"}
        return self._look(member)

    def _signal(self, member: int, *, number: int) -> dict[str, Any]:
        process = self._members[member]
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
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


def _die_with_keeper() -> None:
    keeper = os.getppid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper or keeper == 1:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _ask_to_end(number: int, frame: FrameType | None) -> None:
    raise SystemExit


def main() -> None:
    # Open for reading only while the parent lives: another process may have inherited the other end of our input.
    parent = os.pidfd_open(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ask_to_end)
    folder = Path(tempfile.mkdtemp(prefix="etcdlock-etcd-"))
    keeper = Keeper(folder)
    try:
        print(json.dumps({"folder": str(folder)}), flush=True)
        _serve(keeper, parent=parent)
    except BrokenPipeError:
        pass  # the parent is gone; so are we
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.clean()
        os._exit(0)  # whatever is left to flush has no reader


def _serve(keeper: Keeper, *, parent: int) -> None:
    poll = select.poll()
    poll.register(sys.stdin.fileno(), select.POLLIN)
    poll.register(parent, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if parent in ready:
            return
        line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]  # unbuffered: poll must see every line
        if not line:
            return
        print(json.dumps(keeper.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
