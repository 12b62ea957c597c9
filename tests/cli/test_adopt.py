"""Guests that run without locks are taken one by one by a real agent; one that is refused keeps no other from it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from etcdlock.api.client import AgentClient
from etcdlock.cli.adopt_command import ALREADY, CONFLICT, LOCKED, STANDS, WOULD, adopt, choose, worst
from etcdlock.cli.exits import Exit
from etcdlock.cli.host_facts import SeenGuest
from etcdlock.errors import InvalidInput
from etcdlock.guard import table
from etcdlock.model import DomainId, Mode, Resource
from tests.cli.site import Site


@contextmanager
def running(number: int, *disks: str, runs: bool = True) -> Iterator[SeenGuest]:
    """A process that nobody has locked anything for, as libvirt would have written it down."""
    process = subprocess.Popen(["sleep", "300"])
    try:
        found = table.look_up(process.pid)
        assert found is not None
        resources = tuple(Resource("path", disk, Mode.EXCLUSIVE, disk) for disk in disks)
        yield SeenGuest(DomainId(UUID(int=0x77 << 64 | number), f"vm{number}"), found.name, runs, resources, "written")
    finally:
        process.kill()
        process.wait()


def test_each_is_locked_or_told_with_what_is_in_its_way(site: Site) -> None:
    client = AgentClient(str(site.socket))
    other = site.cluster.guest("--name", "other", "--disk", "/san/2", host="b")
    with running(1, "/san/1") as one, running(2, "/san/2") as two, running(3, "/san/3", runs=False) as three:
        guests = (one, two, three)
        would = [adopt(client, guest, named=False, dry_run=True)[0]["outcome"] for guest in guests]
        assert would == [WOULD, WOULD, STANDS]
        assert [lock.stored.record.owner.host for lock in site.cluster.survey().locks] == ["b"]
        outcomes = [adopt(client, guest, named=False, dry_run=False) for guest in guests]
        assert [outcome["outcome"] for outcome, _ in outcomes] == [LOCKED, CONFLICT, STANDS]
        assert "disk /san/2 is held by domain other on host b" in outcomes[1][0]["detail"]
        assert worst(code for _, code in outcomes) is Exit.HELD_ELSEWHERE
        mine = {lock.stored.record.domain.name: lock for lock in site.cluster.survey().locks}
        assert set(mine) == {"vm1", "other"}
        assert mine["vm1"].stored.record.pid == one.process.pid
        other.send(signal.SIGTERM)
        other.ended()
        again = [adopt(client, guest, named=True, dry_run=False)[0]["outcome"] for guest in guests]
        assert again == [ALREADY, LOCKED, LOCKED]
    site.cluster.until(lambda survey: not survey.locks)


def test_a_name_that_nobody_runs_is_told_before_anything_is_locked() -> None:
    with running(1) as one:
        assert choose((one,), [], unread=()) == (one,)
        assert choose((one,), ["vm1", str(one.domain.uuid)], unread=()) == (one,)
        with pytest.raises(InvalidInput, match="libvirt runs no guest 'vm2'"):
            choose((one,), ["vm1", "vm2"], unread=())


def test_a_conflict_is_told_before_any_other_failure() -> None:
    assert worst([Exit.OK, Exit.HELD_ELSEWHERE, Exit.REFUSED]) is Exit.HELD_ELSEWHERE
    assert worst([Exit.OK, Exit.UNREACHABLE]) is Exit.UNREACHABLE
    assert worst([]) is Exit.OK
