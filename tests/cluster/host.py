"""One host of a lab: a machine with a clock of its own, the shared disks, and an agent that is started when it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from etcdlock.api.client import AgentClient
from etcdlock.errors import EtcdlockError
from tests.cluster.network import Network
from tests.cluster.volume import MOUNT, Volume
from tests.libvirt.machine import Machine, Program
from tests.libvirt.process_table import pid_here
from tests.libvirt.waiting import wait_until

PACKAGE: Final = Path(__file__).parents[2]
"""The etcdlock that hosts run unless they are given another."""
_RESTART_SECONDS: Final = 0.3
"""As a service manager would."""
_LOOK_EVERY_SECONDS: Final = 0.05
_READY_SECONDS: Final = 60.0
_SOCKET: Final = "/run/etcdlock/agent.sock"
_GUARDS: Final = "/run/etcdlock/guards"
_BOOT: Final = f"""
mount -t tmpfs -o mode=755 tmpfs /run
{MOUNT}
mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
[ ! -e /etc/machine-id ] || mount --bind "$2/machine-id" /etc/machine-id
hostname "$3"
ip link set lo up
"""


class Host:
    """A host that is on. `settings` are variables of its agent and its commands; `package` is where etcdlock is."""

    def __init__(
        self, name: str, *, network: Network, volume: Volume, folder: Path, clock_ahead_seconds: int
    ) -> None:
        self.name = name
        self.clock_ahead_seconds = clock_ahead_seconds
        self.settings: Mapping[str, str] = {}
        self.package = PACKAGE
        self.boot = ""
        """The id of its present boot, as it tells others."""
        self._network = network
        self._volume = volume
        self._folder = folder / name
        self._folder.mkdir()
        (self._folder / "machine-id").write_text(f"{uuid4().hex}\n", encoding="ascii")
        self._agent: Program | None = None
        self._serves = threading.Event()
        self._stops = threading.Event()
        self._starting = threading.Lock()
        self.machine = self._boot()
        self._keeper = threading.Thread(target=self._keep_agent, name=f"init-{name}", daemon=True)
        self._keeper.start()

    # --- power -----------------------------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._has_power and self.machine.is_up

    def power_off(self) -> None:
        """Everything on it dies at the same instant, and not even the end of a connection gets out."""
        with self._starting:
            self._serves.clear()
            self._has_power = False
            self._network.unplug(self.name)
            self.machine.close()
            if self._agent is not None:
                self._agent.wait()

    def power_on(self) -> None:
        """Another boot of it. Its agent runs when `serve` is called."""
        if not self.is_on:
            self.machine = self._boot()

    def close(self) -> None:
        """For good."""
        self._stops.set()
        self.power_off()
        self._keeper.join()

    # --- its agent -------------------------------------------------------------------------------------------------

    def serve(self, settings: Mapping[str, str], /, *, package: Path = PACKAGE) -> None:
        """From now on an agent runs, whatever happens to it. Returns at once."""
        self.settings, self.package = settings, package
        self._serves.set()

    def serve_on(self) -> None:
        """With the settings it had."""
        self._serves.set()

    @property
    def environment(self) -> dict[str, str]:
        """Of every etcdlock on it."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ETCDLOCK_")}
        return {
            **ours,
            "PYTHONPATH": str(self.package),
            "ETCDLOCK_CONFIG": os.devnull,
            "ETCDLOCK_HOST_ID": self.name,
            "ETCDLOCK_LOCK_SOCKET": "/run/lock.sock",
            "ETCDLOCK_LOG_LEVEL": "info",
            **self.settings,
        }

    def client(self, *, timeout_seconds: float = 15.0) -> AgentClient:
        """To its agent, past its network."""
        return AgentClient(str(self.machine.path(_SOCKET)), timeout_seconds=timeout_seconds)

    def is_live(self) -> bool:
        """Whether its agent has a session that is proven."""
        with suppress(EtcdlockError):
            about = self.client(timeout_seconds=2.0).agent(with_guests=False)
            return bool(about["ready"]) and about["phase"] == "live"
        return False

    def wait_until_live(self) -> None:
        """Fails with the end of the agent's log."""
        try:
            wait_until(self.is_live, what=f"the agent of {self.name} is live", within_seconds=_READY_SECONDS)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; {self.log()}") from None

    def log(self) -> str:
        """The end of its agent's log."""
        return self._agent.end_of_log() if self._agent is not None else "it has never had an agent"

    def signal_agent(self, number: int, /) -> None:
        """Without effect where none runs."""
        if self._agent is not None:
            with suppress(ProcessLookupError):
                self._agent.signal(number)

    def signal_guard(self, number: int, /) -> None:
        """To every guard that its agents have started and that lives."""
        for pid in self._guards():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def thaw(self) -> None:
        """Agent and guard go on; harmless if they were not stopped."""
        self.signal_guard(signal.SIGCONT)
        if self._agent is not None:
            self._agent.thaw()
        self.signal_agent(signal.SIGCONT)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _guards(self) -> list[int]:
        if not self.is_on:
            return []
        try:
            lines = self.machine.path(_GUARDS).read_text(encoding="ascii").split()
        except OSError:
            return []
        found = (pid_here(int(line.split(":")[0]), of=self.machine.pid) for line in lines)
        return [pid for pid in found if pid is not None]

    def _keep_agent(self) -> None:
        while not self._stops.wait(_LOOK_EVERY_SECONDS):
            if not self._serves.is_set() or (self._agent is not None and self._agent.is_running):
                continue
            if self._agent is not None:
                time.sleep(_RESTART_SECONDS)
            with self._starting:
                if self._serves.is_set() and self.is_on:
                    command = [sys.executable, "-m", "etcdlock", "agent"]
                    log = self._folder / "agent.log"
                    self._agent = Program(self.machine, command, env=self.environment, log=log)

    def _boot(self) -> Machine:
        self.boot = str(uuid4())
        (self._folder / "boot_id").write_text(f"{self.boot}\n", encoding="ascii")
        machine = Machine(
            _BOOT,
            self._volume.node,
            str(self._folder),
            self.name,
            clock_ahead_seconds=self.clock_ahead_seconds,
        )
        self._network.plug_in(self.name, machine)
        self._has_power = True
        return machine
