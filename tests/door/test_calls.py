"""What libvirt asks of the door, what the locks behind it hear of that, and what libvirt is told."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.domainxml import parse_domain, resources_of
from etcdlock.errors import EtcdlockError, HeldElsewhere, OutcomeUnknown, Unreachable
from etcdlock.libvirt import remote_error
from etcdlock.libvirt.caller import Caller
from etcdlock.libvirt.procedure import (
    AcquireFlags,
    AcquireResource,
    CreateLockspace,
    CreateResource,
    DeleteResource,
    NewLockspace,
    Register,
    ReleaseResource,
    Request,
)
from etcdlock.libvirt.reasons import LONGEST_REASON, explain
from etcdlock.model import Blocker, DomainId, Mode, Owner, Resource
from tests.door.conversation import (
    ACQUIRE,
    DEPARTED,
    GIVE_UP,
    GUEST,
    OTHER,
    PRESENT,
    RELEASE,
    RESTRICT,
    TAKE,
    VM2,
    LocksInMemory,
    by_path,
    house,
    ourselves,
    register,
    run,
)

DISK = "/san/vm1"
FOLDER = "/var/lib/libvirt/lockd/files"
DIGEST = "bc03e53b22fe574b206b32df590ca4060e9e034fb80a87e90aa70d95381209c6"
ALL: list[Request] = [
    register(GUEST),
    RESTRICT,
    NewLockspace("/l"),
    CreateResource("/l", "n"),
    DeleteResource("/l", "n"),
    ACQUIRE,
    RELEASE,
    CreateLockspace("/l"),
]
BLOCKERS = (Blocker(VM2, None),)


def test_a_guest_is_started_suspended_resumed_and_destroyed(tmp_path: Path) -> None:
    """Call for call what libvirt 9.0.0 was seen to send. It releases twice when a guest is suspended."""

    async def scenario() -> None:
        async with house(tmp_path) as here:
            guest = ourselves()
            own = await here.client()
            await own.must(register(guest), RESTRICT)
            for asked, answer in (
                (ACQUIRE, None),
                (RELEASE, None),
                (RELEASE, remote_error.not_locked(DISK)),
                (ACQUIRE, None),
            ):
                libvirtd = await here.libvirtd(guest)
                assert await libvirtd.ask(asked) == answer
                await libvirtd.close()
            await own.close()
            await here.locks.hears(
                (PRESENT, guest, ""),
                (TAKE, guest, DISK),
                (GIVE_UP, guest, DISK),
                (GIVE_UP, guest, DISK),
                (TAKE, guest, DISK),
                (DEPARTED, guest, ""),
            )

    run(scenario())


def test_libvirtd_going_away_says_nothing_of_its_guests(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            for request in (ACQUIRE, RESTRICT):  # restricted, but made by another process than the guest's
                libvirtd = await here.libvirtd()
                await libvirtd.must(request)
                await libvirtd.close()
            own = await here.client()
            await own.must(register(ourselves()))  # the guest's process, but not handed on to it
            await own.close()
            await (await here.libvirtd()).must(ACQUIRE)
            await here.locks.hears((TAKE, GUEST, DISK), (TAKE, GUEST, DISK))

    run(scenario())


def test_a_peer_whose_pid_the_kernel_does_not_tell_is_nobodys_own_connection() -> None:
    assert Caller(pid=0, owner=Owner(VM2, 0), restricted=True).guest is None
    assert Caller(pid=7, owner=Owner(VM2, 7), restricted=True).guest == Owner(VM2, 7)


def test_a_guest_that_sends_rubbish_on_its_own_connection_is_looked_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            own = await here.client()
            await own.must(register(ourselves()), RESTRICT)
            own.send(bytes(100))
            assert await own.is_hung_up_on()
            await here.locks.hears((PRESENT, ourselves(), ""), (DEPARTED, ourselves(), ""))

    run(scenario())


@pytest.mark.parametrize("request_", ALL, ids=lambda it: type(it).__name__)
def test_nothing_can_be_asked_on_a_connection_that_was_handed_to_a_guest(tmp_path: Path, request_: Request) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            own = await here.client()
            await own.must(register(ourselves()), RESTRICT)
            assert await own.ask(request_) == remote_error.connection_restricted()
            await here.locks.hears((PRESENT, ourselves(), ""))

    run(scenario())


@pytest.mark.parametrize("request_", ALL, ids=lambda it: type(it).__name__)
def test_before_an_owner_is_known_only_lockspaces_can_be_made(tmp_path: Path, request_: Request) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            nobody = await here.client()
            nameless = Register(UUID(int=1), "vm1", id=0, pid=1)
            assert await nobody.ask(nameless) == remote_error.owner_not_registered()
            expected = isinstance(request_, Register | CreateLockspace)
            assert await nobody.ask(request_) == (None if expected else remote_error.owner_not_registered())
            await here.locks.hears()

    run(scenario())


def test_an_owner_that_is_registered_anew_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            libvirtd = await here.libvirtd()
            await libvirtd.must(register(OTHER), ACQUIRE)
            await here.locks.hears((TAKE, OTHER, DISK))

    run(scenario())


def test_lockspaces_and_resources_are_there_without_being_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            libvirtd = await here.libvirtd()
            await libvirtd.must(AcquireResource("/never/heard/of", "n"), ReleaseResource("/never/heard/of", "n"))
            await libvirtd.must(*ALL[2:5], *ALL[2:5], CreateLockspace(""), CreateLockspace("/l"))
            assert await libvirtd.ask(NewLockspace("")) == remote_error.default_lockspace_exists()

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "resource"),
    [
        (ACQUIRE, Resource("path", DISK, Mode.EXCLUSIVE, DISK)),
        (AcquireResource("", "//san/./vm1"), Resource("path", DISK, Mode.EXCLUSIVE, "//san/./vm1")),
        (AcquireResource("", DISK, AcquireFlags.SHARED), Resource("path", DISK, Mode.SHARED, DISK)),
        (AcquireResource(FOLDER, DIGEST, AcquireFlags.AUTOCREATE), Resource(FOLDER, DIGEST, Mode.EXCLUSIVE, "")),
        (AcquireResource(FOLDER, DIGEST, AcquireFlags.SHARED), Resource(FOLDER, DIGEST, Mode.SHARED, "")),
        (AcquireResource("/l", "bMZ6DN-kWSz", 2), Resource("/l", "bMZ6DN-kWSz", Mode.EXCLUSIVE, "")),
        (AcquireResource("/l/", "a/../b\udcff"), Resource("/l", "a/../b\udcff", Mode.EXCLUSIVE, "")),
    ],
)
def test_what_is_locked_is_named_alike_on_every_host(tmp_path: Path, request_: Request, resource: Resource) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            await (await here.libvirtd()).must(request_)
            assert here.locks.taken == [resource]

    run(scenario())


def test_a_lease_is_the_same_to_libvirt_and_to_who_reads_the_domain_xml(tmp_path: Path) -> None:
    xml = """<domain><name>v</name><uuid>00000000-0000-0000-0000-000000000102</uuid><devices><lease>
        <lockspace>ls1</lockspace><key>key1</key><target path='/images//x'/></lease></devices></domain>"""
    (lease,) = resources_of(parse_domain(xml, source="test"), identify=by_path)

    async def scenario() -> None:
        async with house(tmp_path) as here:
            await (await here.libvirtd()).must(AcquireResource("/images//x/ls1", "key1"))
            (taken,) = here.locks.taken
            assert (taken.lockspace, taken.name, taken.mode) == (lease.lockspace, lease.name, lease.mode)

    run(scenario())


@pytest.mark.parametrize(
    ("path", "name", "why"),
    [
        ("", "vm1", "is not absolute"),
        ("", "/san/../vm1", "contains '..'"),
        ("", "", "is not absolute"),
        ("/l", "", "without a name"),
        ("path", "/san/vm1", "is not absolute"),
        ("__LIBVIRT__DISKS__", "d41d8cd98f00b204", "is not absolute"),
        ("/l/../m", "n", "contains '..'"),
    ],
)
def test_what_cannot_be_named_safely_is_never_locked(tmp_path: Path, path: str, name: str, why: str) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            libvirtd = await here.libvirtd()
            for request in (AcquireResource(path, name), ReleaseResource(path, name)):
                error = await libvirtd.ask(request)
                assert error is not None
                assert error.message is not None
                assert error.message.startswith("operation failed: ")
                assert why in error.message
            await here.locks.hears()

    run(scenario())


def test_shared_holders_are_welcome_to_each_other_and_to_nobody_else(tmp_path: Path) -> None:
    shared = AcquireResource("", DISK, AcquireFlags.SHARED)

    async def scenario() -> None:
        async with house(tmp_path) as here:
            one, other = await here.libvirtd(), await here.libvirtd(OTHER)
            await one.must(shared)
            await other.must(shared)
            third = await here.libvirtd(Owner(DomainId(UUID(int=3), "vm3"), 9))
            locked = remote_error.held_by_another(f"Lockspace resource '{DISK}' is locked")
            assert await third.ask(ACQUIRE) == locked

    run(scenario())


def test_what_the_same_guest_has_already_it_gets_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            await (await here.libvirtd()).must(ACQUIRE, ACQUIRE)

    run(scenario())


def test_only_its_owner_gives_a_lock_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(tmp_path) as here:
            await (await here.libvirtd()).must(ACQUIRE)
            other = await here.libvirtd(OTHER)
            assert await other.ask(RELEASE) == remote_error.not_the_owner(OTHER.pid)

    run(scenario())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            HeldElsewhere("disk /d is held\n\ndomain w is held", blockers=BLOCKERS, hint="see 'etcdlock inquire /d'"),
            "resource busy: disk /d is held; domain w is held; see 'etcdlock inquire /d'",
        ),
        (HeldElsewhere("\x1b[2J\x85held", blockers=BLOCKERS), "resource busy: \\x1b[2J; held"),
        (Unreachable("no etcd answers at a:2379"), "operation failed: no etcd answers at a:2379"),
        (OutcomeUnknown(""), "operation failed: OutcomeUnknown"),
    ],
)
def test_a_refusal_reads_well_in_virsh(tmp_path: Path, error: EtcdlockError, told: str) -> None:
    async def scenario() -> None:
        async with house(tmp_path, LocksInMemory(faults={DISK: error})) as here:
            refused = await (await here.libvirtd()).ask(ACQUIRE)
            assert refused is not None
            assert refused.message == told

    run(scenario())


def test_however_long_the_reason_it_is_bounded_and_ends_with_what_to_do() -> None:
    error = HeldElsewhere("held\n" * 1000, blockers=BLOCKERS, hint="see 'etcdlock inquire'")
    text = explain(error)
    assert len(text) == LONGEST_REASON
    assert text.endswith("…; see 'etcdlock inquire'")
    error.hint = "h" * 10_000
    assert len(explain(error)) == LONGEST_REASON
