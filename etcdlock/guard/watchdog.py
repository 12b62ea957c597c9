"""The host's watchdog: a Linux device that resets the host unless it is fed within its timeout.

Guaranteed: it is fed only at an instant at which the rule allows it, and opened, which feeds it, only then. It is
closed for good (the magic character) only where no guest is armed; however else this process ends, the device runs on,
and resets the host unless a successor opens it in time. A device that another has open is asked for again and again:
that is how a guard takes it over from the one before, which feeds it by the same rule until it ends; between the two it
runs on, so the host is never without.

One that `waits` is not touched until it is told to wait no longer: what it would keep from a reset is not known yet.
From then on it is asked for as one that another has, and until it may be opened.

Refused: a device that stops when its process dies. Not covered: one whose driver was told never to be closed
(`nowayout`): the magic character does not stop it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable

from etcdlock.guard import wire

_GET_SUPPORT, _SET_TIMEOUT, _GET_TIMEOUT = 0x80285700, 0xC0045706, 0x80045707
_MAGIC_CLOSE = 0x0100
_INFO_BYTES = 40
OFF, WAITS, ABSENT, BUSY, OPEN = "off", "waits", "absent", "busy", "open"


class Device:
    """An open watchdog device; opening it has started it."""

    def __init__(self, path: str, /) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def survives_us(self) -> bool:
        """Whether it runs on though this process ends without a word."""
        info = fcntl.ioctl(self._descriptor, _GET_SUPPORT, bytes(_INFO_BYTES))
        options: int = struct.unpack_from("=I", info)[0]
        return bool(options & _MAGIC_CLOSE)

    def set_timeout(self, seconds: int, /) -> int:
        """Ask for this timeout; the one that it has."""
        try:
            fcntl.ioctl(self._descriptor, _SET_TIMEOUT, struct.pack("=i", seconds))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
                raise
        read_back: int = struct.unpack("=i", fcntl.ioctl(self._descriptor, _GET_TIMEOUT, bytes(4)))[0]
        return read_back

    def feed(self) -> None:
        """One more timeout."""
        os.write(self._descriptor, b"\0")

    def close(self, *, for_good: bool) -> None:
        """Let go of it; `for_good` stops it."""
        try:
            if for_good:
                os.write(self._descriptor, b"V")
        finally:
            os.close(self._descriptor)


class Watchdog:
    """The device as the guard has it: not at all, not yet, or open."""

    def __init__(
        self, path: str, /, *, wanted_seconds: int, waits: bool = False, opening: Callable[[str], Device] = Device
    ) -> None:
        self._path = path
        self._wanted_seconds = wanted_seconds
        self._opening = opening
        self._device: Device | None = None
        self._feed_at = 0.0
        self.standing = OFF if not path else WAITS if waits else BUSY
        self.reason = ""
        self.seconds = 0.0
        """The timeout as read back from the device."""

    def wait_no_longer(self) -> None:
        """It may be opened."""
        if self.standing == WAITS:
            self.standing = BUSY

    def open(self, may_open: Callable[[], bool] = lambda: True) -> bool:
        """Try, if it is not open yet, and may be; whether that is settled since now: there is `news`."""
        if self.standing != BUSY or not may_open():
            return False
        try:
            device = self._opening(self._path)
        except OSError as error:
            self.standing = BUSY if error.errno == errno.EBUSY else ABSENT
            self.reason = f"{self._path}: {error.strerror}"
            return self.standing == ABSENT
        self._take(device)
        return True

    @property
    def news(self) -> tuple[object, ...]:
        """As it is told: it is open, or never will be."""
        if self.standing == OPEN:
            return wire.WATCHING, self.seconds
        return wire.ABSENT, 0, "-", self.reason

    def _take(self, device: Device) -> None:
        try:
            survives, seconds = device.survives_us(), device.set_timeout(self._wanted_seconds)
        except OSError as error:
            self._refuse(device, f"is no watchdog: {error.strerror}")
            return
        if not survives or seconds <= 0:
            self._refuse(device, "stops with its process" if not survives else "tells no timeout")
            return
        self._device, self.standing, self.seconds, self.reason = device, OPEN, float(seconds), ""

    def _refuse(self, device: Device, reason: str) -> None:
        device.close(for_good=True)
        self.standing, self.reason = ABSENT, f"{self._path}: {reason}"

    def wait_seconds(self, *, now_seconds: float) -> float | None:
        """How long there is nothing to do here; None if never."""
        if self.standing == BUSY:
            return 0.1
        return max(self._feed_at - now_seconds, 0.0) if self._device is not None else None

    def attend(self, *, now_seconds: float, every_seconds: float, may_feed: Callable[[float], bool]) -> None:
        """Feed it if that is due, and allowed with its timeout. Nothing comes between the answer and the feeding."""
        if self._device is None or now_seconds < self._feed_at:
            return
        if may_feed(self.seconds):
            self._device.feed()
            self._feed_at = now_seconds + min(every_seconds, self.seconds / 4)

    def end(self, *, guests: bool) -> None:
        """Nothing is fed from here on. Without guests the device stops, else it runs on for whoever comes."""
        device, self._device, self.standing = self._device, None, OFF
        if device is not None:
            device.close(for_good=not guests)
