"""The door beside the real virtlockd: the same calls, and to the letter the same answers.

Left out is where they mean to differ: a guest that locks twice, lockspaces never heard of, and making and deleting what
is locked.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlock.libvirt.procedure import (
    AcquireFlags,
    AcquireResource,
    CreateLockspace,
    NewLockspace,
    Register,
    ReleaseResource,
    Request,
    Restrict,
)
from etcdlock.libvirt.remote_error import RemoteError
from etcdlock.model import Owner
from tests.door.conversation import GUEST, OTHER, LocksInMemory, house, register, run
from tests.unit.test_wire_virtlockd import NO_PROCESS
from tests.unit.test_wire_virtlockd import Client as PlainClient
from tests.unit.test_wire_virtlockd import door as virtlockd  # noqa: F401 - a fixture

OWNERS = (Owner(GUEST.domain, NO_PROCESS), Owner(OTHER.domain, NO_PROCESS + 1))
"""Above the kernel's highest pid: virtlockd kills those that go with their locks."""
NAMELESS = Register(UUID(int=1), "vm", id=0, pid=NO_PROCESS)
CONNECTIONS = 3
NAMES = st.sampled_from(["one", "other"])
HOW = st.sampled_from([AcquireFlags.AUTOCREATE, AcquireFlags.AUTOCREATE | AcquireFlags.SHARED])
CALLS = st.one_of(
    st.sampled_from([*map(register, OWNERS)] * 2),
    st.builds(AcquireResource, st.just(""), NAMES, HOW),
    st.builds(ReleaseResource, st.just(""), NAMES),
    st.sampled_from([NAMELESS, Restrict(), NewLockspace(""), CreateLockspace("")]),
)
"""Of a lockspace that is made for each run."""
Script = list[tuple[int, Request]]
SCRIPTS = st.lists(st.tuples(st.integers(0, CONNECTIONS - 1), CALLS), max_size=30)
_RUNS = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("as-virtlockd")


@settings(max_examples=150, deadline=None)
@given(drawn=SCRIPTS)
def test_whatever_is_asked_in_whatever_order_the_answers_are_virtlockds(
    virtlockd: Path,  # noqa: F811
    folder: Path,
    drawn: Script,
) -> None:
    """Ours goes first and says which calls would lock twice; those are left out for both."""
    space = str(folder / f"space{next(_RUNS)}")
    script = [(connection, _in(space, request)) for connection, request in drawn]
    answers: list[tuple[int, Request, RemoteError | None]] = []

    async def scenario() -> None:
        locks = LocksInMemory()
        async with house(folder, locks) as here:
            clients = [await here.client() for _ in range(CONNECTIONS)]
            owners: dict[int, Owner] = {}
            for connection, request in script:
                if _locks_twice(locks, owners.get(connection), request):
                    continue
                answer = await clients[connection].ask(request)
                answers.append((connection, request, answer))
                if isinstance(request, Register) and answer is None:
                    owners[connection] = next(owner for owner in OWNERS if register(owner) == request)

    run(scenario())
    with ExitStack() as stack:
        plain = [stack.enter_context(closing(PlainClient(virtlockd))) for _ in range(CONNECTIONS)]
        assert plain[0].ask(CreateLockspace(space)) is None
        assert [(at, request, plain[at].ask(request)) for at, request, _ in answers] == answers
        _give_back(stack.enter_context(closing(PlainClient(virtlockd))), space)


def _in(space: str, request: Request) -> Request:
    match request:
        case AcquireResource(name=name, flags=flags):
            return AcquireResource(space, name, flags)
        case ReleaseResource(name=name):
            return ReleaseResource(space, name)
    return request


def _locks_twice(locks: LocksInMemory, owner: Owner | None, request: Request) -> bool:
    return isinstance(request, AcquireResource) and owner in locks.held[request.path, request.name]


def _give_back(client: PlainClient, space: str) -> None:
    for owner in OWNERS:
        assert client.ask(register(owner)) is None
        for name in ("one", "other"):
            client.ask(ReleaseResource(space, name))
