"""One member of etcd on a machine and a disk of its own."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.cluster.frozen import Frozen
from tests.cluster.network import Network
from tests.cluster.volume import MOUNT, MOUNTED_AT, Volume
from tests.libvirt.machine import Machine, Program

CLIENT_PORT, PEER_PORT = 2379, 2380
QUOTA_BYTES: Final = 24 * 2**20
"""Small enough to be filled in a moment."""
_ROOM_FOR_HISTORY: Final = 40
_DISK_MEGABYTES: Final = 4096
_UP: Final = "ip link set lo up\n"
_DATA: Final = f"{MOUNTED_AT}/data"


class Member:
    """etcd on its machine; started with `start`. `peers` are all members' names and addresses."""

    def __init__(self, name: str, *, binary: str, network: Network, peers: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.address = peers[name]
        self.endpoint = f"{self.address}:{CLIENT_PORT}"
        self._binary = binary
        self._peers = peers
        self._log = folder / f"{name}.log"
        self._volume = Volume(folder / f"{name}.disk", megabytes=_DISK_MEGABYTES)
        self._frozen: Frozen | None = None
        self._program: Program | None = None
        try:
            self._machine = Machine(_UP + MOUNT, self._volume.node)
            network.plug_in(name, self._machine)
        except BaseException:
            self._volume.close()
            raise

    @property
    def peer_url(self) -> str:
        """Where the other members find it."""
        return f"http://{self.address}:{PEER_PORT}"

    @property
    def data(self) -> Path:
        """Its folder, as we reach it."""
        return self._machine.path(_DATA)

    def start(self, *, joins: bool = False) -> None:
        """Start on the data that are there; with `joins`, as a member that was added to a running cluster.

        Such a one goes through all of the history that there is: it needs more room than what is there now.
        """
        client = f"http://{self.address}:{CLIENT_PORT}"
        cluster = ",".join(f"{name}=http://{address}:{PEER_PORT}" for name, address in self._peers.items())
        command = [
            self._binary,
            f"--name={self.name}",
            f"--data-dir={_DATA}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-state={'existing' if joins else 'new'}",
            f"--quota-backend-bytes={_ROOM_FOR_HISTORY * QUOTA_BYTES if joins else QUOTA_BYTES}",
            "--logger=zap",
            "--log-level=warn",
        ]
        self._program = Program(self._machine, command, env={}, log=self._log)

    def signal(self, number: int, /) -> None:
        """To etcd itself, without effect if it does not run."""
        if self._program is not None:
            self._program.signal(number)

    def pause(self) -> None:
        """SIGSTOP."""
        if self._program is not None:
            self._program.freeze()

    def kill(self) -> None:
        """SIGKILL; its data stay."""
        if self._program is not None:
            self._program.kill()
            self._program = None

    def restart(self) -> None:
        """In order, as an operator does."""
        if self._program is not None:
            self._program.terminate()
        self.start()

    def freeze_disk(self) -> None:
        """Whatever it writes from now on does not return."""
        self._frozen = Frozen(self._machine.path(MOUNTED_AT))

    def heal(self) -> None:
        """It runs, and its disk does as well; harmless if it was so before."""
        self._thaw()
        if self._program is None or not self._program.is_running:
            self.start()
        else:
            self._program.thaw()
            self._program.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """As a machine that was installed anew; it does not run."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def close(self) -> None:
        """Gone with its machine and disk."""
        self._thaw()
        self._machine.close()
        if self._program is not None:
            self._program.wait()
        self._volume.close()

    def _thaw(self) -> None:
        if self._frozen is not None:
            self._frozen.close()
            self._frozen = None
