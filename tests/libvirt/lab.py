"""Several libvirt hosts on this machine, a switch between them, a SAN that all of them see, and a cable to us.

The switch is a bridge in a network namespace of its own, so no firewall of this machine's has a say. A shared disk is
one file with a loop device of its own for each host, under one path: locks that one host's QEMU sets on its device are
unknown to the others, as with a LUN. Only what is being tested keeps two guests from one disk.
"""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from tests.libvirt.host import IMAGES
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.loop import LoopDevice, attach
from tests.libvirt.machine import Machine

_BENCHMARK_NETWORKS = tuple(ipaddress.IPv4Network("198.18.0.0/15").subnets(new_prefix=24))
"""Set aside for tests of networks: no route leads there but those of tests."""
_SWITCH = "ip link add switch type bridge forward_delay 0; ip link set switch up"
_DISK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class SharedDisk:
    """A disk that all hosts see: `path` there, `file` here."""

    path: str
    file: Path


class Lab:
    """Hosts a, b, … that are on and reach each other. `address` is ours: what listens there they can reach."""

    def __init__(self, folder: Path, *, host_names: Sequence[str]) -> None:
        self._folder = folder
        self._disks: dict[str, dict[str, LoopDevice]] = {}
        network = free_network()
        self._prefix = network.prefixlen
        addresses = [str(address) for address in network.hosts()]
        self.address = addresses[0]
        self._peers = dict(zip(host_names, addresses[1:], strict=False))
        with ExitStack() as undo:
            self._switch = undo.enter_context(Machine(_SWITCH))
            self._plug_in_ourselves(undo)
            self._locks = folder / "locks"
            self._locks.mkdir()
            self.hosts = tuple(self._new_host(name, undo) for name in host_names)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Everything of it is gone on return."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- power ----------------------------------------------------------------------------------------------------

    def power_off(self, host: LibvirtHost, /) -> None:
        """Its network and everything on it are gone at once, and nobody hears of it; harmless when it is off."""
        if not host.is_on:
            return
        _do(*self._switch.inside(["ip", "link", "delete", _port(host)]))
        host.power_off()

    def power_on(self, host: LibvirtHost, /) -> None:
        """A new boot of it, with its files, its network and its view of the SAN. No program runs yet."""
        host.power_on()
        self._connect(host)
        for path, device in self._disks.get(host.name, {}).items():
            _make_node(host, path, device)

    def reinstall(self, host: LibvirtHost, /) -> None:
        """Off and on again, and all that its programs have written down is gone."""
        self.power_off(host)
        host.forget()
        self.power_on(host)

    # --- network --------------------------------------------------------------------------------------------------

    def unplug(self, host: LibvirtHost, /) -> None:
        """Nothing comes from it and nothing reaches it; nobody is told."""
        _do(*self._switch.inside(["ip", "link", "set", _port(host), "down"]))

    def plug_in(self, host: LibvirtHost, /) -> None:
        """Undo `unplug`."""
        _do(*self._switch.inside(["ip", "link", "set", _port(host), "up"]))

    @contextmanager
    def slowed(self, host: LibvirtHost, /, *, kilobits_per_second: int) -> Iterator[None]:
        """Inside, what it sends goes out that slowly; what it receives does not."""
        queue = ("dev", "eth0", "root")
        limit = ("tbf", "rate", f"{kilobits_per_second}kbit", "burst", "16kb", "latency", "400ms")
        _do(*host.machine.inside(["tc", "qdisc", "add", *queue, *limit]))
        try:
            yield
        finally:
            _do(*host.machine.inside(["tc", "qdisc", "delete", *queue]))

    # --- storage --------------------------------------------------------------------------------------------------

    @contextmanager
    def disk(self, name: str | None = None, /) -> Iterator[SharedDisk]:
        """A new disk on the SAN, zeros all over."""
        name = name or f"disk-{uuid4().hex[:8]}"
        disk = SharedDisk(f"{IMAGES}/{name}", self._folder / name)
        with disk.file.open("xb") as file:
            file.truncate(_DISK_BYTES)
        with ExitStack() as undo:
            undo.callback(disk.file.unlink)
            for host in self.hosts:
                device = undo.enter_context(closing(attach(disk.file)))
                undo.enter_context(self._visible(disk.path, on=host, device=device))
            yield disk

    # --- parts ----------------------------------------------------------------------------------------------------

    def _new_host(self, name: str, undo: ExitStack) -> LibvirtHost:
        folder = self._folder / f"host-{name}"
        host = LibvirtHost(name, folder=folder, shared_locks=self._locks, peers=self._peers)
        undo.callback(host.power_off)
        self._connect(host)
        return host

    def _connect(self, host: LibvirtHost) -> None:
        """Give a host that has just been switched on its network."""
        machine = host.machine
        card = _veth("eth0", "address", _mac(host), "netns", machine.pid)
        _do("ip", "link", "add", _port(host), "netns", self._switch.pid, *card)
        _do(*machine.inside(["ip", "address", "add", f"{host.address}/{self._prefix}", "dev", "eth0"]))
        _do(*machine.inside(["ip", "link", "set", "eth0", "up"]))
        self._into_switch(_port(host))

    @contextmanager
    def _visible(self, path: str, *, on: LibvirtHost, device: LoopDevice) -> Iterator[None]:
        disks = self._disks.setdefault(on.name, {})
        disks[path] = device
        _make_node(on, path, device)
        try:
            yield
        finally:
            on.machine.path(path).unlink(missing_ok=True)
            del disks[path]

    def _plug_in_ourselves(self, undo: ExitStack) -> None:
        """If we are killed the cable goes too: with its other end, which goes with the switch."""
        cable = f"lab{uuid4().hex[:8]}"
        _do("ip", "link", "add", cable, *_veth("port-us", "netns", self._switch.pid))
        undo.callback(_do, "ip", "link", "delete", cable)
        _do("ip", "address", "add", f"{self.address}/{self._prefix}", "dev", cable)
        _do("ip", "link", "set", cable, "up")
        self._into_switch("port-us")

    def _into_switch(self, port: str) -> None:
        _do(*self._switch.inside(["ip", "link", "set", port, "master", "switch", "up"]))


def _make_node(host: LibvirtHost, path: str, device: LoopDevice) -> None:
    major, minor = device.numbers
    _do(*host.machine.inside(["mknod", path, "b", str(major), str(minor)]))


def _port(host: LibvirtHost) -> str:
    return f"port-{host.name}"


def _mac(host: LibvirtHost) -> str:
    """The same with each power on, as others remember it."""
    return "02:00:" + ipaddress.IPv4Address(host.address).packed.hex(":")


def _veth(peer: str, *options: object) -> tuple[object, ...]:
    return ("type", "veth", "peer", "name", peer, *options)


def free_network() -> ipaddress.IPv4Network:
    routes = json.loads(_do("ip", "-json", "route", "show", "table", "all"))
    taken = {ipaddress.ip_network(route["dst"], strict=False) for route in routes if route["dst"][0].isdecimal()}
    free = [network for network in _BENCHMARK_NETWORKS if not any(network.overlaps(other) for other in taken)]
    return random.SystemRandom().choice(free)


def _do(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
