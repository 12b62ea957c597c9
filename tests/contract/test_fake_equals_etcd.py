"""Whatever is done to the fake and to a real etcd, both answer the same, history included.

Programs are made at random. In them keys are relative to the room, revisions to its first one, and leases are counted
in the order in which they were granted, so that one program means the same on every store.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from etcdlock.errors import Rejected
from etcdlock.ports import Compare, Delete, Event, Get, KeyRange, KeyValue, Op, Put, Relation, Target, Txn
from tests.contract.room import FakeWorld, Room, World

LEASES = 2
TTL_SECONDS = 60
UNKNOWN_LEASE = 0x1234_5678
MARK = "mark"


@dataclass(frozen=True, slots=True)
class Read:
    where: KeyRange


@dataclass(frozen=True, slots=True)
class Renew:
    lease: int


@dataclass(frozen=True, slots=True)
class Revoke:
    lease: int


Step = Txn | Read | Renew | Revoke

keys = st.sampled_from(["a", "a/", "a/1", "a/2", "a0", "b"])
ranges = st.builds(KeyRange, keys, st.booleans())
leases = st.integers(0, LEASES + 1)  # 0 is none, and the last one is nobody's
compares = st.builds(
    Compare, ranges, st.sampled_from(Target), st.sampled_from(Relation), st.just(0) | st.integers(0, 12)
)
ops = st.one_of(
    st.builds(Put, keys, st.binary(max_size=2), st.just(0) | leases),
    st.builds(Delete, ranges),
    st.builds(Get, ranges),
)
branches = st.lists(ops, max_size=4).map(tuple)
txns = st.builds(Txn, st.lists(compares, max_size=3).map(tuple), branches, branches)
steps = st.one_of(txns, txns, txns, st.builds(Read, ranges), st.builds(Renew, leases), st.builds(Revoke, leases))
programs = st.lists(steps, min_size=1, max_size=12)


class Interpreter:
    """Runs a program in a room and notes what an observer can tell of it, in the program's own terms."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._base = 0
        self._leases: list[int] = []

    async def run(self, program: list[Step]) -> list[object]:
        self._base = await self._room.revision()
        for _ in range(LEASES):
            self._leases.append((await self._room.store.grant(ttl_seconds=TTL_SECONDS)).id)
        # A watch that runs along is told at once; etcd lets one that reads the past wait for 0.1 s.
        history = asyncio.create_task(self._events_up_to_mark())
        seen: list[object] = [await self._observe(step) for step in program]
        await self._room.put(MARK)
        seen.append(await history)
        for lease in self._leases:
            await self._room.store.revoke(lease)
        return seen

    async def _observe(self, step: Step) -> object:
        store = self._room.store
        match step:
            case Txn():
                return await self._observe_txn(step)
            case Read():
                snapshot = await store.read(self._where(step.where))
                return snapshot.revision - self._base, self._found(snapshot.found)
            case Renew():
                return await store.keep_alive(self._lease(step.lease))
            case Revoke():
                await store.revoke(self._lease(step.lease))
                return "revoked"

    async def _observe_txn(self, txn: Txn) -> object:
        real = Txn(
            tuple(replace(c, where=self._where(c.where), number=self._number(c.number)) for c in txn.compare),
            tuple(map(self._op, txn.success)),
            tuple(map(self._op, txn.failure)),
        )
        try:
            result = await self._room.store.txn(real)
        except Rejected:
            return "rejected"
        return result.succeeded, result.revision - self._base, [self._found(reply) for reply in result.replies]

    async def _events_up_to_mark(self) -> list[Event]:
        events: list[Event] = []
        async with aclosing(self._room.watch(after_revision=self._base)) as stream:
            async for change in stream:
                events.append(replace(change, key=self._bare(change.key), revision=change.revision - self._base))
                if events[-1].key == MARK:
                    break
        return events

    def _op(self, op: Op) -> Op:
        if isinstance(op, Put):
            return Put(self._room.key(op.key), op.value, self._lease(op.lease))
        return replace(op, where=self._where(op.where))

    def _where(self, where: KeyRange) -> KeyRange:
        return replace(where, key=self._room.key(where.key))

    def _number(self, number: int) -> int:
        return self._base + number if number else 0

    def _lease(self, lease: int) -> int:
        return (0, *self._leases, UNKNOWN_LEASE)[lease]

    def _bare(self, key: str) -> str:
        return key.removeprefix(self._room.prefix)

    def _found(self, found: tuple[KeyValue, ...]) -> list[KeyValue]:
        return [
            KeyValue(
                self._bare(kv.key),
                kv.value,
                kv.create_revision - self._base,
                kv.mod_revision - self._base,
                self._leases.index(kv.lease) + 1 if kv.lease else 0,
            )
            for kv in found
        ]


def _observed(world: World, program: list[Step]) -> list[object]:
    seen: list[object] = []

    async def scenario(room: Room) -> None:
        seen.extend(await Interpreter(room).run(program))

    world.run(scenario)
    return seen


@given(program=programs)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_program_has_the_same_answers_and_the_same_history(real_world: World, program: list[Step]) -> None:
    expected, seen = _observed(real_world, program), _observed(FakeWorld(), program)
    event("rejected" if "rejected" in seen else "all accepted")
    assert seen == expected
