"""Asks again where only a moment without etcd stood between a question and its answer.

Guaranteed: a definite no, and whatever waiting does not mend, is passed on at once; what could not be answered until
then is passed on with the last reason. Nothing is sent here: whoever is asked must itself settle what an earlier try
may have done before it does anything else.

Which clock: `ports.Clock`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from etcdlock.agent.context import Context
from etcdlock.errors import GuardLost, OutcomeUnknown, SessionLost, Unreachable
from etcdlock.journal import note


async def ask_until_answered(context: Context, ask: Callable[[], Awaitable[None]], /, *, until: float) -> None:
    """Ask once, and while there is no answer again, with backoff; no try begins after `until`.

    A session that cannot be proven at the moment is no answer: it may be proven, or joined anew, in time.
    """
    failures = 0
    while True:
        try:
            return await ask()
        except GuardLost:
            raise  # another has been started in vain
        except (Unreachable, OutcomeUnknown, SessionLost) as error:
            failures += 1
            left = until - context.clock.now()
            if left <= 0.0:
                raise
            note("asked_again", failures=failures, error=error)
        await context.clock.sleep(min(left, context.backoff_seconds(failures)))
