"""Images that a program asks the API to lock, with what lies below them."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from etcdlock.agent.chains import Chains
from etcdlock.api.models import WantedLocks, WantedResource
from etcdlock.diskfacts import ImageStart
from etcdlock.errors import NotIdentified
from etcdlock.identity import DiskIdentity, Link, identify_path
from etcdlock.model import Mode
from tests.unit.test_backing_chain import image, reader

IMAGES = {"/a": image("/base", "raw"), "/b": image("/base", "raw")}
BY_PATH = partial(identify_path, rule=DiskIdentity.PATH)


def test_two_images_on_one_template_are_locked_with_it_once() -> None:
    wanted = WantedLocks(
        pid=1, resources=(WantedResource(path="/a", format="qcow2"), WantedResource(path="/b", format="qcow2"))
    )
    links = [one.link for one in wanted.resources if one.link]
    found = asyncio.run(Chains(reader(IMAGES)).below(links))
    assert set(wanted.paths(found)) == {"/a", "/b", "/base"}
    locked = {item.name: item.mode for item in wanted.named(BY_PATH, chains=found)}
    assert locked == {"/a": Mode.EXCLUSIVE, "/b": Mode.EXCLUSIVE, "/base": Mode.SHARED}


def test_an_image_that_does_not_answer_is_not_waited_for_beyond_the_bound() -> None:
    back = threading.Event()

    def dead(path: str) -> ImageStart:
        back.wait(30)
        return ImageStart(path=path, error="gone")

    chains = Chains(dead, within_seconds=0.05)
    with pytest.raises(NotIdentified, match="did not let itself be looked at"):
        asyncio.run(chains.below([Link("/a")]))
    with pytest.raises(NotIdentified, match="did not let itself be looked at"):
        chains.below_now([Link("/a")])
    back.set()
