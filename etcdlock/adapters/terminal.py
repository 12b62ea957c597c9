"""The terminal of a program that runs a guest: the guest has it while it runs, and job control reaches both.

Ctrl-Z stops whoever has the terminal, which is the guest's group alone. A shell waits for our group: so it takes the
terminal back, and whoever owns it stops our group as well (`step_back`, then SIGTSTP), and when that goes on the guest
has it again (`give`).
"""

from __future__ import annotations

import os
import signal
import termios
from typing import Any

BY_TERMINAL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""What stops a process for its terminal's sake."""


class Terminal:
    """Who reads from it: the guest, whose group this is, if it would have been us."""

    def __init__(self, *, group: int) -> None:
        self._group = group
        self._before: list[Any] | None = None
        self.is_shared = False
        """Whether the guest has ever had it."""

    def give(self) -> None:
        """To the guest, if it is ours to give."""
        try:
            if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
                self._before = termios.tcgetattr(0)
                _bring_to_front(self._group)
                self.is_shared = True
        except (OSError, termios.error):    # not the terminal of our session
            return

    def take_back(self, *, was_killed: bool) -> None:
        """A guest that was killed, or stopped, could not put the terminal's settings back itself."""
        if self._before is None:
            return
        before, self._before = self._before, None
        try:
            _bring_to_front(os.getpgrp())
            if was_killed:
                termios.tcsetattr(0, termios.TCSADRAIN, before)
        except (OSError, termios.error):    # hung up meanwhile
            return


def _bring_to_front(group: int) -> None:
    """Whoever is in the background is stopped for this (SIGTTOU), unless it blocks the signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(0, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
