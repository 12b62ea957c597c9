"""Calls in their order, waits that hold up nobody else, and clients that do not play fair."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcdlock.libvirt import remote_error
from etcdlock.libvirt.procedure import AcquireResource, ReleaseResource, Request, Restrict
from etcdlock.libvirt.wire import encode_call
from tests.door.conversation import (
    ACQUIRE,
    GIVE_UP,
    GUEST,
    OTHER,
    PATIENCE_SECONDS,
    RELEASE,
    TAKE,
    Client,
    House,
    LocksInMemory,
    house,
    ourselves,
    register,
    run,
)

DISK = "/san/vm1"
SOON_SECONDS = 0.05
FREE_AND_OTHER = ReleaseResource("", "/san/other")
in_one_folder = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gated(*names: str) -> LocksInMemory:
    return LocksInMemory(gates={name: asyncio.Event() for name in names})


async def serials(client: Client, count: int) -> list[int]:
    return [(await client.answer()).serial for _ in range(count)]


def test_calls_sent_all_at_once_are_done_in_their_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, gated(DISK)) as here:
            libvirtd = await here.libvirtd()
            asked: list[Request] = [ACQUIRE, RELEASE, FREE_AND_OTHER, ACQUIRE]
            libvirtd.send(b"".join(encode_call(each, serial=serial) for serial, each in enumerate(asked)))
            await here.locks.hears((TAKE, GUEST, DISK))
            here.locks.gates[DISK].set()
            assert await serials(libvirtd, 4) == [0, 1, 2, 3]
            await here.locks.hears(
                (TAKE, GUEST, DISK), (GIVE_UP, GUEST, DISK), (GIVE_UP, GUEST, "/san/other"), (TAKE, GUEST, DISK)
            )

    run(scenario())


def test_one_guest_that_waits_for_etcd_holds_up_no_other_and_no_release_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, gated("/slow")) as here:
            await (await here.libvirtd()).must(ACQUIRE)
            waiting = await here.libvirtd()
            asked = asyncio.ensure_future(waiting.ask(AcquireResource("", "/slow")))
            await here.locks.until(2)
            await (await here.libvirtd(OTHER)).must(AcquireResource("", "/quick"))
            await (await here.libvirtd()).must(RELEASE)
            assert not asked.done()
            here.locks.gates["/slow"].set()
            assert await asked is None

    run(scenario())


SCRIPTS = st.lists(st.lists(st.sampled_from("abcr"), min_size=1, max_size=5), min_size=1, max_size=4)


@in_one_folder
@given(scripts=SCRIPTS, data=st.data())
def test_however_calls_and_waits_of_many_connections_mix_each_keeps_its_order(
    tmp_path: Path, scripts: list[list[str]], data: st.DataObject
) -> None:
    """Letters are disks to lock, r gives up; what is waited for ends in any order."""
    order = data.draw(st.permutations([f"/{number}/{name}" for number in range(len(scripts)) for name in "abc"]))

    async def scenario() -> None:
        async with house(tmp_path, gated(*order)) as here:
            clients = [await here.libvirtd() for _ in scripts]
            for number, (client, script) in enumerate(zip(clients, scripts, strict=True)):
                client.send(b"".join(call(number, name, serial=at) for at, name in enumerate(script)))
            for name in order:
                here.locks.gates[name].set()
                await asyncio.sleep(0)
            for client, script in zip(clients, scripts, strict=True):
                assert await serials(client, len(script)) == list(range(len(script)))
            for number, script in enumerate(scripts):
                mine = [name for _, _, name in here.locks.heard if name.startswith(f"/{number}/")]
                assert mine == [f"/{number}/{name}" for name in script]

    def call(number: int, name: str, *, serial: int) -> bytes:
        path = f"/{number}/{name}"
        return encode_call(ReleaseResource("", path) if name == "r" else AcquireResource("", path), serial=serial)

    run(scenario())


@in_one_folder
@given(cuts=st.lists(st.integers(1, 400), max_size=8))
def test_however_the_bytes_are_cut_on_their_way_the_answers_are_the_same(tmp_path: Path, cuts: list[int]) -> None:
    asked: list[Request] = [register(GUEST), ACQUIRE, RELEASE, ACQUIRE, Restrict()]
    stream = b"".join(encode_call(each, serial=serial) for serial, each in enumerate(asked))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})

    async def scenario() -> None:
        async with house(tmp_path) as here:
            client = await here.client()
            for start, end in pairwise(edges):
                client.send(stream[start:end])
                await asyncio.sleep(0)
            assert await serials(client, len(asked)) == list(range(len(asked)))

    run(scenario())


# --- waits that are too long ------------------------------------------------------------------------------------------


def test_an_acquire_that_takes_too_long_fails_in_time_and_what_it_gets_later_stays_the_guests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="etcdlock")

    async def scenario() -> None:
        async with house(tmp_path, gated(DISK), acquire_seconds=SOON_SECONDS) as here:
            libvirtd = await here.libvirtd()
            error = await libvirtd.ask(ACQUIRE)
            assert error is not None
            assert error.message == (
                f"operation failed: no lock on {DISK} within 0.05 s: etcd does not answer, or a takeover takes its "
                "time; see 'etcdlock doctor'"
            )
            assert not here.locks.taken
            here.locks.gates[DISK].set()
            await libvirtd.must(ACQUIRE)
            await here.locks.hears((TAKE, GUEST, DISK), (TAKE, GUEST, DISK))
            assert not here.locks.cancelled
            assert here.locks.held["path", DISK].keys() == {GUEST}

    run(scenario())
    assert [record.message for record in caplog.records] == ["acquire_overdue", "acquire_came_late"]


def test_a_release_is_answered_while_an_acquire_of_the_same_disk_is_overdue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, gated(DISK), acquire_seconds=SOON_SECONDS) as here:
            libvirtd = await here.libvirtd()
            assert await libvirtd.ask(ACQUIRE) is not None
            assert await libvirtd.ask(RELEASE) == remote_error.not_locked(DISK)
            here.locks.gates[DISK].set()

    run(scenario())


def test_libvirtd_that_dies_while_it_waits_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, gated(DISK)) as here:
            libvirtd = await here.libvirtd()
            libvirtd.send(encode_call(ACQUIRE, serial=1))
            await here.locks.until(1)
            libvirtd.writer.transport.abort()
            here.locks.gates[DISK].set()
            await (await here.libvirtd()).must(ACQUIRE)
            assert not here.locks.cancelled

    run(scenario())


# --- clients that do not play fair ------------------------------------------------------------------------------------


def test_a_client_that_reads_no_answers_is_not_listened_to_until_it_does(tmp_path: Path) -> None:
    calls = 3000
    long_name = ReleaseResource("", "/" + "n" * 3000)

    async def scenario() -> None:
        async with house(tmp_path) as here:
            deaf = await here.libvirtd()
            deaf.reads_ahead(False)
            deaf.send(b"".join(encode_call(long_name, serial=serial) for serial in range(calls)))
            assert 0 < await heard_in_the_end(here) < calls // 2
            deaf.reads_ahead(True)
            assert await serials(deaf, calls) == list(range(calls))
            assert len(here.locks.heard) == calls

    run(scenario())


@pytest.mark.parametrize(
    ("rubbish", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a message of 1195725856 bytes was announced"),
        (bytes(4), "a message of 0 bytes was announced"),
        ((28).to_bytes(4) + encode_call(Restrict(), serial=1)[4:16] + b"\0\0\0\1" + bytes(8), "a packet of type 1"),
    ],
)
def test_what_is_not_the_protocol_is_hung_up_on_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rubbish: bytes, why: str
) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            fair, unfair = await here.libvirtd(), await here.libvirtd(OTHER)
            unfair.send(encode_call(ACQUIRE, serial=7) + rubbish + encode_call(RELEASE, serial=8))
            assert (await unfair.answer()).serial == 7
            assert await unfair.is_hung_up_on()
            await fair.must(Restrict())
            await here.locks.hears((TAKE, OTHER, DISK))

    run(scenario())
    (record,) = caplog.records
    assert record.message == "lock_client_hung_up_on"
    assert why in str(vars(record)["fields"]["reason"])


def test_a_user_who_may_not_lock_is_hung_up_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with house(tmp_path, uid=4_000_000) as here:
            client = await here.client()
            client.send(encode_call(register(ourselves()), serial=1) + encode_call(Restrict(), serial=2))
            assert await client.is_hung_up_on()
            await here.locks.hears()

    run(scenario())
    (record,) = caplog.records
    assert "only user 4000000" in str(vars(record)["fields"]["reason"])


# --- faults of our own ------------------------------------------------------------------------------------------------


def test_a_fault_behind_the_door_leaves_no_client_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        logged: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        fault = KeyError("a bug")
        async with house(tmp_path, LocksInMemory(faults={DISK: fault})) as here:
            error = await (await here.libvirtd()).ask(ACQUIRE)
            assert error is not None
            assert error.message == "operation failed: a fault in etcdlock itself, KeyError; its log has the rest"
            libvirtd = await here.libvirtd()
            libvirtd.send(encode_call(RELEASE, serial=1))
            assert await libvirtd.is_hung_up_on()
            waited = await here.libvirtd()
            waited.send(encode_call(AcquireResource("", "/free"), serial=1) + encode_call(RELEASE, serial=2))
            assert await waited.is_hung_up_on()
        assert logged == [fault] * 3

    run(scenario())


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_door_that_closes_answers_what_was_asked_and_takes_nothing_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path, gated(DISK)) as here:
            own, waiting, late = await here.client(), await here.libvirtd(), await here.libvirtd(OTHER)
            await own.must(register(ourselves()), Restrict())
            asked = asyncio.ensure_future(waiting.ask(ACQUIRE))
            await here.locks.until(2)
            closing = asyncio.ensure_future(here.door.close())
            await until_closed(here)
            refused = await late.ask(AcquireResource("", "/new"))
            assert refused is not None
            assert "is being stopped" in str(refused.message)
            assert await late.ask(RELEASE) == remote_error.not_locked(DISK)
            assert not closing.done()
            here.locks.gates[DISK].set()
            assert await asked is None
            await closing
            for client in (own, waiting, late):
                assert await client.is_hung_up_on()
            assert here.door.connections == 0
            assert len(here.locks.heard) == 3  # above all not that the guest has departed

    run(scenario())


def test_a_client_that_reads_nothing_does_not_keep_the_door_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etcdlock.libvirt.server.READ_WITHIN_SECONDS", SOON_SECONDS)

    async def scenario() -> None:
        async with house(tmp_path) as here:
            deaf = await here.libvirtd()
            deaf.reads_ahead(False)
            deaf.send(b"".join(encode_call(RELEASE, serial=serial) for serial in range(30_000)))
            assert await heard_in_the_end(here) > 0
            async with asyncio.timeout(PATIENCE_SECONDS):
                await here.door.close()
            assert here.door.connections == 0

    run(scenario())


async def heard_in_the_end(here: House) -> int:
    """How much has been asked of the locks when no more comes, though others are served all the while."""
    heard = -1
    while heard != len(here.locks.heard):
        heard = len(here.locks.heard)
        await (await here.libvirtd(OTHER)).must(Restrict())
    return heard


async def until_closed(here: House) -> None:
    """Until nobody new is let in."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await here.client()
            except OSError:
                return
