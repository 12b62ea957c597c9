"""Images below a disk, for whoever embeds the lock manager: locked with it by every door that is told the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.driver import DomainId, Loaded, Lock, LockManager, Reservation, load
from etcdlock.errors import HeldElsewhere, InvalidInput, NotIdentified
from tests.driver.places import GUEST, NOWHERE, place
from tests.unit.test_backing_chain import image

XML = (
    "<domain><name>vm1</name><uuid>{uuid}</uuid><devices><disk type='file'><driver type='qcow2'/>"
    "<source file='{path}'/><target dev='vda'/></disk></devices></domain>"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers on one template."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("one", "two", "three"):
        folder.joinpath(name).write_bytes(image(str(folder / "template"), "raw"))
    folder.joinpath("template").write_bytes(bytes(1024))
    return folder


@pytest.fixture(scope="module")
def driver(etcd: EmbeddedEtcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with place("etcd", etcd, tmp_path_factory.mktemp("chains")) as there:
        settings = there.settings("a") | {"backing_chain": "shared"}
        with load("etcd", config=NOWHERE, settings=settings) as loaded:
            yield loaded


def modes(lock: Lock) -> dict[str, str]:
    return {Path(item.path).name: str(item.mode) for item in lock.resources}


def test_a_guest_has_its_templates_with_its_disks_however_these_are_named(driver: Loaded, images: Path) -> None:
    by_path, by_xml = LockManager(driver, DomainId(uuid4(), "vm1")), LockManager(driver, DomainId(uuid4(), "vm1"))
    by_path.register(str(images / "one"), image_format="qcow2")
    by_xml.register_xml(XML.format(uuid=by_xml.domain.uuid, path=images / "two"))
    guests = [manager.start(GUEST) for manager in (by_path, by_xml)]
    found = [manager.inquire() for manager in (by_path, by_xml)]
    assert [modes(lock) for lock in found if lock] == [
        {"one": "exclusive", "template": "shared"}, {"two": "exclusive", "template": "shared"}
    ]  # fmt: skip
    added = by_path.acquire_resource(str(images / "three"), image_format="qcow2")
    assert modes(added) == {"one": "exclusive", "template": "shared", "three": "exclusive"}
    for manager, guest in zip((by_path, by_xml), guests, strict=True):
        guest.kill()
        guest.wait()
        manager.release()


def test_what_was_locked_below_a_disk_that_is_refused_is_given_back(driver: Loaded, images: Path) -> None:
    other, manager = LockManager(driver, DomainId(uuid4(), "vm1")), LockManager(driver, DomainId(uuid4(), "vm2"))
    other.register(str(images / "three"))
    guests = [each.start(GUEST) for each in (other, manager)]
    for had in ({}, {"two": "exclusive", "template": "shared"}):
        if had:
            assert modes(manager.acquire_resource(str(images / "two"), image_format="qcow2")) == had
        with pytest.raises(HeldElsewhere):
            manager.acquire_resource(str(images / "three"), image_format="qcow2")
        lock = manager.inquire()
        assert lock is not None
        assert modes(lock) == had
    for each, guest in zip((other, manager), guests, strict=True):
        guest.kill()
        guest.wait()
        each.release()


def test_a_reservation_has_them_too(driver: Loaded, images: Path) -> None:
    manager = LockManager(driver, DomainId(uuid4(), "vm1"))
    guest = manager.start(GUEST)
    with Reservation(driver, "backup", pid=guest.pid) as reserved:
        reserved.add_disk(str(images / "one"), image_format="qcow2")
        reserved.add_domain(XML.format(uuid=uuid4(), path=images / "two"), readonly=True)
        assert modes(reserved.acquire()) == {"one": "exclusive", "template": "shared", "two": "shared"}
    guest.kill()
    guest.wait()
    manager.release()


def test_what_cannot_be_read_or_is_not_known_registers_nothing(driver: Loaded, images: Path) -> None:
    manager = LockManager(driver, DomainId(uuid4(), "vm1"))
    with pytest.raises(NotIdentified, match="could not be read"):
        manager.register(str(images / "none"), image_format="qcow2")
    with pytest.raises(InvalidInput, match="image_format is 'vmdk'"):
        manager.register(str(images / "one"), image_format="vmdk")
    manager.register(str(images / "one"))  # of which nothing is said: it counts as raw
    guest = manager.start(GUEST)
    lock = manager.inquire()
    assert lock is not None
    assert modes(lock) == {"one": "exclusive"}
    guest.kill()
    guest.wait()
    manager.release()
