"""Every scenario is judged at its end, whatever else it asserts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from etcdlock.testing import run_virtual
from tests.promises.judge import judge
from tests.promises.world import World

Scenario = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture
def play() -> Play:
    """Plays a scenario in a world of its own, ends its programs, and has the judge look at what happened."""

    def played(scenario: Scenario, *, judged: bool = True, **options: Any) -> None:
        async def program() -> None:
            world = World(**options)
            try:
                await scenario(world)
            finally:
                await world.end()
            if judged:
                judge(world)

        run_virtual(program, limit_seconds=3600.0)

    return played
