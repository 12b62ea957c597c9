"""Questions about disks, asked beside the event loop and for no longer than a bound.

A disk that does not answer holds up nobody else.

Guaranteed: whoever asks is answered within `within_seconds`. What is asked for together is looked at in one thread; a
dead file server costs one for each such question that leads to it, however often it is repeated, up to `MOST_LOOKS`;
then nothing more is looked at until one of them comes back. A look that has begun cannot be broken off: its thread ends
when the storage answers, or with this program.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from etcdlock.errors import NotIdentified
from etcdlock.identity import escaped

WITHIN_SECONDS = 4.0
MOST_LOOKS = 64

Asked = TypeVar("Asked", bound=Hashable)
Found = TypeVar("Found")


@dataclass(slots=True)
class _Look(Generic[Found]):
    """What is being looked at, for all who ask for the same."""

    ended: threading.Event = field(default_factory=threading.Event)
    found: tuple[Found, ...] = ()
    error: Exception | None = None
    waiting: list[Callable[[], object]] = field(default_factory=list)

    def outcome(self) -> tuple[Found, ...]:
        if self.error is not None:
            raise self.error
        return self.found


class Bounded(Generic[Asked, Found]):
    """`answer` gives one answer for each that is asked about; `shown` is what a person calls it."""

    def __init__(
        self,
        answer: Callable[[tuple[Asked, ...]], tuple[Found, ...]],
        /,
        *,
        shown: Callable[[Asked], str],
        within_seconds: float = WITHIN_SECONDS,
    ) -> None:
        self._answer = answer
        self._shown = shown
        self._within_seconds = within_seconds
        self._looks: dict[tuple[Asked, ...], _Look[Found]] = {}
        self._lock = threading.Lock()

    async def ask(self, wanted: tuple[Asked, ...], /) -> tuple[Found, ...]:
        """All or an error: what `answer` raises, or `NotIdentified` where there was no answer in time."""
        look, arrived = self._begin(wanted), asyncio.Event()
        loop = asyncio.get_running_loop()
        self._tell(look, lambda: loop.call_soon_threadsafe(arrived.set))
        try:
            async with asyncio.timeout(self._within_seconds):
                await arrived.wait()
        except TimeoutError:
            raise self._too_late(wanted) from None
        return look.outcome()

    def ask_now(self, wanted: tuple[Asked, ...], /) -> tuple[Found, ...]:
        """The same for a program that has nothing else to do meanwhile."""
        look = self._begin(wanted)
        if not look.ended.wait(self._within_seconds):
            raise self._too_late(wanted)
        return look.outcome()

    def _too_late(self, wanted: tuple[Asked, ...], /) -> NotIdentified:
        shown = ", ".join(f"'{escaped(self._shown(one))}'" for one in wanted[:3])
        return NotIdentified(
            f"{shown}{' and others' if len(wanted) > 3 else ''} did not let itself be looked at within"
            f" {self._within_seconds:g} s",
            hint="see whether its file server or storage answers; then try again",
        )

    def _begin(self, wanted: tuple[Asked, ...], /) -> _Look[Found]:
        with self._lock:
            under_way = self._looks.get(wanted)
            if under_way is not None:
                return under_way
            if len(self._looks) >= MOST_LOOKS:
                stuck = self._shown(next(iter(self._looks))[0])
                raise NotIdentified(
                    f"'{escaped(self._shown(wanted[0]))}' cannot be looked at: {MOST_LOOKS} disks do not answer,"
                    f" '{escaped(stuck)}' among them",
                    hint="see to their file server or storage",
                )
            look = self._looks[wanted] = _Look()
        threading.Thread(target=self._see, args=(wanted, look), name="disk-look", daemon=True).start()
        return look

    def _see(self, wanted: tuple[Asked, ...], look: _Look[Found], /) -> None:
        try:
            look.found = self._answer(wanted)
        except Exception as error:  # noqa: BLE001 - it is raised again to whoever has asked
            look.error = error
        with self._lock:
            del self._looks[wanted]
            look.ended.set()
            waiting = tuple(look.waiting)
        for tell in waiting:
            try:
                tell()
            except RuntimeError:  # its event loop has ended: nobody waits any more
                continue

    def _tell(self, look: _Look[Found], tell: Callable[[], object], /) -> None:
        with self._lock:
            if look.ended.is_set():
                tell()
            else:
                look.waiting.append(tell)
