"""`etcdlock init-cluster`: what it makes, that it takes nothing away, and that it locks nobody out unawares."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions
from etcdlock.adapters.etcd_auth import AuthDesk, auth_desk
from etcdlock.cli.enrolment import Enrolment
from etcdlock.errors import AccessDenied, InvalidInput, Refused, RightsDiffer
from etcdlock.ports import Delete, KeyRange, Txn
from tests.contract.etcds import DISTRO, SYSTEM, put, with_store
from tests.contract.etcds import binary_of as binary
from tests.security.secured import BLUE, CHEAP, Etcds, Pki, SecureCluster, init_cluster


@pytest.fixture
def plain() -> Iterator[str]:
    """An etcd that asks nobody anything: the system's, which is up in no time."""
    with EmbeddedEtcd(binary(SYSTEM), extra_args=(CHEAP,)) as etcd:
        yield etcd.endpoints[0]


def everything(options: EtcdOptions) -> tuple[dict[str, frozenset[str]], dict[str, object]]:
    """All users and all roles."""

    async def read() -> tuple[dict[str, frozenset[str]], dict[str, object]]:
        async with auth_desk(options) as desk:
            return await desk.users(), dict(await desk.roles())

    return asyncio.run(read())


def change(options: EtcdOptions, how: str, *names: str, **more: str) -> None:
    async def do() -> None:
        async with auth_desk(options) as desk:
            await getattr(desk, how)(*names, **more)

    asyncio.run(do())


def test_everybody_with_a_certificate_has_the_roles_of_their_part_and_doing_it_again_changes_nothing(
    etcds: Etcds, pki: Pki
) -> None:
    endpoint = etcds(DISTRO).endpoints[0]
    root = pki.options(endpoint, "root")
    before = everything(root)
    assert before[0] == {
        "root": {"root"},
        "blue/host/a": {"blue/host", "blue/host/a"},
        "blue/host/b": {"blue/host", "blue/host/b"},
        "blue/fleet/nodes": {"blue/fleet"},
        "blue/operator/alice": {"blue/operator"},
        "blue/reader/grafana": {"blue/reader"},
    }
    done = init_cluster(endpoint, Enrolment(certs=pki.folder), **pki.settings("root"))
    assert {(user["name"], user["new"]) for user in done["users"]} == {
        (name, False) for name in before[0] if name != "root"
    }
    assert everything(root) == before
    assert done["authentication"] is True
    assert "looks at no role" in done["warning"]


def test_what_has_more_rights_than_it_should_is_refused_and_nothing_is_changed(blue: SecureCluster) -> None:
    root = blue.pki.options(blue.endpoint, "root")
    change(root, "add_user", "blue/reader/eve", password=CHEAP)
    change(root, "give_role", "blue/reader/eve", role="blue/operator")
    before = everything(root)
    with pytest.raises(RightsDiffer, match="user blue/reader/eve with blue/operator"):
        init_cluster(blue.endpoint, Enrolment(readers=("eve",), hosts=("new",)), **blue.pki.settings("root"))
    assert everything(root) == before


def test_others_who_use_the_etcd_are_not_locked_out_unawares(plain: str, tmp_path: Path) -> None:
    options = EtcdOptions(endpoints=(plain,))
    with_store(options, lambda store: store.txn(put("/another/application")))
    with pytest.raises(Refused, match="1 keys that are not of the cluster 'blue'"):
        init_cluster(plain, Enrolment(hosts=("a",), passwords=tmp_path))
    assert everything(options) == ({}, {})
    assert list(tmp_path.iterdir()) == []
    prepared = init_cluster(plain, Enrolment(hosts=("a",), passwords=tmp_path, leave_auth_off=True))
    assert prepared["authentication"] is False
    assert with_store(options, lambda store: store.txn(put("/another/application"))).succeeded
    done = init_cluster(plain, Enrolment(passwords=tmp_path, despite_other_keys=True))
    assert done["authentication"] is True
    with pytest.raises(AccessDenied):
        with_store(options, lambda store: store.txn(put("/another/application")))


