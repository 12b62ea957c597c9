"""What people see: tables that fold and never cut off, on a terminal of 80 columns as in a pipe.

Every text comes from etcd, so it is escaped, and never read as markup. In a pipe the width is 80 or what COLUMNS says.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etcdlock.cli.wanted import described
from etcdlock.identity import escaped
from etcdlock.model import FencingState
from etcdlock.survey import Leftover, LockView, SessionView, Standing, Survey, Takeover
from etcdlock.timing import Timing

_STYLES = {Standing.ALIVE: "", Standing.SILENT: "bold yellow", Standing.DEAD: "bold red"}


def console() -> Console:
    """Standard output; colours only on a terminal."""
    return Console(highlight=False, emoji=False, markup=False)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return made


def text(words: object, /, *, style: str = "") -> Text:
    """Words that mean only themselves."""
    return Text(escaped(str(words)), style=style)


def lines(*each: Text) -> Text:
    """One cell of several lines."""
    return Text("\n").join(each)


def when(since: str, /) -> str:
    """A wall clock of another host, without its zone."""
    try:
        return f"{datetime.fromisoformat(since):%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return since


def sessions_table(views: Iterable[SessionView], /, *, details: bool) -> Table:
    """One row for each session, with `details` its program and address below it."""
    made = table("HOST", "SESSION", "SINCE", "LOCKS", "STANDING", right=("LOCKS",))
    for view in views:
        session, since = [text(view.ref.session)], [text(when(view.record.since) if view.record else "-")]
        if details and view.record:
            session.append(text(f"{view.record.kind}, {view.record.version}", style="dim"))
            since.append(text(view.record.address, style="dim"))
        made.add_row(
            text(view.ref.host), lines(*session), lines(*since), text(view.locks), _standing(view)
        )
    return made


def _standing(view: SessionView) -> Text:
    proof = f" ({view.obituary.proof})" if view.obituary else ""
    return text(f"{view.standing}{proof}", style=_STYLES[view.standing])


def locks_table(locks: Iterable[LockView], /) -> Table:
    """One row for each domain, its disks below it."""
    made = table("DOMAIN", "HOST", "STATE", "SINCE", "TOKEN", right=("TOKEN",))
    for lock in locks:
        record = lock.stored.record
        disks = (text(f"  {described(resource)}", style="dim") for resource in record.resources)
        state = f"{record.state}, {lock.standing}" if lock.stale else str(record.state)
        made.add_row(
            lines(text(record.domain), *disks),
            text(record.owner.host),
            text(state, style=_STYLES[lock.standing]),
            text(when(record.since)),
            text(lock.stored.token),
        )
    return made


def takeover_text(lock: LockView, /, *, needs: str, timing: Timing) -> str:
    """What stands between a lock and the next who wants it."""
    host = lock.stored.record.owner.host
    match lock.takeover(needs=needs):
        case Takeover.NO:
            return f"host {host} is alive: it cannot be taken over"
        case Takeover.NOW:
            return "can be taken over now"
        case Takeover.AFTER_SILENCE:
            return (
                f"can be taken over once it has been seen silent for {timing.hold_off_seconds:g} s, "
                f"or at once after 'etcdlock break {host}' if that host is off"
            )
        case Takeover.AFTER_CONFIRMATION:
            return f"can be taken over only after 'etcdlock break {host}'; break it only if that host is off"


def show_stale(out: Console, survey: Survey, /, *, needs: str, timing: Timing) -> None:
    """A line for each lock whose session has no key."""
    if survey.stale_locks:
        out.print("\nStale locks", style="bold")
    for lock in survey.stale_locks:
        record = lock.stored.record
        out.print(text(f"  {record.domain}: {takeover_text(lock, needs=needs, timing=timing)}"), soft_wrap=True)


def show_fencings(out: Console, survey: Survey, /) -> None:
    """A line for each host that somebody has tried to fence."""
    for number, item in enumerate(survey.fencings):
        record = item.record
        if not number:
            out.print("\nFencing", style="bold")
        said = f": {record.detail}" if record.detail else ""
        line = f"  {record.host}: {record.state}, {when(record.when)}, by {record.by} ({record.reason}){said}"
        out.print(text(line, style="bold red" if record.state is FencingState.FAILED else ""), soft_wrap=True)


def show_leftovers(out: Console, leftovers: Iterable[Leftover], /) -> None:
    """A line for each key that is not as it should be."""
    for number, item in enumerate(leftovers):
        if not number:
            out.print("\nLeftovers", style="bold")
        style = "" if item.kind.harmless else "bold red"
        out.print(text(f"  {item.kind}", style=style), text(item.text), sep=": ", soft_wrap=True)
