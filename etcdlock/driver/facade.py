"""An event loop in a thread of its own, behind calls that wait: how a synchronous program keeps a session alive.

Guaranteed: a call is answered within its bound, whatever becomes of the loop; what it has begun goes on without it. Any
number of threads may call. The loop does nothing of the caller's: a program that computes, waits or is stopped in a
debugger delays it only as far as the interpreter's own lock does.

Not guaranteed: anything after a fork without an exec. The thread stays with the parent; the child's calls are refused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from etcdlock.errors import DriverClosed, OutcomeUnknown

T = TypeVar("T")
Main = Callable[[Callable[[], None], asyncio.Event], Coroutine[Any, Any, None]]

BEHIND_SECONDS = 2.0
"""How much longer a call waits than what it has asked for takes at the most."""


class Facade:
    """`main` is run in the thread until `close`; it calls the first function it is given once calls may be made, and
    ends when the event is set. `close_seconds` bounds its end.
    """

    def __init__(self, name: str, /, *, answer_seconds: float, close_seconds: float) -> None:
        self._name = name
        self._answer_seconds = answer_seconds
        self._close_seconds = close_seconds
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def start(self, main: Main, /) -> None:
        """Come back once calls may be made. Raises what `main` raises before that."""
        thread = threading.Thread(target=self._run, args=(main,), name=f"etcdlock-{self._name}", daemon=True)
        thread.start()
        self._ready.result()

    def _run(self, main: Main, /) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(main(self._is_ready, self._told))
        except BaseException as error:  # noqa: BLE001 - it is passed on to whoever waits, and to every later call
            self._failure = error
        finally:
            self._ended.set()
            if not self._ready.done():
                self._ready.set_exception(self._failure or DriverClosed(f"driver {self._name!r} ended at its start"))

    def _is_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def ask(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """Do it in the loop, and wait. Raises what it raises, `DriverClosed`, and `OutcomeUnknown` past the bound."""
        asked = asyncio.run_coroutine_threadsafe(_made(work), self._checked())
        try:
            return asked.result(self._answer_seconds + BEHIND_SECONDS)
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            if asked.done() and not asked.cancelled():
                raise
            raise OutcomeUnknown(
                f"driver {self._name!r} gave no answer within {self._answer_seconds + BEHIND_SECONDS:g} s",
                hint="ask again: what was done is a success",
            ) from error

    def _checked(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            raise DriverClosed(f"driver {self._name!r} runs in process {self._pid}, not in this fork of it")
        if self._ended.is_set() or self._loop is None:
            why = f": {self._failure}" if self._failure is not None else ""
            raise DriverClosed(
                f"driver {self._name!r} has ended{why}",
                hint="no domain may be started; its guard stops the guests in time unless the driver is loaded again",
            ) from self._failure
        return self._loop

    def close(self) -> None:
        """Tell `main` to end, and wait for that. In a forked child nothing is done."""
        if self._pid == os.getpid() and self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._told.set)
            self._ended.wait(self._close_seconds)


async def _made(work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
    """Made in the loop: a coroutine that nobody runs would be one too many where the loop has just ended."""
    return await work()
