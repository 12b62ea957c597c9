"""TLS with client certificates on a real etcd, and what is said when one is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import AccessDenied, Unreachable
from etcdlock.ports import KeyRange
from tests.contract.certificates import Authority, Certificate
from tests.contract.etcds import put, refusing_endpoint, with_store


@dataclass(frozen=True, slots=True)
class Secured:
    """An etcd that wants client certificates of `ours`, and what others may come with."""

    etcd: EmbeddedEtcd
    ours: Authority
    theirs: Authority
    client: Certificate
    rogue: Certificate

    def options(self, authority: Authority, client: Certificate | None, *more_endpoints: str) -> EtcdOptions:
        return EtcdOptions(
            endpoints=(*self.etcd.endpoints, *more_endpoints),
            ca_file=authority.ca_file,
            cert_file=client.cert_file if client else "",
            key_file=client.key_file if client else "",
        )


@pytest.fixture(scope="module")
def secured(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(folder, name="ours"), Authority(folder, name="theirs")
    server = ours.issue("server")
    arguments = (
        f"--cert-file={server.cert_file}",
        f"--key-file={server.key_file}",
        f"--trusted-ca-file={ours.ca_file}",
        "--client-cert-auth",
    )
    with EmbeddedEtcd(binary, extra_args=arguments) as etcd:
        yield Secured(etcd, ours, theirs, client=ours.issue("client"), rogue=theirs.issue("rogue"))


def test_a_client_with_a_good_certificate_is_served(secured: Secured) -> None:
    options = secured.options(secured.ours, secured.client)
    assert with_store(options, lambda store: store.txn(put("/tls"))).succeeded


@pytest.mark.parametrize("case", ["wrong authority", "no certificate", "somebody else's certificate"])
def test_a_wrong_certificate_is_denied_and_told_from_a_missing_etcd(secured: Secured, case: str) -> None:
    options = {
        "wrong authority": secured.options(secured.theirs, secured.client),
        "no certificate": secured.options(secured.ours, None),
        "somebody else's certificate": secured.options(secured.ours, secured.rogue),
    }[case]

    async def use(store: EtcdStore) -> None:
        with pytest.raises(AccessDenied, match="certificates") as denied:
            await store.txn(put("/tls"))
        assert "ca_file" in denied.value.hint

    with_store(options, use)


def test_with_another_endpoint_that_is_only_down_it_is_unreachable_with_both_reasons(secured: Secured) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(Unreachable, match=r"CERTIFICATE_VERIFY_FAILED.*Connection refused"):
            await store.txn(put("/tls"))

    with_store(secured.options(secured.theirs, secured.client, refusing_endpoint()), use)


def test_a_server_whose_certificate_bears_another_name_is_denied(secured: Secured) -> None:
    by_name = secured.etcd.endpoints[0].replace("127.0.0.1", "localhost")

    async def use(store: EtcdStore) -> None:
        with pytest.raises(AccessDenied, match="certificates"):
            await store.txn(put("/tls"))

    with_store(replace(secured.options(secured.ours, secured.client), endpoints=(by_name,)), use)


def test_a_watch_is_served_with_a_good_certificate_and_denied_with_a_wrong_one(secured: Secured) -> None:
    everything = [KeyRange("/tls", prefix=True)]

    async def served(store: EtcdStore) -> int:
        revision = (await store.txn(put("/tls"))).revision
        async with aclosing(store.watch(everything, after_revision=revision - 1)) as events:
            return (await anext(events)).revision - revision

    async def denied(store: EtcdStore) -> None:
        async with aclosing(store.watch(everything, after_revision=0)) as events:
            with pytest.raises(AccessDenied, match="certificates"):
                await anext(events)

    assert with_store(secured.options(secured.ours, secured.client), served) == 0
    with_store(secured.options(secured.ours, secured.rogue), denied)


def test_plain_text_to_a_tls_endpoint_is_unreachable_and_nothing_is_sent(secured: Secured) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(Unreachable) as closed:
            await store.txn(put("/tls"))
        assert "wants ca_file to be set" in closed.value.hint

    with_store(EtcdOptions(endpoints=secured.etcd.endpoints), use)
