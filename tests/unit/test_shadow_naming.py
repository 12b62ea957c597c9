"""In shadow mode a disk that cannot be named, or whose images cannot be read, is told of and refuses nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from etcdlock.agent.chains import Chains
from etcdlock.agent.findings import Findings
from etcdlock.agent.shadow_naming import ShadowChains, ShadowNamer
from etcdlock.diskfacts import Kind, Place
from etcdlock.errors import NotIdentified
from etcdlock.identity import Chain, DiskIdentity, Link, Naming, ResourceName
from etcdlock.journal import JOURNAL
from tests.unit.test_backing_chain import reader
from tests.unit.test_wanted_chains import IMAGES


def absent(paths: Sequence[str]) -> tuple[Place, ...]:
    """Nothing is anywhere."""
    return tuple(Place(path=path, real=path, kind=Kind.ABSENT) for path in paths)


def told_since(number: int) -> list[tuple[object, object]]:
    found: list[tuple[object, object]] = []
    while (event := JOURNAL.first_after(number)) is not None:
        number = event.number
        found.append((event.fields["resources"], event.fields["reason"]))
    return found


def test_what_has_no_name_is_named_by_its_path_and_told_of() -> None:
    namer = ShadowNamer(Naming(DiskIdentity.AUTO, boot="boot", look=absent), findings=Findings())
    before = JOURNAL.last
    assert asyncio.run(namer.names(("/a", "/b"))) == {
        "/a": ResourceName("path", "/a"), "/b": ResourceName("path", "/b")
    }  # fmt: skip
    assert told_since(before) == [("/a", NotIdentified.__name__), ("/b", NotIdentified.__name__)]


def test_images_that_cannot_be_read_have_nothing_below_them_and_others_keep_theirs() -> None:
    chains, before = ShadowChains(Chains(reader(IMAGES)), findings=Findings()), JOURNAL.last
    found = asyncio.run(chains.below([Link("/a"), Link("/none")]))
    assert found == {Link("/a"): Chain(("/base",)), Link("/none"): Chain()}
    assert told_since(before) == [("/none", NotIdentified.__name__)]
