"""State strings: what a management program keeps of an ownership while its guest stands, or hands to a destination.

    etcdlock:1:<domain's UUID>:<token>:<run>:<host>

Token and run are empty where the driver has none; the host is the destination's, empty where it does not matter. Other
programs may store it, and must not take it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote
from uuid import UUID

from etcdlock.driver.plugin import Lock
from etcdlock.errors import InvalidInput

_FORM = "etcdlock:1"


@dataclass(frozen=True, slots=True)
class State:
    """One ownership of a domain."""

    uuid: UUID
    token: int | None = None
    run: str = ""
    host: str = ""

    def __str__(self) -> str:
        token = "" if self.token is None else str(self.token)
        return f"{_FORM}:{self.uuid}:{token}:{quote(self.run, safe='')}:{quote(self.host, safe='')}"

    def is_of(self, lock: Lock, /) -> bool:
        """Whether that is still the ownership, and its guest was not let run since."""
        return (self.uuid, self.token, self.run) == (lock.uuid, lock.token, lock.run)


def state_of(lock: Lock, /, *, host: str = "") -> State:
    """What says it."""
    return State(lock.uuid, lock.token, lock.run, host)


def parse_state(text: str, /) -> State:
    """Raises `InvalidInput`."""
    fields = text.removeprefix(f"{_FORM}:").split(":") if text.startswith(f"{_FORM}:") else []
    try:
        uuid, token, run, host = fields
        return State(UUID(uuid), int(token) if token else None, unquote(run), unquote(host))
    except ValueError:
        raise InvalidInput(
            f"{text[:120]!r} is no state string of this version",
            hint="pass on what suspend() or prepare_migrate() gave",
        ) from None
