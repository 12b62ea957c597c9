"""Users, tokens and rights on a real etcd with authentication on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Final

import grpc.aio
import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.errors import AccessDenied
from etcdlock.ports import KeyRange
from tests.contract.etcds import Admin, metrics, put, with_store

ROOT: Final = {"name": "root", "password": "root"}
PREFIX: Final = {"key": b"/locks/", "range_end": b"/locks0", "permType": "READWRITE"}
TOKEN_SECONDS: Final = 1
HANDLED: Final = "grpc_server_handled_total"


@pytest.fixture(scope="module")
def etcd(binary: str) -> Iterator[EmbeddedEtcd]:
    with EmbeddedEtcd(binary, extra_args=(f"--auth-token-ttl={TOKEN_SECONDS}",)) as running:
        asyncio.run(_switch_on(Admin(running.endpoints[0])))
        yield running


async def _switch_on(admin: Admin) -> None:
    await admin.call("Auth", "RoleAdd", name="locker")
    await admin.call("Auth", "RoleGrantPermission", name="locker", perm=PREFIX)
    for name, role in (("root", "root"), ("alice", "locker"), ("bob", "locker"), ("carol", "locker")):
        await admin.call("Auth", "UserAdd", name=name, password=name)
        if role == "root":
            await admin.call("Auth", "RoleAdd", name=role)
        await admin.call("Auth", "UserGrantRole", user=name, role=role)
    await admin.call("Auth", "AuthEnable")


async def _as_root(etcd: EmbeddedEtcd, method: str, **fields: object) -> None:
    admin = Admin(etcd.endpoints[0])
    token = await admin.token(**ROOT)
    await admin.call("Auth", method, token=token, **fields)


def _options(etcd: EmbeddedEtcd, name: str, password: str = "") -> EtcdOptions:
    return EtcdOptions(endpoints=etcd.endpoints, username=name, password=password or name)


def test_a_user_may_do_what_its_role_allows_and_nothing_else(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/locks/1"))).revision
        await store.txn(put("/locks/2"))
        lease = await store.grant(ttl_seconds=30)
        assert await store.keep_alive(lease.id) == 30
        await store.revoke(lease.id)
        async with aclosing(store.watch([KeyRange("/locks/", prefix=True)], after_revision=start)) as events:
            assert (await anext(events)).key == "/locks/2"
        with pytest.raises(AccessDenied, match="permission denied"):
            await store.txn(put("/elsewhere"))
        with pytest.raises(AccessDenied, match="permission denied"):
            await store.read(KeyRange("/elsewhere"))
        async with aclosing(store.watch([KeyRange("/elsewhere")], after_revision=start)) as events:
            with pytest.raises(AccessDenied, match="permission denied"):
                await anext(events)
        (report,) = await store.inspect()
        assert report.reachable

    with_store(_options(etcd, "alice"), use)


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("nobody", "x"), ("", "")])
def test_a_wrong_password_an_unknown_user_and_none_are_denied(etcd: EmbeddedEtcd, name: str, password: str) -> None:
    async def use(store: EtcdStore) -> None:
        with pytest.raises(AccessDenied) as denied:
            await store.txn(put("/locks/1"))
        assert denied.value.hint
        with pytest.raises(AccessDenied):
            await store.read(KeyRange("/locks/1"))

    with_store(EtcdOptions(endpoints=etcd.endpoints, username=name, password=password), use)


def test_a_token_that_etcd_has_forgotten_is_renewed_unnoticed_by_calls_and_watches(etcd: EmbeddedEtcd) -> None:
    """etcd forgets its simple tokens when it restarts."""

    async def use(store: EtcdStore) -> None:
        start = (await store.txn(put("/locks/3"))).revision
        await asyncio.to_thread(etcd.restart)
        assert (await store.txn(put("/locks/4"))).succeeded
        await asyncio.to_thread(etcd.restart)
        async with aclosing(store.watch([KeyRange("/locks/", prefix=True)], after_revision=start)) as events:
            assert (await anext(events)).key == "/locks/4"

    with_store(_options(etcd, "bob"), use)


def test_setting_the_password_ends_all_tokens_and_every_call_gets_a_new_one(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        async def set_password() -> None:
            await _as_root(etcd, "UserChangePassword", name="bob", password="bob")  # noqa: S106  # only here

        assert (await store.txn(put("/locks/8"))).succeeded
        await set_password()
        assert (await store.read(KeyRange("/locks/8"))).found
        await set_password()
        lease = await store.grant(ttl_seconds=30)
        await set_password()
        assert await store.keep_alive(lease.id) == 30
        await set_password()
        await store.revoke(lease.id)
        await set_password()
        (report,) = await store.inspect()
        assert report.reachable

    with_store(_options(etcd, "bob"), use)


def test_a_token_that_ran_out_by_time_is_renewed(etcd: EmbeddedEtcd) -> None:
    """Waits for etcd's own clock: asked with a token of its own until etcd no longer takes it."""

    async def use(store: EtcdStore) -> None:
        await store.txn(put("/locks/5"))
        admin = Admin(etcd.endpoints[0])
        deadline = time.monotonic() + 10
        token = await admin.token("bob", "bob")
        await _until_refused(admin, token, deadline=deadline)
        assert (await store.txn(put("/locks/5"))).succeeded

    with_store(_options(etcd, "bob"), use)


async def _until_refused(admin: Admin, token: str, *, deadline: float) -> None:
    while time.monotonic() < deadline:
        # Each use would prolong the token, so it is used only once its time is over.
        await asyncio.sleep(TOKEN_SECONDS + 1.2)
        try:
            await admin.call("KV", "Range", token=token, key=b"/locks/5")
        except grpc.aio.AioRpcError as error:
            refused = str(error.details())
            break
    else:
        raise AssertionError("the token did not expire")
    assert "invalid auth token" in refused


def test_many_calls_with_one_stale_token_fetch_one_new_token(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/locks/6"))
        await asyncio.to_thread(etcd.restart)
        done = await asyncio.gather(*(store.txn(put(f"/locks/6/{n}")) for n in range(20)))
        assert all(result.succeeded for result in done)
        counted = await asyncio.to_thread(metrics, etcd.endpoints[0])  # from zero, since it was restarted
        assert sum(number for name, number in counted.items() if HANDLED in name and "Authenticate" in name) == 1

    with_store(_options(etcd, "bob"), use)


def test_a_user_that_is_revoked_meanwhile_is_denied_and_nothing_is_applied(etcd: EmbeddedEtcd) -> None:
    async def use(store: EtcdStore) -> None:
        await store.txn(put("/locks/7", b"before"))
        await _as_root(etcd, "UserRevokeRole", name="carol", role="locker")
        with pytest.raises(AccessDenied):
            await store.txn(put("/locks/7", b"after"))
        await _as_root(etcd, "UserDelete", name="carol")
        with pytest.raises(AccessDenied):
            await store.txn(put("/locks/7", b"after"))

    with_store(_options(etcd, "carol"), use)
    found = with_store(_options(etcd, "alice"), lambda store: store.read(KeyRange("/locks/7")))
    assert found.found[0].value == b"before"


def test_user_and_password_do_no_harm_where_authentication_is_off() -> None:
    with EmbeddedEtcd() as plain:
        assert with_store(_options(plain, "alice"), lambda store: store.txn(put("/locks/1"))).succeeded
