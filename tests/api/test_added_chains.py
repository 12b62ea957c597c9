"""Images that a guest gets while it runs: what lies below them is locked with them, or nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from etcdlock.agent.chains import Chains
from etcdlock.errors import HeldElsewhere
from etcdlock.model import Mode, Resource
from tests.api.serving import ApiHost, Serving
from tests.promises.world import domain
from tests.unit.test_backing_chain import reader
from tests.unit.test_wanted_chains import IMAGES

VM, OTHER = domain(0x1234), domain(0x5678)


def add(host: ApiHost, path: str) -> dict[str, Any]:
    what = {"path": path, "format": "qcow2"}
    return host.client._change(VM.uuid, "resources/add", what)  # noqa: SLF001 - what the client never sends


def modes(lock: dict[str, Any]) -> dict[str, str]:
    return {item["path"]: item["mode"] for item in lock["resources"]}


def named_by_path(path: str) -> Resource:
    return Resource("", "", Mode.EXCLUSIVE, path)


@pytest.fixture
def host(hosts: Serving) -> ApiHost:
    return hosts.host("alice", chains=Chains(reader(IMAGES)))


def test_what_lies_below_an_image_that_is_added_is_locked_with_it(host: ApiHost) -> None:
    guest, _ = host.start(VM)
    host.client.acquire(guest, ())
    assert modes(add(host, "/a")) == {"/a": "exclusive", "/base": "shared"}
    assert modes(add(host, "/b")) == {"/a": "exclusive", "/base": "shared", "/b": "exclusive"}


def test_an_image_that_is_refused_leaves_no_lock_on_what_lies_below_it(host: ApiHost) -> None:
    (guest, _), (other, _) = host.start(VM), host.start(OTHER)
    host.client.acquire(guest, ())
    host.client.acquire(other, (named_by_path("/a"),))
    with pytest.raises(HeldElsewhere, match="/a is held"):
        add(host, "/a")
    assert modes(host.client.find(VM.uuid)) == {}
    host.client.add(OTHER.uuid, named_by_path("/base"))  # nobody has the template
    with pytest.raises(HeldElsewhere, match="/base is held"):
        add(host, "/b")
    assert modes(host.client.find(VM.uuid)) == {}
