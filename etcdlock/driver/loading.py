"""Finds, checks and shares drivers: one of each kind and configuration in a process, for as long as anybody has it.

Guaranteed: a driver that is not there, is too old, lacks what is required or cannot be opened is `DriverNotLoaded`, and
nothing else takes its place: no domain may start. `load` may be called from many threads at once, and again: all get
the same driver, opened once, and it is closed when the last of them has closed it.

A driver is loaded by the process that uses it. After a fork without an exec the child has none: it must load its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etcdlock.driver.plugin import API_VERSION, Capability, Driver, Opening, lacking
from etcdlock.errors import DriverClosed, DriverNotLoaded, EtcdlockError, InvalidInput

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

GROUP = "etcdlock.drivers"


@dataclass(slots=True, eq=False)
class _Shared:
    """A driver, and how many have it loaded. `turn` is held while it is opened or closed."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    driver: Driver | None = None
    users: int = 0


class Loaded:
    """A driver as `load` gives it out. A context manager; closed once, whatever else is asked of it is refused."""

    def __init__(self, driver: Driver, shared: _Shared, /) -> None:
        self._driver = driver
        self._shared = shared
        self._pid = os.getpid()
        self._is_closed = False
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The driver's."""
        return self._driver.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it declares."""
        return self._driver.capabilities

    @property
    def cannot_protect(self) -> tuple[str, ...]:
        """What its users must know."""
        return self._driver.cannot_protect

    def ask(self, *needed: Capability) -> Driver:
        """The driver itself. Raises `NotSupported` for what it does not declare, and `DriverClosed`."""
        if self._pid != os.getpid():
            raise DriverClosed(
                f"driver {self.name!r} was loaded by process {self._pid}, before it forked this one",
                hint="load it in the process that uses it",
            )
        if self._is_closed:
            raise DriverClosed(f"driver {self.name!r} was closed here", hint="load it again")
        for capability in needed:
            if capability not in self.capabilities:
                raise lacking(self.name, capability)
        return self._driver

    def close(self) -> None:
        """Let go of it. Guests that run keep their locks. In a forked child nothing is done."""
        if self._pid != os.getpid():
            return
        with self._turn:
            if self._is_closed:
                return
            self._is_closed = True
        _let_go(self._shared)


_all: dict[object, _Shared] = {}
_all_turn = threading.Lock()


def load(
    name: str = "",
    *,
    version: int = API_VERSION,
    require: Iterable[Capability] = (),
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
) -> Loaded:
    """The driver `name`, or the one that the setting `driver` names.

    `version` is the least API version that the caller needs, `require` the capabilities. `config` and `settings` are as
    the command line's `--config` and its flags: `settings={"cluster": "blue"}`. `options` are the driver's own.

    Raises `DriverNotLoaded`, with the cause, and then no domain may be started; `InvalidSetting` for wrong settings.
    """
    from etcdlock.config import load as load_settings

    found = load_settings(file=config, flags=settings)
    name = name or found.driver
    kind = _checked(name, version=version, require=frozenset(require))
    given = dict(options or {})
    shared = _shared((kind, found.model_dump_json(), tuple(sorted(given.items()))))
    return Loaded(_opened(shared, kind, name, Opening(found, given)), shared)


def available() -> tuple[str, ...]:
    """The names of all drivers that are installed."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def _checked(name: str, /, *, version: int, require: frozenset[Capability]) -> type[Driver]:
    """Before any guest is touched, and before the driver opens anything."""
    if version > API_VERSION:
        raise DriverNotLoaded(
            f"driver {name!r}: version {version} of the driver API is needed, and this etcdlock has {API_VERSION}",
            hint="update etcdlock",
        )
    kind = _kind(name)
    if kind.version < version:
        raise DriverNotLoaded(
            f"driver {name!r} is of version {kind.version} of the driver API, too old: {version} is needed",
            hint="update the package that brings it",
        )
    missing = sorted(require - kind.capabilities)
    if missing:
        raise DriverNotLoaded(
            f"driver {name!r} lacks what is required: {', '.join(missing)}", hint="docs/DRIVERS.md compares the drivers"
        )
    return kind


def _kind(name: str, /) -> type[Driver]:
    points = tuple(entry_points(group=GROUP, name=name))
    distinct = {point.value for point in points}
    if not points:
        raise DriverNotLoaded(
            f"there is no driver {name!r}", hint=f"installed are: {', '.join(available()) or 'none'}"
        )
    if len(distinct) > 1:
        raise DriverNotLoaded(
            f"driver {name!r} is brought by several packages: {', '.join(sorted(distinct))}",
            hint="uninstall all but one",
        )
    return _imported(name, points[0])


def _imported(name: str, point: EntryPoint, /) -> type[Driver]:
    try:
        kind: object = point.load()
    except Exception as error:
        raise DriverNotLoaded(f"driver {name!r} ({point.value}) cannot be imported: {error!r}") from error
    if not (isinstance(kind, type) and issubclass(kind, Driver)):
        raise DriverNotLoaded(f"driver {name!r}: {point.value} is no subclass of etcdlock.driver.Driver")
    return kind


def _shared(key: object, /) -> _Shared:
    with _all_turn:
        return _all.setdefault(key, _Shared())


def _opened(shared: _Shared, kind: type[Driver], name: str, opening: Opening, /) -> Driver:
    """The first opens it; who comes meanwhile waits for that, and tries again itself where it has failed."""
    with shared.turn:
        if shared.driver is None:
            try:
                shared.driver = kind.open(opening)
            except InvalidInput:
                raise
            except EtcdlockError as error:
                text = f"driver {name!r} cannot be opened, so no domain may be started: {error}"
                raise DriverNotLoaded(text, hint=error.hint) from error
            except Exception as error:  # whatever the code of others raises, there is no driver then
                raise DriverNotLoaded(
                    f"driver {name!r} cannot be opened, so no domain may be started: {error!r}"
                ) from error
        shared.users += 1
        return shared.driver


def _let_go(shared: _Shared, /) -> None:
    with shared.turn, ExitStack() as last:
        shared.users -= 1
        if shared.users == 0 and shared.driver is not None:
            last.callback(shared.driver.close)
            shared.driver = None


def _forget_all() -> None:
    """In a forked child: it has none of these, and the locks may have been held by threads that it has not got."""
    global _all_turn  # noqa: PLW0603 - the one that there is
    _all_turn = threading.Lock()
    _all.clear()


os.register_at_fork(after_in_child=_forget_all)
