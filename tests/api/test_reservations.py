"""Disks reserved over a real socket: held while the connection lives, given back when it ends, and refused in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest

from etcdlock.agent.chains import Chains
from etcdlock.errors import HeldElsewhere, InvalidInput, OutcomeUnknown, Refused
from etcdlock.model import DomainId, Mode, Owner, Resource, StoredDomain
from tests.api.serving import ApiHost, Serving, requests_of
from tests.driver.places import fork
from tests.promises.world import disk, domain
from tests.unit.test_backing_chain import reader
from tests.unit.test_wanted_chains import IMAGES

if TYPE_CHECKING:
    from etcdlock.agent.requests import Requests
    from etcdlock.api.behind import Domains

VM = domain(0x1234)
A, B = disk("a"), disk("b")
WITHIN_SECONDS = 10.0


def backup(host: ApiHost) -> Owner:
    """A process that is no guest, with a name of its own."""
    owner, _ = host.start(DomainId(uuid4(), "backup"))
    return owner


def xml(*disks: str, more: str = "") -> str:
    elements = "".join(
        f"<disk type='file'><source file='{path}'/><target dev='vd{n}'/>{more}</disk>" for n, path in enumerate(disks)
    )
    return f"<domain><name>vm1</name><uuid>{uuid4()}</uuid><devices>{elements}</devices></domain>"


def modes(lock: dict[str, Any]) -> dict[str, str]:
    return {item["path"]: item["mode"] for item in lock["resources"]}


def comes_true(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


def test_domains_and_disks_each_in_its_mode_are_held_while_the_connection_lives(alice: ApiHost, bob: ApiHost) -> None:
    owner = backup(alice)
    written, read = xml("/w1"), xml("/r1", "/r2")
    held = alice.client.reserve(owner, (A, disk("b", Mode.SHARED)), domains=((written, False), (read, True)))
    assert modes(held.document) == {
        "/san/a": "exclusive", "/san/b": "shared", "/w1": "exclusive", "/r1": "shared", "/r2": "shared"
    }  # fmt: skip
    guest, _ = bob.start(VM)
    for wanted in (A, B):
        with pytest.raises(HeldElsewhere, match="is held by domain backup") as refused:
            bob.client.acquire(guest, (wanted,))
        assert [blocker.domain for blocker in refused.value.blockers] == [owner.domain]
    reader_of_b = bob.client.reserve(backup(bob), (disk("b", Mode.SHARED),), domains=((read, True),))
    reader_of_b.close()
    held.close()
    comes_true(lambda: alice.hypervisor.record(owner.domain) is None)
    bob.client.acquire(guest, (A,))


def test_a_reservation_is_refused_with_the_reason_and_leaves_nothing(alice: ApiHost, bob: ApiHost) -> None:
    guest, _ = bob.start(VM)
    bob.client.acquire(guest, (B,))
    owner = backup(alice)
    with pytest.raises(HeldElsewhere, match="disk /san/b is held by domain"):
        alice.client.reserve(owner, (A, B))
    assert alice.hypervisor.record(owner.domain) is None
    again, _ = bob.start(domain(0x5678))
    bob.client.acquire(again, (A,))


def test_what_a_guest_has_is_no_reservation_that_could_end_before_it(alice: ApiHost) -> None:
    guest, _ = alice.start(VM)
    alice.client.acquire(guest, (A,))
    with pytest.raises(Refused, match="locked on this host already"):
        alice.client.reserve(guest, (A,)).close()
    assert alice.hypervisor.record(VM) is not None


def test_a_process_that_ends_gives_back_what_it_has_reserved_though_its_connection_lives(alice: ApiHost) -> None:
    owner, process = alice.start(DomainId(uuid4(), "backup"))
    held = alice.client.reserve(owner, (A,))
    alice.end(process)
    comes_true(lambda: alice.hypervisor.record(owner.domain) is None)
    held.close()


class Unheard:
    """A host's agent whose next answers are lost: of so many calls of each kind."""

    def __init__(self, **lost: int) -> None:
        self.real: Requests | None = None
        self._lost = lost

    async def acquire(self, owner: Owner, resources: tuple[Resource, ...], /) -> StoredDomain:
        assert self.real is not None
        found = await self.real.acquire(owner, resources)
        self._lose("acquire")
        return found

    def holds(self, uuid: UUID, /) -> bool:
        assert self.real is not None
        return self.real.holds(uuid)

    async def give_back(self, owner: Owner, /) -> None:
        assert self.real is not None
        self._lose("give_back")
        await self.real.give_back(owner)

    def _lose(self, what: str) -> None:
        self._lost[what] = self._lost.get(what, 0) - 1
        if self._lost[what] >= 0:
            raise OutcomeUnknown("etcd does not answer")


