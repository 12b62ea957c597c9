"""A host's watchdog on virtual time: it resets the host unless it is fed within its timeout, whatever else is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class FakeWatchdog:
    """One device. `late_seconds` is what its own timer adds to the timeout; `reset` is called when that is over.

    `hold_next_feed` makes whoever feeds it next stall just before that.
    """

    def __init__(self, seconds: float, /, *, reset: Callable[[], None], late_seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._late_seconds = late_seconds
        self._reset = reset
        self._owner: object | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._held: Callable[[Callable[[], None]], None] | None = None

    @property
    def runs(self) -> bool:
        """Whether it will reset the host if nobody comes."""
        return self._timer is not None

    def hold_next_feed(self, held: Callable[[Callable[[], None]], None], /) -> None:
        """The next feeding is handed over to be done later, by whoever was about to do it."""
        self._held = held

    def open(self, owner: object, /) -> bool:
        """Whether it is this one's now; one that another has is busy. Opening starts it."""
        if self._owner is None:
            self._owner = owner
            self._start()
        return self._owner is owner

    def feed(self, owner: object, /) -> None:
        """One more timeout."""
        held, self._held = self._held, None
        if held is not None:
            held(lambda: self._fed(owner))
        else:
            self._fed(owner)

    def _fed(self, owner: object) -> None:
        if self._owner is owner and self._timer is not None:
            self._start()

    def dropped(self, owner: object, /) -> None:
        """Its owner died: it runs on."""
        if self._owner is owner:
            self._owner = None

    def closed(self, owner: object, /, *, for_good: bool) -> None:
        """Let go of; `for_good` stops it."""
        if self._owner is owner:
            self._owner = None
            if for_good:
                self.stop()

    def stop(self) -> None:
        """No reset any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def _start(self) -> None:
        self.stop()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.seconds + self._late_seconds, self._bite)

    def _bite(self) -> None:
        self._timer = None
        self._reset()
