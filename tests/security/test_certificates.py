"""`etcdlock certs`: what it makes, and that it never takes away what is there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etcdlock.adapters.certificates import Authority, Issued, facts
from etcdlock.adapters.new_files import Content, write_new
from etcdlock.cli.issuing import Asked, listed, make, renewed
from etcdlock.errors import InvalidInput
from etcdlock.keyspace import Keyspace

BLUE = Keyspace(cluster="blue")
EVERYBODY = Asked(
    members=("etcd1=10.0.0.11, fd00::11,etcd1.example.org",),
    hosts=("node-1", "høst 2"),
    operators=("a",),
    readers=("r",),
)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def verifies(pki: Path, file: str, *, purpose: str, authority: str = "ca.pem") -> bool:
    """What OpenSSL says, at its strictest."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: make system-deps")
    words = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(pki / authority), str(pki / file)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everybody_gets_a_certificate_with_their_own_name_and_etcd_all_its_addresses(pki: Path) -> None:
    made = make(pki, EVERYBODY, keys=BLUE)
    assert {one["file"]: one["name"] for one in made} == {
        "ca.pem": "etcdlock blue",
        "root.pem": "root",
        "members/etcd1.pem": "etcd/etcd1",
        "hosts/node-1.pem": "blue/host/node-1",
        "hosts/h%C3%B8st%202.pem": "blue/host/h%C3%B8st%202",
        "operators/a.pem": "blue/operator/a",
        "readers/r.pem": "blue/reader/r",
    }
    names = next(one["names"] for one in made if one["file"] == "members/etcd1.pem")
    assert names == ["etcd1", "10.0.0.11", "fd00::11", "etcd1.example.org", "localhost", "127.0.0.1", "::1"]
    assert sorted(map(str, listed(pki))) == sorted(map(str, made))


def test_a_member_is_server_and_client_a_host_no_server_and_nobody_an_authority(pki: Path) -> None:
    make(pki, EVERYBODY, keys=BLUE)
    assert verifies(pki, "members/etcd1.pem", purpose="sslserver")
    assert verifies(pki, "members/etcd1.pem", purpose="sslclient")
    assert verifies(pki, "hosts/node-1.pem", purpose="sslclient")
    assert not verifies(pki, "hosts/node-1.pem", purpose="sslserver")
    assert not facts((pki / "hosts/node-1.pem").read_bytes()).is_authority
    with pytest.raises(InvalidInput, match="not an authority's"):
        Authority.load((pki / "hosts/node-1.pem").read_bytes(), (pki / "hosts/node-1.key").read_bytes())


def test_another_clusters_authority_of_the_same_name_vouches_for_nobody_here(pki: Path, tmp_path: Path) -> None:
    make(pki, EVERYBODY, keys=BLUE)
    make(tmp_path / "other", Asked(), keys=BLUE)
    assert not verifies(pki, "hosts/node-1.pem", purpose="sslclient", authority="../other/ca.pem")


@pytest.mark.usefixtures("no_umask")
def test_keys_are_their_owners_alone_whatever_the_umask(pki: Path) -> None:
    make(pki, EVERYBODY, keys=BLUE)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (pki, *pki.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.suffix == ".key"} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.suffix == ".pem"} == {0o644}


def test_what_is_there_is_never_overwritten_and_then_nothing_at_all_is_written(pki: Path) -> None:
    make(pki, Asked(hosts=("node-1",)), keys=BLUE)
    before = contents(pki)
    with pytest.raises(InvalidInput, match=r"hosts/node-1\.key.*already"):
        make(pki, Asked(hosts=("node-0", "node-1")), keys=BLUE)
    assert contents(pki) == before
    (pki / "ca.pem").rename(pki / "ca.old")
    with pytest.raises(InvalidInput, match=r"root\.key"):
        make(pki, Asked(), keys=BLUE)


