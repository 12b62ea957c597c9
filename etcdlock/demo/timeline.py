"""The live timeline: what happened where, in seconds since the start, for people and as a document.

On a terminal it has colours and says what is being waited for; where it is piped it is plain text. All instants are of
this kernel's CLOCK_BOOTTIME, which the guests stamp their records with.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: Final = {"A": "bold cyan", "B": "bold magenta", "etcd": "bold yellow", "disk": "bold green"}
_INDENT: Final = 17
_WIDEST: Final = 100


def now() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    at_seconds: float
    step: int
    where: str
    text: str


class Timeline:
    """Shows entries as they come, unless `quiet`, and keeps them."""

    def __init__(self, console: Console, /, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._started_at = now()
        self._titles: list[str] = []
        self._entries: list[Entry] = []

    @property
    def step(self) -> int:
        """The number of the step that has begun last; 0 before the first."""
        return len(self._titles)

    def since_start(self, at: float, /) -> float:
        """An instant as people read it here."""
        return at - self._started_at

    def open(self, title: str, text: str, /) -> None:
        """What is going to be shown."""
        self._print(Text(title, style="bold"))
        self._print(Text())
        self._print(Text("\n".join(textwrap.wrap(text, self._width))))

    def begin(self, title: str, /) -> None:
        """The next step begins."""
        self._titles.append(title)
        self._print(Text())
        self._print(Text(f"{self.step}  {title}", style="bold"))

    def tell(self, where: str, text: str, /, *, at: float | None = None) -> None:
        """Something happened there, now or at the given instant."""
        seconds = self.since_start(now() if at is None else at)
        self._entries.append(Entry(round(seconds, 3), self.step, where, text))
        lines = textwrap.wrap(text, self._width - _INDENT, break_on_hyphens=False)
        when, place = (f"{seconds:8.2f} s ", "dim"), (f"{where:<6}", _STYLES.get(where, ""))
        self._print(Text.assemble(when, place, ("\n" + " " * _INDENT).join(lines)))

    def close(self, headline: str, sentences: Sequence[str] = (), /, *, good: bool) -> None:
        """The end: what it all came to."""
        self._print(Text())
        self._print(Text("\n".join(textwrap.wrap(headline, self._width)), style="bold green" if good else "bold red"))
        for sentence in sentences:
            self._print(Text(textwrap.fill(sentence, self._width, initial_indent="  ", subsequent_indent="  ")))

    @contextmanager
    def waiting(self, text: str, /) -> Iterator[None]:
        """Say on a terminal what is being waited for, for as long as that takes."""
        if self._quiet or not self._console.is_terminal:
            yield
            return
        with self._console.status(Text(text, style="dim")):
            yield

    def documents(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The steps that began, and the entries."""
        titles = [{"number": number, "title": title} for number, title in enumerate(self._titles, start=1)]
        return titles, [asdict(entry) for entry in self._entries]

    @property
    def _width(self) -> int:
        return min(self._console.width, _WIDEST)

    def _print(self, text: Text) -> None:
        if not self._quiet:
            self._console.print(text, soft_wrap=True)
