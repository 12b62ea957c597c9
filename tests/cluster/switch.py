"""The network of a lab, as a switch in user space: what goes from one port to another can be lost or late, each way.

Run as `python -m tests.cluster.switch SEED`; it needs root. One JSON document a line is a request, and each is answered
by a line. It ends with its input, and every network card that it has made goes with it, however it ends: nothing to
clean up.

    {"do": "attach", "port": "a", "pid": 4711, "device": "eth0", "mac": "02:…"}   a card in that process's network
    {"do": "detach", "port": "a"}
    {"do": "link", "from": "a", "to": "b", "loss": 0.2, "delay": 0.5}             loss 1 is a cut

It works on every kernel that has TAP devices; the kernel's own netem, which would do the same, is often not there.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
_CLONE_NEWNET: Final = 0x40000000
_FRAME_BYTES: Final = 65_536
_GROUP: Final = 1
"""The bit of a MAC address by which a frame is for all."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two ports."""

    loss: float = 0.0
    delay: float = 0.0


class Switch:
    """Ports by name, and how frames get from one to another."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - which frames are lost, nothing secret
        self._taps: dict[str, int] = {}
        self._ports: dict[bytes, str] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._late: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)

    def serve(self) -> None:
        """Until the input ends."""
        while True:
            for descriptor, _ in self._poll.poll(self._milliseconds_to_next()):
                if descriptor == 0:
                    line = sys.stdin.buffer.readline()
                    if not line:
                        return
                    print(json.dumps(self._do(json.loads(line))), flush=True)
                else:
                    self._receive(descriptor)
            self._deliver_late()

    # --- requests --------------------------------------------------------------------------------------------------

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "attach":
                self._attach(request["port"], request["pid"], request["device"], mac=bytes.fromhex(request["mac"]))
            case "detach":
                self._detach(request["port"])
            case "link":
                self._links[request["from"], request["to"]] = Link(request["loss"], request["delay"])
        return {}

    def _attach(self, port: str, pid: int, device: str, *, mac: bytes) -> None:
        self._detach(port)
        tap = _new_tap(device, pid=pid)
        self._taps[port] = tap
        self._ports[mac] = port
        self._poll.register(tap, select.POLLIN)

    def _detach(self, port: str) -> None:
        tap = self._taps.pop(port, None)
        if tap is not None:
            self._poll.unregister(tap)
            os.close(tap)

    # --- frames ----------------------------------------------------------------------------------------------------

    def _receive(self, tap: int) -> None:
        source = next((port for port, each in self._taps.items() if each == tap), "")
        try:
            frame = os.read(tap, _FRAME_BYTES)
        except OSError:         # its network is gone, with the machine that it was of
            self._detach(source)
            return
        for port in self._destinations(frame, source):
            link = self._links.get((source, port), Link())
            if self._random.random() < link.loss:
                continue
            if link.delay:
                self._count += 1
                heapq.heappush(self._late, (time.monotonic() + link.delay, self._count, port, frame))
            else:
                self._deliver(port, frame)

    def _destinations(self, frame: bytes, source: str) -> Iterator[str]:
        if frame[0] & _GROUP:
            yield from (port for port in self._taps if port != source)
        elif (port := self._ports.get(frame[:6])) is not None:
            yield port

    def _deliver(self, port: str, frame: bytes) -> None:
        tap = self._taps.get(port)
        if tap is not None:
            try:
                os.write(tap, frame)
            except OSError:     # a card that is down loses what comes
                return

    def _deliver_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, _, port, frame = heapq.heappop(self._late)
            self._deliver(port, frame)

    def _milliseconds_to_next(self) -> float | None:
        return max(0.0, 1000 * (self._late[0][0] - time.monotonic())) if self._late else None


def _new_tap(device: str, *, pid: int) -> int:
    """A card in the network of another process. Only for a process with one thread."""
    own, other = (os.open(f"/proc/{each}/ns/net", os.O_RDONLY) for each in ("self", pid))
    try:
        _enter(other)
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _TAP_WITHOUT_HEADER))
    finally:
        _enter(own)
        os.close(own)
        os.close(other)
    return tap


def _enter(network: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    Switch(sys.argv[1]).serve()
