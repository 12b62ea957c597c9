"""Processes of other pid namespaces, as this one numbers them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def children(pid: int, /) -> list[int]:
    """The processes whose parent is `pid`."""
    return [each for each in _pids() if _parent(each) == pid]


def pid_here(pid_there: int, /, *, of: int) -> int | None:
    """How we number what is `pid_there` to those who share the pid namespace of `of`; None if it is gone."""
    namespace = _namespace(of)
    found = (pid for pid in _pids() if _namespace(pid) == namespace and _innermost_pid(pid) == pid_there)
    return next(found, None)


def is_alive(pid: int, /) -> bool:
    """Whether it is there and no zombie."""
    return _status(pid).get("State", "Z")[0] not in "ZX"


def is_stopped(pid: int, /) -> bool:
    """Whether it waits for SIGCONT."""
    return _status(pid).get("State", "Z")[0] == "T"


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _parent(pid: int) -> int:
    return int(_status(pid).get("PPid", "-1"))


def _innermost_pid(pid: int) -> int:
    return int(_status(pid).get("NSpid", "-1").split()[-1])


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:  # it has gone meanwhile
        return ""


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
