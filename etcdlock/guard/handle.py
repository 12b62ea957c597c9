"""Signals by pidfd and by group, and whether a pidfd's process has ended. What is gone, or may not be signalled, is no
failure: what it should have stopped shows in its staying.
"""

from __future__ import annotations

import os
import select
import signal


def has_ended(pidfd: int, /) -> bool:
    """Whether its process is dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send(pidfd: int, number: int, /) -> None:
    """To this very process."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return


def send_group(group: int, number: int, /) -> None:
    """Only while its leader is known not to be reaped: else the number may be anybody's."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
