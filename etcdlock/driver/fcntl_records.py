"""What the driver `fcntl` writes down of its locks, a small file a domain: for people, for refusals, and for whoever
finds a guest again. No lock is given or taken for what is written there.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from etcdlock.driver.plugin import Lock
from etcdlock.errors import Refused
from etcdlock.model import LockState, Mode, Resource


class Records:
    """`<uuid>.json` in the folder. `host` is ours."""

    def __init__(self, folder: Path, host: str, /) -> None:
        self._folder = folder
        self._host = host

    def write(self, lock: Lock, /) -> Lock:
        """Whole or not at all. Raises `Refused`."""
        names = ("uuid", "name", "host", "state", "run", "pid", "since")
        resources = [[item.lockspace, item.name, item.mode, item.path] for item in lock.resources]
        text = json.dumps({**{name: getattr(lock, name) for name in names}, "resources": resources}, default=str)
        draft = self._path(lock.uuid).with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        try:
            draft.write_text(text, encoding="utf-8", errors="surrogateescape")
            draft.replace(self._path(lock.uuid))
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise Refused(f"fcntl_folder: {draft}: {error.strerror}; no lock was changed") from error
        return lock

    def read(self, uuid: UUID, /) -> Lock | None:
        """None where there is none that can be read."""
        try:
            return self._parsed(json.loads(self._path(uuid).read_text(encoding="utf-8", errors="surrogateescape")))
        except (OSError, ValueError, KeyError, TypeError):  # it only tells who it is
            return None

    def remove(self, uuid: UUID, /) -> None:
        """Of what is held no more."""
        self._path(uuid).unlink(missing_ok=True)

    def all(self) -> Iterator[Lock]:
        """Also of locks that have ended."""
        for path in sorted(self._folder.glob("*.json")):
            with suppress(ValueError):  # not one of ours
                lock = self.read(UUID(path.stem))
                if lock is not None:
                    yield lock

    def _path(self, uuid: UUID, /) -> Path:
        return self._folder / f"{uuid}.json"

    def _parsed(self, found: dict[str, Any], /) -> Lock:
        return Lock(
            UUID(found["uuid"]),
            str(found["name"]),
            held=found["host"] == self._host,
            host=str(found["host"]),
            state=LockState(found["state"]),
            run=str(found["run"]),
            pid=int(found["pid"]),
            since=str(found["since"]),
            resources=tuple(Resource(space, name, Mode(mode), path) for space, name, mode, path in found["resources"]),
        )
