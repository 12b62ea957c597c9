"""What a host's trial in shadow mode has shown, from its record; pure.

One row for each thing that would have been refused, and for each that would have been stopped, whenever that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etcdlock.agent.findings import BEGAN, REFUSED, STOPPED

Line = Mapping[str, Any]
Row = dict[str, Any]

_SAME_REFUSAL = ("domain", "uuid", "asked", "resources", "reason", "holders")
_SAME_STOP = ("domain", "uuid", "pid", "reason", "first_action")


def report(lines: Sequence[Line], /, *, host: str, unread: str | None) -> Row:
    """The document of `etcdlock shadow`; `lines` are the oldest first."""
    starts = [line["at"] for line in lines if line["event"] == BEGAN]
    return {
        "host": host,
        "since": starts[0] if starts else None,
        "starts": len(starts),
        "refused": _rows((line for line in lines if line["event"] == REFUSED), same=_SAME_REFUSAL),
        "stopped": _rows((line for line in lines if line["event"] == STOPPED), same=_SAME_STOP),
        "record_error": unread,
    }


def _rows(lines: Iterable[Line], /, *, same: tuple[str, ...]) -> list[Row]:
    """Those that are alike in all that `same` names are one, with how often and in the words of the latest."""
    rows: dict[tuple[str, ...], Row] = {}
    for line in lines:
        fields = {**line["fields"], "first_action": line["fields"].get("first")}
        known = {name: fields.get(name) for name in same}
        row = rows.setdefault(tuple(map(str, known.values())), {**known, "first": line["at"], "times": 0})
        row.update(last=line["at"], times=row["times"] + 1, words=fields.get("error"))
    return list(rows.values())
