"""Waits for something to become so: by looking often, and never for longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_EVERY_SECONDS = 0.01
PATIENCE_SECONDS = 30.0


def wait_until(holds: Callable[[], bool], /, *, what: str, within_seconds: float = PATIENCE_SECONDS) -> float:
    """How many seconds it took until `holds` said yes. Fails with `what` if it never does."""
    started = time.monotonic()
    while not holds():
        waited = time.monotonic() - started
        assert waited < within_seconds, f"not within {within_seconds:g} s: {what}"
        time.sleep(LOOK_EVERY_SECONDS)
    return time.monotonic() - started
