"""Who comes to etcd without the right certificate: refused, told so, and nothing is changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etcdlock.adapters.certificates import Authority, Issued
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import AccessDenied
from etcdlock.ports import Delete, KeyRange, Put, Txn
from tests.contract.etcds import with_store
from tests.security.secured import BLUE, SecureCluster

NOW = datetime.now(UTC)
KEY = f"{BLUE.root}domains/x"
STRANGERS: dict[str, tuple[bool, str, int]] = {
    "of another authority": (False, "blue/host/a", 0),
    "that has expired": (True, "blue/host/a", 9),
    "of another cluster": (True, "green/host/a", 0),
    "of a host whose user is gone": (True, "blue/host/gone", 0),
    "of a member of etcd": (True, "etcd/etcd", 0),
}
"""Their certificates: whether the cluster's authority has issued it, for whom, and how many days ago."""


@pytest.fixture
def authority(each_blue: SecureCluster) -> Authority:
    folder = each_blue.pki.folder
    return Authority.load((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())


@pytest.mark.parametrize("certificate", [*STRANGERS, "none"])
def test_a_stranger_gets_nothing(
    each_blue: SecureCluster, authority: Authority, tmp_path: Path, certificate: str
) -> None:
    issued = None
    if certificate in STRANGERS:
        is_ours, name, days_ago = STRANGERS[certificate]
        issuer = authority if is_ours else Authority.create("etcdlock blue", now=NOW, days=2)
        issued = issuer.for_client(name, now=NOW - timedelta(days=days_ago), days=1)
    options = options_of(issued, each_blue, tmp_path)
    before = each_blue.snapshot()

    async def try_everything(store: EtcdStore) -> int:
        denied = 0
        for attempt in (
            store.read(BLUE.everything),
            store.txn(Txn((), (Put(KEY, b"x"),))),
            store.txn(Txn((), (Delete(BLUE.everything),))),
            store.read(KeyRange("", prefix=True)),
        ):
            with pytest.raises(AccessDenied) as told:
                await attempt
            assert told.value.hint
            denied += 1
        return denied

    assert with_store(options, try_everything) == 4
    assert each_blue.snapshot().revision == before.revision


def options_of(issued: Issued | None, cluster: SecureCluster, folder: Path) -> EtcdOptions:
    if issued is None:
        return EtcdOptions(endpoints=(cluster.endpoint,), ca_file=cluster.pki.file("ca.pem"))
    (folder / "x.pem").write_bytes(issued.certificate)
    (folder / "x.key").write_bytes(issued.key)
    return EtcdOptions(
        endpoints=(cluster.endpoint,),
        ca_file=cluster.pki.file("ca.pem"),
        cert_file=str(folder / "x.pem"),
        key_file=str(folder / "x.key"),
    )


def test_a_host_comes_to_no_etcd_that_another_authority_vouches_for(each_blue: SecureCluster, tmp_path: Path) -> None:
    """So nobody in the network can pass for etcd, and hear or answer anything."""
    other = tmp_path / "other.pem"
    other.write_bytes(Authority.create("etcdlock blue", now=NOW, days=2).pem)
    options = EtcdOptions(
        endpoints=(each_blue.endpoint,),
        ca_file=str(other),
        cert_file=each_blue.pki.file("hosts/a.pem"),
        key_file=each_blue.pki.file("hosts/a.key"),
    )

    async def use(store: EtcdStore) -> None:
        with pytest.raises(AccessDenied, match="certificates"):
            await store.txn(Txn((), (Put(KEY, b"x"),)))

    with_store(options, use)