def test_a_write_that_fails_half_way_leaves_nothing_behind(pki: Path) -> None:
    pki.mkdir()
    (pki / "taken").write_text("a file where a folder should be")
    files = {pki / "first.key": Content(b"1", secret=True), pki / "taken/second.key": Content(b"2", secret=True)}
    with pytest.raises(InvalidInput, match=r"second\.key: it cannot be written: \S+/taken: File exists"):
        write_new(files)
    assert list(contents(pki)) == ["taken"]


def test_later_hosts_are_signed_by_the_same_authority(pki: Path) -> None:
    make(pki, Asked(), keys=BLUE)
    authority = (pki / "ca.pem").read_bytes()
    make(pki, Asked(hosts=("late",)), keys=BLUE)
    assert (pki / "ca.pem").read_bytes() == authority
    assert verifies(pki, "hosts/late.pem", purpose="sslclient")


def test_a_renewed_certificate_is_valid_longer_for_the_same_key_and_names(pki: Path) -> None:
    make(pki, Asked(members=("etcd1=10.0.0.11",), hosts=("node-1",), days=10), keys=BLUE)
    before = contents(pki)
    done = renewed(pki, Asked(members=("etcd1",), hosts=("node-1",), days=20), keys=BLUE)
    assert [one["file"] for one in done] == ["members/etcd1.pem", "hosts/node-1.pem"]
    changed = {name for name, data in contents(pki).items() if data != before[name]}
    assert changed == {"members/etcd1.pem", "hosts/node-1.pem"}
    for name in changed:
        old, new = facts(before[name]), facts((pki / name).read_bytes())
        assert (new.common_name, new.names) == (old.common_name, old.names)
        assert new.not_after - old.not_after > timedelta(days=9)
    assert verifies(pki, "members/etcd1.pem", purpose="sslserver")


def test_a_certificate_of_another_authority_is_not_renewed(pki: Path, tmp_path: Path) -> None:
    other = Authority.create("another", now=datetime.now(UTC), days=20)
    alien = other.for_client("blue/host/x", now=datetime.now(UTC), days=10)
    make(pki, Asked(hosts=("x",)), keys=BLUE)
    (pki / "hosts/x.pem").write_bytes(alien.certificate)
    (pki / "hosts/x.key").write_bytes(alien.key)
    with pytest.raises(InvalidInput, match="another authority"):
        renewed(pki, Asked(hosts=("x",)), keys=BLUE)


def test_a_certificate_with_anothers_key_is_no_authority() -> None:
    now = datetime.now(UTC)
    one, other = (Authority.create("x", now=now, days=2) for _ in range(2))
    with pytest.raises(InvalidInput, match="not the certificate's"):
        Authority.load(one.pem, other.key_pem)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"members": ("etcd1=not a name",)}, "neither a host name nor an IP address"),
        ({"members": ("=10.0.0.1",)}, "give NAME"),
        ({"hosts": ("",)}, "--host: the name is empty"),
        ({"hosts": ("n", "n")}, "named twice"),
        ({"hosts": ("n" * 60,)}, "64 at most"),
        ({"days": 0}, "1 is the least"),
        ({"days": 5000}, "nothing outlives its authority"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(pki: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make(pki, Asked(**asked), keys=BLUE)
    assert not pki.exists()


def test_a_certificate_ends_when_it_was_told_to(pki: Path) -> None:
    before = datetime.now(UTC)
    make(pki, Asked(hosts=("n",), days=30, ca_days=60), keys=BLUE)
    until = facts((pki / "hosts/n.pem").read_bytes()).not_after
    assert timedelta(days=30, seconds=-2) <= until - before <= timedelta(days=30, minutes=2)
    with pytest.raises(InvalidInput, match="longer than the authority itself is valid"):
        make(pki, Asked(hosts=("m",), days=90), keys=BLUE)


def test_the_files_are_what_the_private_key_of_the_certificate_is(pki: Path) -> None:
    make(pki, EVERYBODY, keys=BLUE)
    issued = Issued((pki / "hosts/node-1.pem").read_bytes(), (pki / "hosts/node-1.key").read_bytes())
    authority = Authority.load((pki / "ca.pem").read_bytes(), (pki / "ca.key").read_bytes())
    assert authority.renew(issued, now=datetime.now(UTC), days=1).key == issued.key