@pytest.mark.parametrize(
    ("who", "says"),
    [("root", "does not ask for certificates"), ("hosts/a", "not root's certificate"), ("", "not root's certificate")],
)
def test_an_administrator_who_would_not_be_let_in_is_refused_before_anything_is_changed(
    lax: str, pki: Pki, who: str, says: str
) -> None:
    with pytest.raises(Refused, match=says):
        init_cluster(lax, Enrolment(hosts=("a",)), **pki.settings(who))
    assert everything(pki.options(lax, "root")) == ({}, {})


@pytest.fixture(scope="module")
def lax(pki: Pki) -> Iterator[str]:
    """TLS, but anybody may come."""
    with EmbeddedEtcd(binary(SYSTEM), extra_args=pki.etcd_arguments[:2]) as etcd:
        yield etcd.endpoints[0]


def test_certificates_of_another_cluster_are_not_taken_for_this_ones(plain: str, pki: Pki) -> None:
    with pytest.raises(InvalidInput, match="nobody of the cluster 'green'"):
        init_cluster(plain, Enrolment(certs=pki.folder), cluster="green")


def test_passwords_are_made_up_kept_for_their_owner_and_let_in(plain: str, tmp_path: Path) -> None:
    folder = tmp_path / "passwords"
    folder.mkdir()
    (folder / "hosts").mkdir()
    (folder / "hosts/a.password").write_text("of my own\n")
    done = init_cluster(plain, Enrolment(hosts=("a", "b"), passwords=folder))
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.password")}
    assert sorted(files) == ["hosts/a.password", "hosts/b.password", "root.password"]
    assert (folder / "hosts/a.password").read_text() == "of my own\n"
    made = [files["hosts/b.password"], files["root.password"]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    assert min(len(path.read_text()) for path in made) >= 32
    assert not any(path.read_text() in str(done) for path in made)
    for user, file in (("blue/host/a", "hosts/a.password"), ("blue/host/b", "hosts/b.password")):
        options = EtcdOptions(endpoints=(plain,), username=user, password=files[file].read_text().strip())
        assert with_store(options, lambda store: store.txn(Txn((), (Delete(KeyRange(BLUE.never)),)))).succeeded
    init_cluster(plain, Enrolment(hosts=("c",), passwords=folder), **administrator(folder))
    assert (folder / "hosts/c.password").exists()


def administrator(folder: Path) -> dict[str, str]:
    return {"ETCDLOCK_USERNAME": "root", "ETCDLOCK_PASSWORD_FILE": str(folder / "root.password")}


class Interrupted(Exception):
    """The command ended here."""


def test_an_attempt_that_broke_off_is_gone_on_with(
    plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every one of its steps, however far it had come."""
    asked = Enrolment(hosts=("a",), passwords=tmp_path)
    names = ("add_role", "grant", "add_user", "give_role", "enable")
    left = 0

    def counted(name: str) -> None:
        real = getattr(AuthDesk, name)

        async def step(self: AuthDesk, *words: str, **more: str) -> None:
            nonlocal left
            if not left:
                raise Interrupted
            left -= 1
            await real(self, *words, **more)

        monkeypatch.setattr(AuthDesk, name, step)

    for name in names:
        counted(name)
    attempts = 0
    while True:
        left, attempts = 1, attempts + 1
        try:
            document = init_cluster(plain, asked)
            break
        except Interrupted:
            continue
    assert attempts > len(names)
    assert document["authentication"] is True
    monkeypatch.undo()
    password = (tmp_path / "root.password").read_text()
    found = everything(EtcdOptions(endpoints=(plain,), username="root", password=password))
    assert found[0] == {"root": {"root"}, "blue/host/a": {"blue/host", "blue/host/a"}}


