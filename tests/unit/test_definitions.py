"""Domains that are found by what libvirt has written down."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.cli.definitions import domain_called
from etcdlock.cli.host_facts import Places
from etcdlock.errors import InvalidInput

ONE, TWO = UUID(int=0x1234 << 64 | 1), UUID(int=0x1234 << 64 | 2)
NOBODY = 2**22


@pytest.fixture
def there(tmp_path: Path) -> Places:
    found = Places(tmp_path / "run", tmp_path / "etc/qemu.conf")
    found.statuses.mkdir()
    found.definitions.mkdir(parents=True)
    (found.definitions / "one.xml").write_text(f"<!-- by libvirt -->{xml('one', ONE, '/defined')}", encoding="utf-8")
    (found.definitions / "two.xml").write_text(xml("two", TWO, "/other"), encoding="utf-8")
    return found


def xml(name: str, uuid: UUID, disk: str) -> str:
    return (
        f"<domain><name>{name}</name><uuid>{uuid}</uuid><devices><disk type='file'>"
        f"<source file='{disk}'/><target dev='vda'/></disk></devices></domain>"
    )


def runs(there: Places, *, pid: int) -> None:
    status = f"<domstatus state='running' pid='{pid}'>{xml('one', ONE, '/plugged')}</domstatus>"
    (there.statuses / "one.xml").write_text(status, encoding="utf-8")


def disks(there: Places, name: str) -> list[str]:
    return [spec.storage.text for spec in domain_called(name, there, chains=False).disks]


def test_a_domain_is_found_by_name_and_by_uuid(there: Places) -> None:
    assert (disks(there, "one"), disks(there, str(TWO))) == (["/defined"], ["/other"])


def test_a_domain_that_runs_is_taken_as_it_is_now_and_one_that_has_ended_as_it_is_defined(there: Places) -> None:
    runs(there, pid=NOBODY)
    assert disks(there, "one") == ["/defined"]
    runs(there, pid=os.getpid())
    assert disks(there, str(ONE)) == ["/plugged"]


def test_a_name_that_libvirt_does_not_know_is_refused_with_what_could_not_be_read(there: Places) -> None:
    (there.definitions / "broken.xml").write_text("<domain", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"no domain 'three'[^|]*broken\.xml"):
        domain_called("three", there, chains=False)
    with pytest.raises(InvalidInput, match=r"no domain '\.\./one'"):
        domain_called("../one", there, chains=False)
