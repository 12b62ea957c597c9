"""The whole lab: a network, three members of etcd, three hosts whose clocks show different times, and shared disks.

One lab serves many scenes. Each is a cluster of etcdlock of its own, with its own settings, domains and disks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from etcdlock.keyspace import Keyspace
from etcdlock.timing import Timing
from tests.cluster.disk import Disk
from tests.cluster.frozen import Frozen
from tests.cluster.host import PACKAGE, Host
from tests.cluster.keeper import Keeper, Orders
from tests.cluster.network import Network
from tests.cluster.quorum import MEMBERS, Quorum
from tests.cluster.volume import MOUNT, MOUNTED_AT, Volume
from tests.cluster.witness import Witness
from tests.libvirt.machine import Machine
from tests.libvirt.waiting import wait_until

CLOCKS: Final = {"a": 0, "b": 86_400, "c": 31_536_000}
"""The hosts, and by how many seconds the CLOCK_BOOTTIME of each is ahead of ours: as of hosts that run longer."""
SHORT: Final = Timing(
    ttl_seconds=3,
    hold_off_seconds=8,
    renew_every_seconds=0.5,
    try_timeout_seconds=0.4,
    kill_seconds=1,
    guard_lag_seconds=0.2,
)
"""Guests outlive 6 s without etcd, and are taken over 12 s after a crash."""
QUICK: Final = Timing(
    ttl_seconds=2,
    hold_off_seconds=5,
    renew_every_seconds=0.4,
    try_timeout_seconds=0.3,
    kill_seconds=0.6,
    guard_lag_seconds=0.2,
)
"""For scenes that wait for a takeover, which comes 8 s after a crash; an election may be too long for guests."""
_DISK_MEGABYTES: Final = 2048
_AT_REST_SECONDS: Final = 60.0


class Lab:
    """Machines and network. Closed, all of it is gone, also where a scene has failed."""

    def __init__(self, folder: Path, *, binary: str, seed: int = 0) -> None:
        self.folder = folder
        with ExitStack() as undo:
            self._frozen: Frozen | None = None
            self._volume = Volume(folder / "shared.disk", megabytes=_DISK_MEGABYTES)
            undo.callback(self._volume.close)
            self._store = undo.enter_context(Machine(MOUNT, self._volume.node))
            undo.callback(self.thaw_disks)
            self.network = undo.enter_context(Network(seed=seed))
            self.quorum = undo.enter_context(Quorum(self.network, binary=binary, folder=folder))
            self.hosts: dict[str, Host] = {}
            for name, ahead in CLOCKS.items():
                self.hosts[name] = Host(
                    name, network=self.network, volume=self._volume, folder=folder, clock_ahead_seconds=ahead
                )
                undo.callback(self.hosts[name].close)
            undo.callback(self.thaw_disks)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Everything of it is gone on return."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shared(self) -> Path:
        """The file system of the shared disks, as we reach it."""
        return self._store.path(MOUNTED_AT)

    def freeze_disks(self) -> None:
        """No write to any shared disk returns, on any host."""
        self._frozen = Frozen(self.shared)

    def thaw_disks(self) -> None:
        """Harmless if they are not frozen."""
        if self._frozen is not None:
            self._frozen.close()
            self._frozen = None

    def heal(self) -> None:
        """Everything runs and reaches everything."""
        self.thaw_disks()
        self.network.heal()
        for host in self.hosts.values():
            if not host.is_on:
                host.power_on()
                host.serve_on()
            host.thaw()
        self.quorum.heal()

    @contextmanager
    def scene(self, timing: Timing, /, **settings: str) -> Iterator[Scene]:
        """A cluster of etcdlock in it; afterwards everything is healed and every host has been switched off and on."""
        scene = Scene(self, f"lab-{uuid4().hex[:8]}", timing, settings)
        try:
            yield scene
        finally:
            self.thaw_disks()
            for host in self.hosts.values():
                host.power_off()
            scene.close()
            self.network.heal()
            self.quorum.heal()
            for host in self.hosts.values():
                host.power_on()


@dataclass(slots=True)
class Scene:
    """Agents on the hosts, and domains that keepers keep running. Made by `Lab.scene`."""

    lab: Lab
    name: str
    timing: Timing
    settings: Mapping[str, str]
    keepers: list[Keeper] = field(default_factory=list)
    _witness: Witness | None = None
    _orders: Orders | None = None

    @property
    def hosts(self) -> Mapping[str, Host]:
        """By name."""
        return self.lab.hosts

    @property
    def keys(self) -> Keyspace:
        """Where its locks are in etcd."""
        return Keyspace(cluster=self.name)

    @property
    def witness(self) -> Witness:
        """Who sees its locks."""
        if self._witness is None:
            self._witness = Witness(self.lab.quorum.endpoints, self.keys)
        return self._witness

    @property
    def lost(self) -> set[str]:
        """Hosts that the keepers are told they hear nothing of."""
        return self.orders.lost

    @property
    def orders(self) -> Orders:
        """What keepers go by."""
        if self._orders is None:
            takeover_seconds = self.timing.takeover_seconds
            self._orders = Orders(
                self.hosts, wait_seconds=takeover_seconds + 60.0, move_every_seconds=takeover_seconds
            )
        return self._orders

    # --- set-up ----------------------------------------------------------------------------------------------------

    def serve(self, *, packages: Mapping[str, Path] | None = None) -> None:
        """An agent on every host, and all of them are live. `packages` says which hosts run another etcdlock."""
        assert self.witness.failure is None
        for name, host in self.hosts.items():
            host.serve(self._variables(), package=(packages or {}).get(name, PACKAGE))
        self.wait_until_live()

    def keep(self, count: int, *, seed: int = 0, home: str = "") -> None:
        """So many domains, each with a disk; comes back when they run. With a `home` they begin there and stay."""
        if home:
            self.orders.calm.set()
        for number in range(count):
            disk = self.new_disk(f"vm{len(self.keepers) + 1}")
            chance = random.Random(f"{seed}-{number}")  # noqa: S311 - where guests go, nothing secret
            keeper = Keeper(disk, self.orders, chance=chance, folder=self.lab.folder, home=home)
            self.keepers.append(keeper)
            keeper.start()
        self.wait_until_at_rest()

    def new_disk(self, name: str, /) -> Disk:
        """A shared disk that nobody has written to."""
        return Disk.new(name, seen_at=self.lab.shared)

    # --- what is so ------------------------------------------------------------------------------------------------

    def wait_until_live(self) -> None:
        """Every host's agent has a session that is proven."""
        for host in self.hosts.values():
            host.wait_until_live()

    def wait_until_at_rest(self) -> None:
        """Every domain's guest runs, and etcd says so of the same host; and all agents are live."""
        self.wait_until_live()
        for keeper in self.keepers:
            self._wait(lambda each=keeper: each.is_at_rest and self.is_locked_where_it_runs(each), keeper)  # type: ignore[misc]

    def is_locked_where_it_runs(self, keeper: Keeper, /) -> bool:
        """Whether etcd names the host of its guest, and that very process."""
        guest, stored = keeper.guest, self.witness.locks.get(keeper.disk.domain.uuid)
        return guest is not None and stored is not None and (
            (stored.record.owner.host, stored.record.machine.boot, stored.record.pid)
            == (guest.host.name, guest.boot, guest.pid)
        )

    def _wait(self, holds: Callable[[], bool], keeper: Keeper) -> None:
        try:
            wait_until(
                lambda: holds() or keeper.failure is not None,
                what=f"{keeper.disk.domain.name} runs and is locked where it runs",
                within_seconds=_AT_REST_SECONDS + self.timing.takeover_seconds,
            )
        except AssertionError as failure:
            raise AssertionError(f"{failure}; {keeper.log()}") from None
        assert keeper.failure is None, keeper.failure

    # --- the end ---------------------------------------------------------------------------------------------------

    def end_guests(self) -> None:
        """All of them, in order."""
        self.orders.ends.set()
        for keeper in self.keepers:
            keeper.join(_AT_REST_SECONDS + self.timing.takeover_seconds)
            assert not keeper.is_alive(), f"the keeper of {keeper.disk.domain.name} hangs"

    def close(self) -> None:
        """The hosts are off."""
        self.orders.ends.set()
        for keeper in self.keepers:
            keeper.join(_AT_REST_SECONDS)
        for guest in (guest for keeper in self.keepers for guest in keeper.guests):
            guest.put_away()
        if self._witness is not None:
            with suppress(Exception):
                self._witness.close()

    def _variables(self) -> dict[str, str]:
        timing = {f"ETCDLOCK_TIMING__{name.upper()}": f"{value:g}" for name, value in self.timing.as_mapping().items()}
        return {
            **timing,
            "ETCDLOCK_ENDPOINTS": ",".join(self.lab.quorum.endpoints),
            "ETCDLOCK_CLUSTER": self.name,
            "ETCDLOCK_DISK_IDENTITY": "path",  # as the judges know disks
            "ETCDLOCK_ALLOW_UNSAFE_ETCD": "true",
            "ETCDLOCK_ACQUIRE_SECONDS": "5",
            **self.settings,
        }


EVERYBODY: Final = (*CLOCKS, *MEMBERS)
