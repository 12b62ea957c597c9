"""Follow the events of this host's agent as they happen.

One line an event: time, level, name and fields, as in the agent's log; with --json one JSON document a line. What was
missed, since it came too fast or is not kept any more, is said by an event of its own, `dropped`.

Exits with 0 when the agent ends, or when it is interrupted; 101 if no agent listens or the connection is lost; 104 if
it does not let the caller look.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.documents import Document

USAGE = "[OPTIONS]"
QUIET_SECONDS = 40.0
"""An agent says something, if only that it is there, more often than twice in this time."""


def command(
    common: Common,
    *,
    kept: Annotated[bool, typer.Option("--kept", help="first those that the agent still keeps")] = False,
) -> int:
    """Print until the end."""
    show = _json if common.as_json else _text
    try:
        for event in _events(common.settings(), kept=kept):
            print(show(event), flush=True)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # whoever read has enough; nothing more may be written at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.OK


def _events(settings: Settings, /, *, kept: bool) -> Any:
    """Through the first agent that may be looked through."""
    from etcdlock.api.client import AgentClient
    from etcdlock.errors import NoAgent

    *others, last = settings.api_paths
    for path in others:
        try:
            return AgentClient(path, timeout_seconds=QUIET_SECONDS).events(kept=kept)
        except NoAgent:
            continue
    return AgentClient(last, timeout_seconds=QUIET_SECONDS).events(kept=kept)


def _json(event: Document, /) -> str:
    return json.dumps(event)


def _text(event: Document, /) -> str:
    from etcdlock.identity import escaped

    fields = "".join(f" {name}={value}" for name, value in event["fields"].items())
    return escaped(f"{event['at'] or '-'} {event['level'] or '-'} {event['event']}{fields}")
