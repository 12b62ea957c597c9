"""Writes files that must not have been there: secrets for their owner alone, whatever the umask.

Guaranteed: nothing that exists is overwritten; a file has its mode from its first instant; what was begun and could not
be finished is removed again. A replacement is there whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from etcdlock.errors import InvalidInput, reason_of

_FOLDER: Final = 0o700
_SECRET: Final = 0o600
_PUBLIC: Final = 0o644


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file, and whether only its owner may read it."""

    data: bytes
    secret: bool

    @property
    def mode(self) -> int:
        return _SECRET if self.secret else _PUBLIC


def refuse_existing(paths: Mapping[Path, Content], /) -> None:
    """Raise `InvalidInput` that names what is there already."""
    there = sorted(str(path) for path in paths if os.path.lexists(path))
    if there:
        raise InvalidInput(
            f"{', '.join(there)}: it is there already; nothing was written",
            hint="nothing is ever overwritten: move away what is not wanted any more, or use another folder",
        )


def write_new(files: Mapping[Path, Content], /) -> None:
    """All of them or none; folders are made. Raises `InvalidInput` for what exists or cannot be written."""
    refuse_existing(files)
    path = Path()
    with ExitStack() as undo:
        try:
            for path, content in files.items():
                path.parent.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
                _write(path, content)
                undo.callback(path.unlink)
        except OSError as error:
            in_the_way = f"{error.filename}: " if error.filename not in (None, path) else ""
            raise InvalidInput(f"{path}: it cannot be written: {in_the_way}{reason_of(error)}") from error
        undo.pop_all()


def replace(path: Path, content: Content, /) -> None:
    """Put this in the place of what is there. Raises `InvalidInput`."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(new, content)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise InvalidInput(f"{path}: it cannot be replaced: {reason_of(error)}") from error


def _write(path: Path, content: Content, /) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, content.mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, content.mode)  # more than the umask leaves
            file.write(content.data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
