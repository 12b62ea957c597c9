"""How the demo is shown: plain where it is piped, coloured on a terminal, within the line in both."""

from __future__ import annotations

import io

from rich.console import Console

from etcdlock.demo.timeline import Timeline, now

REASON = "refused (exit 100): domain demo is held on host A since 12:03:04 (token 7); host A is alive: stop it there"


def shown(*, is_terminal: bool, quiet: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=is_terminal, color_system="standard" if is_terminal else "auto"
    )
    timeline = Timeline(console, quiet=quiet)
    timeline.open("The title", "What it is about, in so many words that it takes more than one line of eighty.")
    timeline.begin("The same guest is started on B, and refused")
    with timeline.waiting("B asks"):
        timeline.tell("B", REASON, at=now())
    timeline.close("Not so, in step 1: [B] was not refused", ["531 records"], good=False)
    return out.getvalue()


def test_piped_it_is_plain_text_of_eighty_columns() -> None:
    lines = shown(is_terminal=False).splitlines()
    assert lines[-6:] == [
        "1  The same guest is started on B, and refused",
        "    0.00 s B     refused (exit 100): domain demo is held on host A since",
        "                 12:03:04 (token 7); host A is alive: stop it there",
        "",
        "Not so, in step 1: [B] was not refused",
        "  531 records",
    ]
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


def test_on_a_terminal_it_has_colours() -> None:
    assert "\x1b[1;35mB" in shown(is_terminal=True)


def test_where_json_is_wanted_nothing_else_is_printed() -> None:
    assert shown(is_terminal=True, quiet=True) == ""


def test_the_document_has_every_step_and_entry() -> None:
    timeline = Timeline(Console(file=io.StringIO()), quiet=True)
    timeline.begin("First")
    timeline.tell("A", "ran", at=now() + 5)
    steps, entries = timeline.documents()
    assert steps == [{"number": 1, "title": "First"}]
    assert [(e["step"], e["where"], e["text"], round(e["at_seconds"])) for e in entries] == [(1, "A", "ran", 5)]
