"""The lab's network as its director sees it: machines with addresses, and what may pass between them."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self, cast
from uuid import uuid4

from tests.libvirt.lab import free_network
from tests.libvirt.machine import Machine

US: Final = "us"
"""The port of whoever runs the lab, who sees everything and is never cut off."""
_REPOSITORY: Final = Path(__file__).parents[2]
_CARD: Final = "eth0"


class Network:
    """A switch, and a cable from it to this machine. Closed, all of it is gone."""

    def __init__(self, *, seed: int) -> None:
        network = free_network()
        self._addresses = map(str, network.hosts())
        self._prefix = network.prefixlen
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()
        self._changed: set[tuple[str, str]] = set()
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.switch", str(seed)],
            env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self.us = self._plug_in(US, pid=os.getpid(), device=f"lab{uuid4().hex[:8]}", inside=[])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Harmless when done before."""
        with suppress(BrokenPipeError):
            cast("IO[str]", self._switch.stdin).close()
        self._switch.wait(timeout=10)
        cast("IO[str]", self._switch.stdout).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, name: str, /) -> str:
        """Of a machine, the same with each power on; given away on first asking."""
        if name not in self._known:
            self._known[name] = next(self._addresses)
        return self._known[name]

    def plug_in(self, name: str, machine: Machine, /) -> None:
        """Give a machine that has just been switched on its network."""
        self._plug_in(name, pid=machine.pid, device=_CARD, inside=machine.inside([]))

    def unplug(self, name: str, /) -> None:
        """Nothing comes from it or reaches it any more, and nobody is told."""
        self._ask(do="detach", port=name)

    # --- what passes -----------------------------------------------------------------------------------------------

    def cut(self, sources: Iterable[str], targets: Iterable[str], /) -> None:
        """Nothing gets from any of these to any of those; the way back is another matter."""
        self.impair(sources, targets, loss=1.0)

    def part(self, some: Iterable[str], others: Iterable[str], /) -> None:
        """Nothing passes between them, either way."""
        these, those = list(some), list(others)
        self.cut(these, those)
        self.cut(those, these)

    def impair(
        self, sources: Iterable[str], targets: Iterable[str], /, *, loss: float = 0.0, delay_seconds: float = 0.0
    ) -> None:
        """Frames from these to those are lost at random, or late."""
        targets = list(targets)
        for source in sources:
            for target in targets:
                if source != target:
                    self._link(source, target, loss=loss, delay_seconds=delay_seconds)

    def heal(self) -> None:
        """Everything passes at once."""
        for source, target in list(self._changed):
            self._link(source, target, loss=0.0, delay_seconds=0.0)
        self._changed.clear()

    # --- parts -----------------------------------------------------------------------------------------------------

    def _link(self, source: str, target: str, *, loss: float, delay_seconds: float) -> None:
        self._changed.add((source, target))
        self._ask(**{"do": "link", "from": source, "to": target, "loss": loss, "delay": delay_seconds})

    def _plug_in(self, name: str, *, pid: int, device: str, inside: list[str]) -> str:
        address = self.address(name)
        mac = bytes((2, 0)) + ipaddress.IPv4Address(address).packed
        self._ask(do="attach", port=name, pid=pid, device=device, mac=mac.hex())
        for words in (
            ["link", "set", device, "address", mac.hex(":"), "up"],
            ["address", "add", f"{address}/{self._prefix}", "dev", device],
        ):
            done = subprocess.run([*inside, "ip", *words], capture_output=True, text=True, check=False, timeout=30)
            assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
        return address

    def _ask(self, **request: object) -> None:
        with self._lock:
            into = cast("IO[str]", self._switch.stdin)
            into.write(json.dumps(request) + "\n")
            into.flush()
            answer = cast("IO[str]", self._switch.stdout).readline()
        assert answer, "the switch has ended; what failed has been written to stderr"
