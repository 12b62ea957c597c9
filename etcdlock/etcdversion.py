"""Which versions of etcd are fit to keep locks; pure.

It knows the faults that were known when it was written, and only the version that a member states.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

Version = tuple[int, int, int]


class Standing(StrEnum):
    """REFUSE: the version breaks what locks rest on. WARN: locks are safe, but something is worse than it could be."""

    OK = "ok"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class VersionVerdict:
    """`text` says what the standing means and what to do; empty when OK."""

    standing: Standing
    text: str = ""


_OLDEST_USABLE: Final[Version] = (3, 3, 0)  # before it, range compares are silently read as compares of one key
_OLDEST_TESTED: Final[Version] = (3, 4, 0)
_LOSES_DATA_FROM: Final[Version] = (3, 5, 0)
_LOSES_DATA_FIXED: Final[Version] = (3, 5, 3)

# For each fault, the first good patch release of every minor release that had it; later minors never did.
_WRONG_REVOKES: Final[tuple[Version, ...]] = ((3, 4, 31), (3, 5, 13))
_FULL_STOPS_HEARTBEATS: Final[tuple[Version, ...]] = ((3, 4, 20), (3, 5, 7))
_STALE_READS: Final[tuple[Version, ...]] = ((3, 4, 42), (3, 5, 28), (3, 6, 9))
_NESTED_UNCHECKED: Final[tuple[Version, ...]] = ((3, 4, 42), (3, 5, 28), (3, 6, 9))  # GHSA-rfx7-8w68-q57q

_SAYS_WRONG_REVOKES: Final = (
    "can revoke leases that were just renewed when a stalled leader comes back: locks stay safe, but sessions are "
    "lost and joined anew more often"
)
_SAYS_FULL_STOPS_HEARTBEATS: Final = (
    "refuses even deletions when its database is full: locks stay safe, but hosts can prove nothing then, and stop "
    "their guests"
)
_SAYS_STALE_READS: Final = "can answer plain reads from an old state: locks stay safe, but status may show what was"
_SAYS_NESTED_UNCHECKED: Final = (
    "looks at no role for what is nested in a transaction: whoever it lets connect can read and write every key"
)


def roles_bind(version: str, /) -> bool:
    """Whether the roles of users mean anything; False for a version that cannot be judged."""
    parsed = _parse(version)
    return parsed is not None and not _has(parsed, fixed_in=_NESTED_UNCHECKED)


def judge_version(version: str, /) -> VersionVerdict:
    """The verdict on a version as a member of etcd states it, for instance "3.5.1"."""
    parsed = _parse(version)
    if parsed is None:
        return VersionVerdict(Standing.WARN, f"etcd states the version {version!r}, which cannot be judged.")
    if parsed < _OLDEST_USABLE:
        return VersionVerdict(
            Standing.REFUSE,
            f"etcd {version} does not know compares over a range of keys, on which exclusion rests; use 3.5 or later.",
        )
    if _LOSES_DATA_FROM <= parsed < _LOSES_DATA_FIXED:
        return VersionVerdict(
            Standing.REFUSE,
            f"etcd {version} can lose committed data, and with it locks, when a member crashes; upgrade to 3.5.28 or "
            "later.",
        )
    return _warn(version, faults=_faults(parsed))


def _warn(version: str, *, faults: tuple[str, ...]) -> VersionVerdict:
    if not faults:
        return VersionVerdict(Standing.OK)
    return VersionVerdict(Standing.WARN, f"etcd {version}: it {'; it '.join(faults)}. Upgrade it.")


def _faults(parsed: Version) -> tuple[str, ...]:
    known = (
        (parsed < _OLDEST_TESTED, "is older than any version etcdlock is tested with"),
        (_has(parsed, fixed_in=_WRONG_REVOKES), _SAYS_WRONG_REVOKES),
        (_has(parsed, fixed_in=_FULL_STOPS_HEARTBEATS), _SAYS_FULL_STOPS_HEARTBEATS),
        (_has(parsed, fixed_in=_STALE_READS), _SAYS_STALE_READS),
        (_has(parsed, fixed_in=_NESTED_UNCHECKED), _SAYS_NESTED_UNCHECKED),
    )
    return tuple(text for applies, text in known if applies)


def _has(parsed: Version, *, fixed_in: tuple[Version, ...]) -> bool:
    """Minor releases older than the first in the list were never mended."""
    fixes = [fix for fix in fixed_in if fix[:2] >= parsed[:2]]
    return bool(fixes) and (fixes[0][:2] > parsed[:2] or parsed < fixes[0])


def _parse(version: str) -> Version | None:
    """Numbers only: a pre-release is judged as the release it leads to."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?![\d.])", version, flags=re.ASCII)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
