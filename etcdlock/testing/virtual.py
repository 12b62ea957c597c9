"""Virtual time: an asyncio event loop whose clock jumps to the next timer as soon as nothing is ready.

Guaranteed: the same program takes the same steps in the same order, hours pass in milliseconds, and time stands still
while code runs. A program in which nothing can ever happen again raises `VirtualDeadlock` at once instead of hanging;
one that runs past its limit raises `VirtualTimeLimit`; one that spins without letting time pass raises `VirtualSpin`.

Tasks are numbered and hashed by their number, so that even a `set` of them, which asyncio itself keeps, is gone through
in the same order each time.

Not guaranteed: anything about real I/O. Sockets, threads and subprocesses are refused with `VirtualOnly`, because no
timer tells when they would be ready.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SPINS_BEFORE_COMPLAINT = 1_000_000
# An asyncio loop tells timers apart down to 1 ns; beyond this a float no longer can.
LONGEST_LIMIT_SECONDS = 1_000_000.0
# After an error the tasks that are cancelled may still clean up, which may take them a little virtual time.
CLEAN_UP_SECONDS = 60.0


class VirtualTimeError(AssertionError):
    """A program that virtual time cannot carry to its end; a failure of the test that runs it."""


class VirtualDeadlock(VirtualTimeError):
    """Nothing is ready and nothing is scheduled: nothing can ever happen again."""


class VirtualTimeLimit(VirtualTimeError):
    """The program wanted to live longer than its limit allows."""


class VirtualSpin(VirtualTimeError):
    """The program runs on and on without letting time pass."""


class VirtualOnly(VirtualTimeError):
    """Real I/O, a thread or a process was asked for."""


class _JumpingSelector(selectors.BaseSelector):
    """Never waits: it is asked to wait for a timer, and moves the clock there instead."""

    def __init__(self, *, jump: Callable[[float | None], None]) -> None:
        self._jump = jump
        self._keys: dict[FileDescriptorLike, selectors.SelectorKey] = {}

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        # The one file that an asyncio loop registers by itself is its wake-up pipe, which stays silent here.
        if self._keys:
            raise VirtualOnly("real I/O under virtual time: only fakes work here")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._jump(timeout)
        return []

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class NumberedTask(asyncio.Task[T]):
    """Its hash is its number in its loop, not its place in memory."""

    def __init__(self, coroutine: Any, /, *, number: int, **options: Any) -> None:
        self.number = number  # first: making a task puts it into a set
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop itself; most callers want `run_virtual`."""

    def __init__(self, *, limit_seconds: float) -> None:
        self._virtual_seconds = 0.0
        self._limit_seconds = limit_seconds
        self._spins = 0
        self._home = threading.get_ident()
        self._tasks_made = 0
        super().__init__(_JumpingSelector(jump=self._jump))
        self.set_task_factory(self._numbered)

    def time(self) -> float:
        """Seconds since the program began."""
        return self._virtual_seconds

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._home:
            raise VirtualOnly("a thread under virtual time: nobody can tell when it would be done")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002  # the signature is asyncio's
        func: Callable[[Unpack[Ts]], T],
        *args: *Ts,  # noqa: ARG002
    ) -> asyncio.Future[T]:
        raise VirtualOnly(f"a thread under virtual time, for {func!r}: nobody can tell when it would be done")

    def _numbered(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        self._tasks_made += 1
        return NumberedTask(coroutine, number=self._tasks_made, loop=loop, **options)

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            raise VirtualDeadlock(f"nothing can ever happen again; {self._waiting()}")
        if timeout <= 0:
            self._count_spin()
            return
        self._spins = 0
        # The sum of now and the time left may round to now: go on by at least one representable step.
        target = max(self._virtual_seconds + timeout, math.nextafter(self._virtual_seconds, math.inf))
        if target > self._limit_seconds:
            limit, self._limit_seconds = self._limit_seconds, target + CLEAN_UP_SECONDS
            raise VirtualTimeLimit(f"not done after {limit:g} virtual seconds; {self._waiting()}")
        self._virtual_seconds = target

    def _count_spin(self) -> None:
        self._spins += 1
        if self._spins > SPINS_BEFORE_COMPLAINT:
            self._spins = 0
            raise VirtualSpin(f"no time passes at {self._virtual_seconds:g} virtual seconds; {self._waiting()}")

    def _waiting(self) -> str:
        places = sorted(_place(task) for task in asyncio.all_tasks(self))
        return "waiting: " + ("; ".join(places) or "no task at all")


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the innermost of its own frames."""
    awaited: object = task.get_coro()
    frame: FrameType | None = None
    while (inner := getattr(awaited, "cr_frame", None)) is not None:
        awaited, frame = getattr(awaited, "cr_await", None), inner
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "before its first step"
    return f"{task.get_name()} at {where}"


def run_virtual(
    program: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T], *, limit_seconds: float = 3600.0
) -> T:
    """Run a coroutine, or what a function without parameters makes, to its end in virtual time that begins at 0.

    Raises what the program raises, or a `VirtualTimeError` that says where each task was waiting.
    """
    if not 0 < limit_seconds <= LONGEST_LIMIT_SECONDS:
        raise ValueError(f"limit of {limit_seconds!r} s: it must be positive, at most {LONGEST_LIMIT_SECONDS:g} s")
    coroutine = program if isinstance(program, Coroutine) else program()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(limit_seconds=limit_seconds)) as runner:
        return runner.run(coroutine)
