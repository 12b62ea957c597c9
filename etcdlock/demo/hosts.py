"""The hosts of the demo: each starts the real `etcdlock run` as a process tree of its own, behind a network of its own.

Both live on one kernel, so their machine and boot ids are the same; their host ids are not, and it is by host id that
sessions are told apart. "The same machine came back with another boot id" can therefore never be the proof here: what
is shown rests on silence alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import etcdlock
from etcdlock.demo.proxy import Cut, Proxy
from etcdlock.demo.stream import Stream
from etcdlock.demo.verdict import NotSo

_END_WITHIN_SECONDS: Final = 10.0
_PREFIX: Final = "etcdlock: "


class Run:
    """One `etcdlock run` on a host."""

    def __init__(self, machine: asyncio.subprocess.Process, /) -> None:
        if machine.stderr is None:
            raise ValueError("what it says must come through a pipe")
        self._machine = machine
        self._lines = Stream(machine.stderr)

    async def says(self, event: str, /) -> bool:
        """Come back when this event is in its log: True; or when it has ended without."""
        return await self._lines.first(lambda line: line.split(b" ")[3:4] == [event.encode()] or None) is not None

    async def ended(self) -> int:
        """Its exit status, once all it said has been read."""
        status = await self._machine.wait()
        await self._lines.ended()
        return status

    def reason(self) -> str:
        """What it told the person who started it, without warnings; if it told nothing, its last line."""
        lines = [seen.what.decode(errors="replace").rstrip("\n") for seen in self._lines.seen]
        told = (line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX))
        return " ".join(line for line in told if not line.startswith("warning:")) or (lines or ["nothing"])[-1]

    def ask_to_end(self) -> None:
        """SIGTERM to `etcdlock run`, which passes it on to its guest."""
        self._machine.terminate()

    async def power_off(self) -> None:
        """SIGKILL to everything of it; returns when nothing of it is left."""
        if self._machine.stdin is not None:
            self._machine.stdin.close()
        try:
            async with asyncio.timeout(_END_WITHIN_SECONDS):
                await self.ended()
        except TimeoutError:
            self._machine.kill()
            raise NotSo(f"processes of a host could not be killed within {_END_WITHIN_SECONDS:g} s") from None


@dataclass(frozen=True, slots=True)
class Host:
    """A host: its name in the cluster, its network, and where the cluster's settings, the domain and the disk are."""

    name: str
    network: Proxy
    config: Path
    domain: Path
    disk: Path

    async def run(self, *, wait_seconds: float = 0.0) -> Run:
        """Start the guest here; `etcdlock run` decides whether and when."""
        machine = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "etcdlock.demo.machine", *self.command(wait_seconds=wait_seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(os.environ),
            start_new_session=True,
        )
        return Run(machine)

    def command(self, *, wait_seconds: float) -> tuple[str, ...]:
        """What would be typed on a real host, but for the Python in front."""
        return (
            *(sys.executable, "-m", "etcdlock", "run", "--via", "own"),  # whatever agent this machine has
            *("--config", str(self.config), "--endpoint", f"127.0.0.1:{self.network.port}"),
            *("--domain", str(self.domain), "--wait", f"{wait_seconds:g}"),
            *("--", sys.executable, "-m", "etcdlock.demo.guest", str(self.disk)),
        )

    async def lose_power(self, run: Run, /) -> None:
        """Everything stops at once: not even the end of a connection gets out."""
        await self.network.cut(Cut.SILENT)
        await run.power_off()

    def _environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Ours, with the way to this package, but without settings of etcdlock: the demo is the same everywhere."""
        inherited = {name: value for name, value in ours.items() if not name.startswith("ETCDLOCK_")}
        package = str(Path(etcdlock.__file__).parents[1])
        path = os.pathsep.join(filter(None, (package, ours.get("PYTHONPATH"))))
        return {**inherited, "PYTHONPATH": path, "ETCDLOCK_HOST_ID": self.name}
