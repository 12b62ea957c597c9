"""A VM with a watchdog device, seen from outside: what its console says, and what QEMU reports of it over QMP.

Its clock counts instructions: a second is as long for the guard and the watchdog in it however busy this machine is,
and a second in which nothing is done takes no time here.
"""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

QUICKLY = (
    "console=ttyS0,115200 quiet panic=-1 no_timer_check tsc=reliable mitigations=off nokaslr cryptomgr.notests audit=0 "
    "random.trust_cpu=on"
)
PATIENCE_SECONDS = 180.0
"""For the next thing to happen, the boot included."""


@dataclass(frozen=True)
class Seen:
    """Something that happened: on the VM's own clock where it has told it, else when it last told the time."""

    what: str
    at_seconds: float


class Machine:
    """Runs from its start to the first reset, or until it is closed."""

    def __init__(self, kernel: Path, initramfs: Path, folder: Path, /, *, driver: str, scenario: str) -> None:
        self._happened: queue.Queue[str] = queue.Queue()
        self.seen: list[Seen] = []
        monitor = folder / "qmp"
        device = ("-device", "i6300esb", "-action", "watchdog=reset") if driver == "i6300esb" else ()
        self._qemu = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-machine", "pc,hpet=off,accel=tcg", "-cpu", "max", "-m", "256"),
                *("-icount", "shift=1,sleep=off", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-serial", "stdio", "-qmp", f"unix:{monitor},server=on,wait=off"),
                *("-kernel", str(kernel), "-initrd", str(initramfs), *device),
                *("-append", f"{QUICKLY} driver={driver} scenario={scenario}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._qemu.stdout is not None
        self._threads = [
            threading.Thread(target=self._read_console, args=(self._qemu.stdout,)),
            threading.Thread(target=self._read_monitor, args=(monitor,)),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._qemu.kill()
        self._qemu.wait()
        for thread in self._threads:
            thread.join()
        assert self._qemu.stdout is not None
        self._qemu.stdout.close()

    def until(self, word: str, /) -> Seen:
        """Wait for this to happen; whatever else does is kept in `seen`."""
        while True:
            try:
                happened = self._happened.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise AssertionError(f"{word} did not happen; seen: {self.seen}") from None
            self.seen.append(self._dated(happened))
            assert not self.seen[-1].what.startswith("failed"), self.seen
            if self.seen[-1].what.startswith(word):
                return self.seen[-1]

    def _dated(self, text: str) -> Seen:
        if text.startswith("@"):
            told, _, what = text[1:].partition(" ")
            return Seen(what, float(told))
        return Seen(text, self.seen[-1].at_seconds if self.seen else 0.0)

    def _read_console(self, console: IO[bytes]) -> None:
        for line in console:
            self._happened.put(line.decode(errors="replace").strip())

    def _read_monitor(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            if not _tried(lambda: link.connect(str(path)), until=time.monotonic() + PATIENCE_SECONDS):
                return
            with link.makefile("rw", encoding="utf-8") as stream:
                stream.write('{"execute": "qmp_capabilities"}\n')
                stream.flush()
                for line in stream:
                    message = json.loads(line)
                    if "event" in message:
                        self._happened.put(f"{message['event']} {json.dumps(message.get('data', {}), sort_keys=True)}")


def _tried(connect: Callable[[], None], /, *, until: float) -> bool:
    """QEMU makes its socket a moment after its start."""
    while time.monotonic() < until:
        try:
            connect()
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.02)
        else:
            return True
    return False
