"""A power switch without a device, which does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from etcdlock.errors import NotConfirmedOff
from etcdlock.ports import Power, PowerSwitch


class FakePowerSwitch(PowerSwitch):
    """`cut` is what it does to its host. `fails` counts the calls of `off` that fail and do nothing; `says`, where it
    is set, is what its state is said to be whatever was done; every call takes `seconds`.
    """

    def __init__(self, name: str, /, *, cut: Callable[[], None] = lambda: None, seconds: float = 1.0) -> None:
        self._name = name
        self._cut = cut
        self._seconds = seconds
        self.power = Power.ON
        self.says: Power | None = None
        self.fails = 0
        self.calls = 0

    @property
    def label(self) -> str:
        """Its name."""
        return self._name

    async def off(self) -> None:
        """Cut its host off."""
        self.calls += 1
        await asyncio.sleep(self._seconds)
        if self.fails:
            self.fails -= 1
            raise NotConfirmedOff(f"{self._name}: off: exit code 1")
        self.power = Power.OFF
        self._cut()

    async def state(self) -> tuple[Power, str]:
        """How it stands."""
        await asyncio.sleep(self._seconds)
        return self.says or self.power, ""
