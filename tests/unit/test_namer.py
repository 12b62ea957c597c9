"""Paths are named beside the event loop: a disk that does not answer holds up nobody but who asks for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import wraps
from typing import ParamSpec

import pytest

from etcdlock.agent import bounded as module
from etcdlock.agent.namer import Namer
from etcdlock.diskfacts import Kind, Mount, Place
from etcdlock.errors import InvalidInput, NotIdentified
from etcdlock.identity import DiskIdentity, Naming

P = ParamSpec("P")

MOUNT = Mount(kind="nfs4", source="nas:/vms", root="/", point="/", device="0:40")


class Storage:
    """Answers at once, but for what lies on a dead server: that hangs until it is back."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.looks: list[tuple[str, ...]] = []
        self.threads: set[int] = set()

    def __call__(self, paths: Sequence[str], /) -> tuple[Place, ...]:
        self.looks.append(tuple(paths))
        self.threads.add(threading.get_ident())
        if any(path.startswith("/dead") for path in paths):
            assert self.back.wait(30)
        return tuple(Place(path=path, real=path, kind=Kind.FILE, mount=MOUNT) for path in paths)


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage()
    yield storage
    storage.back.set()


def in_a_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """In an event loop of its own; threads are real here, and so is time."""

    @wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def names_of(storage: Storage, *, within_seconds: float = 0.2) -> Namer:
    return Namer(Naming(DiskIdentity.AUTO, boot="boot", look=storage), within_seconds=within_seconds)


@in_a_loop
async def test_a_dead_server_is_not_waited_for_beyond_the_bound_and_others_are_named_meanwhile(
    storage: Storage,
) -> None:
    names = names_of(storage, within_seconds=10)
    dead = asyncio.ensure_future(names.name("/dead/a"))
    assert str(await names.name("/b")) == "nfs:nas:2049/vms/b"
    assert not dead.done()
    impatient = names_of(storage)
    begun = time.monotonic()
    with pytest.raises(NotIdentified, match="did not let itself be looked at"):
        await impatient.name("/dead/a")
    assert time.monotonic() - begun < 5
    storage.back.set()
    assert (await dead).name == "nas:2049/vms/dead/a"


@in_a_loop
async def test_the_event_loop_goes_on_while_a_disk_is_looked_at(storage: Storage) -> None:
    names = names_of(storage, within_seconds=10)
    asking = asyncio.ensure_future(names.name("/dead/a"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not asking.done()
    assert storage.threads.isdisjoint({threading.get_ident()})
    storage.back.set()
    await asking


@in_a_loop
async def test_asked_again_and_again_a_dead_server_costs_one_thread(storage: Storage) -> None:
    names = names_of(storage, within_seconds=0.01)
    for _ in range(20):
        with pytest.raises(NotIdentified):
            await names.name("/dead/a")
    assert storage.looks == [("/dead/a",)]


@in_a_loop
async def test_there_is_an_end_to_how_many_dead_disks_are_waited_for(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LOOKS", 3)
    names = names_of(storage, within_seconds=0.01)
    for number in range(5):
        with pytest.raises(NotIdentified):
            await names.name(f"/dead/{number}")
    assert len(storage.looks) == 3
    with pytest.raises(NotIdentified, match="3 disks do not answer, '/dead/0'"):
        await names.name("/b")


@in_a_loop
async def test_an_answer_after_the_bound_is_used_by_nobody_and_the_next_look_is_new(storage: Storage) -> None:
    names = names_of(storage, within_seconds=0.01)
    with pytest.raises(NotIdentified):
        await names.name("/dead/a")
    storage.back.set()
    patient = names_of(storage, within_seconds=10)
    await patient.name("/dead/a")
    assert len(storage.looks) == 2


@in_a_loop
async def test_what_a_look_raises_is_raised_to_whoever_asks(storage: Storage) -> None:
    with pytest.raises(InvalidInput, match="not absolute"):
        await names_of(storage, within_seconds=10).name("relative")


@in_a_loop
async def test_a_rule_that_looks_at_nothing_needs_no_thread() -> None:
    before = threading.active_count()
    assert str(await Namer(Naming()).name("/a//b")) == "path:/a/b"
    assert threading.active_count() == before


def test_a_program_with_nothing_else_to_do_is_bounded_too(storage: Storage) -> None:
    names = names_of(storage)
    assert [str(one.name) for one in names.identified(("/a", "/b"))] == ["nfs:nas:2049/vms/a", "nfs:nas:2049/vms/b"]
    with pytest.raises(NotIdentified):
        names.identified(("/b", "/dead/a"))


@in_a_loop
async def test_what_a_name_rests_on_is_told_once(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    def two_names(paths: Sequence[str]) -> tuple[Place, ...]:
        return tuple(Place(path=path, real=path, kind=Kind.FILE, mount=MOUNT, links=2) for path in paths)

    names = Namer(Naming(DiskIdentity.AUTO, boot="boot", look=two_names), within_seconds=10)
    for _ in range(3):
        await names.name("/a")
    (told,) = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "disk_named"]
    assert told["path"] == "/a"
    assert "hard links" in told["warning"]