def unheard(hosts: Serving, behind: Unheard) -> ApiHost:
    host = hosts.host("alice", domains=cast("Domains", behind))
    behind.real = requests_of(host.hypervisor)
    return host


def test_what_cannot_be_given_back_when_the_connection_ends_is_given_back_later(hosts: Serving) -> None:
    host = unheard(hosts, Unheard(give_back=2))
    owner = backup(host)
    held = host.client.reserve(owner, (A,))
    with pytest.raises(Refused, match="over another connection"):  # whose end would give back what this one holds
        host.client.reserve(owner, (A,))
    held.close()
    comes_true(lambda: host.hypervisor.record(owner.domain) is None)


def test_what_a_program_gives_back_is_not_kept_by_its_fork(alice: ApiHost) -> None:
    owner = backup(alice)
    held = alice.client.reserve(owner, (A,))
    with fork():
        held.close()
        comes_true(lambda: alice.hypervisor.record(owner.domain) is None)


def test_what_was_reserved_though_its_answer_was_lost_is_given_back(hosts: Serving) -> None:
    host = unheard(hosts, Unheard(acquire=1))
    owner = backup(host)
    with pytest.raises(OutcomeUnknown):
        host.client.reserve(owner, (A,))
    comes_true(lambda: host.hypervisor.record(owner.domain) is None)


def test_images_below_are_reserved_with_their_disks(hosts: Serving) -> None:
    host = hosts.host("alice", chains=Chains(reader(IMAGES)))
    described = xml("/b", more="<driver type='qcow2'/>")
    found = sent(host, {"resources": [{"path": "/a", "format": "qcow2"}], "domains": [{"xml": described}]})
    assert modes(found) == {"/a": "exclusive", "/b": "exclusive", "/base": "shared"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "nothing to reserve"),
        ({"resources": [{"path": "/a", "mode": "read-only"}]}, "nothing to reserve"),
        ({"resources": [{"path": "/a", "format": "vmdk"}]}, "format"),
        ({"resources": [{"path": "/a", "readonly": True}]}, "readonly"),
        ({"resources": [{"path": "/a"}], "mode": "shared"}, "mode"),
        ({"domains": [{"xml": "<domain/>"}]}, r"domains\.0\.xml"),
        ({"domains": [{"xml": xml("/a"), "mode": "shared"}]}, "mode"),
        ({"domains": [{"xml": xml("/a")}, {"xml": xml("/a"), "readonly": True}]}, "are the same resource"),
        ({"domains": [{"xml": xml("/a")}], "resources": [{"path": "/a"}]}, "are the same resource"),
    ],
    ids=range(9),
)
def test_what_is_not_understood_is_refused_and_never_left_out(
    alice: ApiHost, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        sent(alice, wrong)


def sent(host: ApiHost, what: dict[str, Any]) -> dict[str, Any]:
    """The lock; given back at once."""
    owner = backup(host)
    connection = host.client._connected()  # noqa: SLF001 - what the client never sends
    try:
        uuid: UUID = owner.domain.uuid
        return connection.begin(f"/v1/reservations/{uuid}", {"pid": owner.pid, "name": "backup", **what})
    finally:
        connection.close()
