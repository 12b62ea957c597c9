"""A guest of the host's agent: what `run` does with each answer to its request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest

from etcdlock.adapters.processes import LocalGuests
from etcdlock.agent.solo import Ending, Task
from etcdlock.api import lodger
from etcdlock.api.client import AgentClient
from etcdlock.errors import EtcdlockError, NotReady, Refused
from etcdlock.model import DomainId, Owner, Resource
from etcdlock.timing import Timing
from tests.faults.guarding import CLOCK, run

VM = DomainId(UUID("4dea22b3-1d52-48f3-a516-782e98ab3fa0"), "vm")


class Agent(AgentClient):
    """Answers as it was told to, and then with yes."""

    def __init__(self, *answers: EtcdlockError) -> None:
        super().__init__("/nowhere", timeout_seconds=1.0)
        self.answers = list(answers)

    def acquire(self, owner: Owner, resources: Iterable[Resource], /, **choice: Any) -> dict[str, Any]:  # noqa: ARG002
        if self.answers:
            raise self.answers.pop(0)
        return {"token": 7}

    def release(self, uuid: UUID, /) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def agent(self, *, with_guests: bool = True) -> dict[str, Any]:  # noqa: ARG002
        raise NotReady("it says nothing else either")


def ending(agent: Agent, *, answer_seconds: float = 10.0) -> Ending:
    task = Task(
        domain=VM, resources=(), command=["true"], environment={}, wait_seconds=0.0, answer_seconds=answer_seconds
    )
    return run(lodger.Lodger(agent, task, guests=LocalGuests(), clock=CLOCK, timing=Timing(), looking=agent).run())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lodger, "ASK_EVERY_SECONDS", 0.01)


def test_an_agent_that_is_starting_or_stopping_is_asked_again_and_its_next_answer_counts() -> None:
    assert ending(Agent(NotReady("starting"), NotReady("starting"))).status.code == 0


def test_one_that_goes_on_doing_so_is_not_waited_for_beyond_the_bound() -> None:
    with pytest.raises(NotReady):
        ending(Agent(*[NotReady("stopping")] * 10_000), answer_seconds=0.2)


def test_a_definite_no_is_no_matter_of_asking_again() -> None:
    with pytest.raises(Refused, match="no"):
        ending(Agent(Refused("no"), NotReady("and never this")))
