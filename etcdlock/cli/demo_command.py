"""Show what etcdlock does, on this machine alone.

Starts a private etcd, two hosts as real processes and a guest that writes to a real disk file; refuses, cuts off,
pulls the power, and judges the disk at the end. Needs only an etcd (pip install 'etcdlock[embedded]' brings one), reads
none of this host's settings, and leaves nothing behind. --json prints the timeline and its figures as one document.

Exits with 0, or 1 and says what was not so if any of it was not; 130 after Ctrl-C.
"""

from __future__ import annotations

from typing import Annotated

import typer

from etcdlock.cli.common import Common

USAGE = "[OPTIONS]"


def command(
    common: Common,
    *,
    cut: Annotated[str, typer.Option(help="how A is cut off: silent (all is lost) or hard (refused)")] = "silent",
) -> int:
    """Play it."""
    from etcdlock.cli.exits import Exit
    from etcdlock.demo.performance import perform
    from etcdlock.demo.proxy import Cut
    from etcdlock.errors import InvalidInput

    if cut not in tuple(Cut):
        raise InvalidInput(f"--cut {cut!r}: neither of {', '.join(Cut)}")
    try:
        performance = perform(cut=Cut(cut), quiet=common.as_json)
    except KeyboardInterrupt:
        return 130
    common.show(performance.document, otherwise=lambda: None)
    return Exit.OK if performance.ok else Exit.FAULT
