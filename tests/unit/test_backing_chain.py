"""What lies below an image: from headers as QEMU writes them and as nobody should, and from XML."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcdlock.diskfacts import ImageStart
from etcdlock.domainxml import chains_of, parse_domain, resources_of, with_chains
from etcdlock.errors import InvalidDomainXml, InvalidInput, NotIdentified
from etcdlock.identity import DiskIdentity, Link, Named, distinct, identify_path, parse_disk_argument, read_chain
from etcdlock.identity.qcow2 import Header, parse_header
from etcdlock.model import Mode, Resource

BY_PATH = partial(identify_path, rule=DiskIdentity.PATH)


def image(backing: str = "", backing_format: str = "", *, version: int = 3, features: int = 0) -> bytes:
    """The start of a qcow2 image, by the published format."""
    length = 104 if version > 2 else 72
    raw = backing_format.encode()
    extension = struct.pack(">II", 0xE2792ACA, len(raw)) + raw.ljust((len(raw) + 7) // 8 * 8, b"\0") if raw else b""
    extension += bytes(8)
    name = backing.encode("utf-8", "surrogateescape")
    head = b"QFI\xfb" + struct.pack(">IQI", version, length + len(extension) if name else 0, len(name))
    rest = bytes(72 - len(head)) + (struct.pack(">Q", features) + bytes(20) + struct.pack(">I", length))
    return (head + rest)[:length] + extension + name + bytes(500)


def reader(images: dict[str, bytes], *, folder: str = "/real") -> Callable[[str], ImageStart]:
    def read(path: str) -> ImageStart:
        if path not in images:
            return ImageStart(path=path, error="No such file or directory")
        return ImageStart(path=path, folder=folder, content=images[path])

    return read


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_says_what_is_below_and_of_which_format(version: int) -> None:
    assert parse_header(image("/t/base.img", "raw", version=version)) == Header("/t/base.img", "raw")
    assert parse_header(image("base", version=version)) == Header("base", "")
    assert parse_header(image(version=version)) == Header()


@pytest.mark.parametrize(
    "content",
    [b"", b"QFI\xfb", bytes(600), image("/b", version=1), image("/b", version=4), image("/b")[:80], image("x" * 1100)],
)
def test_a_header_that_cannot_be_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_header(content)


@given(st.binary(max_size=300), st.integers(0, 130))
def test_hostile_bytes_in_a_header_raise_nothing_else(hostile: bytes, at: int) -> None:
    content = bytearray(image("/base", "qcow2"))
    content[at : at + len(hostile)] = hostile
    with contextlib.suppress(NotIdentified):
        read_chain(Link("/top"), read=reader({"/top": bytes(content)}))


def test_a_chain_is_followed_to_its_end() -> None:
    images = {"/vm/top": image("mid", "qcow2"), "/vm/mid": image("./sub//base", "qcow2"), "/vm/sub/base": image()}
    assert read_chain(Link("/vm//top"), read=reader(images)).layers == ("/vm/mid", "/vm/sub/base")


def test_a_name_that_leads_upwards_counts_from_where_the_folder_really_is() -> None:
    found = read_chain(Link("/link/top"), read=reader({"/link/top": image("../base", "raw")}, folder="/san/vm"))
    assert found.layers == ("/san/base",)


def test_without_a_stated_format_an_image_is_raw_and_never_looked_into() -> None:
    images = {"/top": image("/base"), "/base": image("/etc/shadow", "raw")}
    found = read_chain(Link("/top"), read=reader(images))
    assert found.layers == ("/base",)
    assert "does not say of which format '/base' is" in found.warnings[0]
    images = {"/top": image("/base", "raw"), "/base": image("/etc/shadow", "raw")}
    assert read_chain(Link("/top"), read=reader(images)).layers == ("/base",)


@pytest.mark.parametrize("name", ["json:{}", "nbd://server/x", "a:b"])
def test_what_is_no_path_ends_the_chain_with_a_warning(name: str) -> None:
    found = read_chain(Link("/top"), read=reader({"/top": image(name, "qcow2")}))
    assert (found.layers, len(found.warnings)) == ((), 1)


@pytest.mark.parametrize(
    ("images", "why"),
    [
        ({"/top": image("/a", "qcow2"), "/a": image("/top", "qcow2")}, "lies on itself"),
        ({f"/{n}": image(f"/{n + 1}", "qcow2") for n in range(99)} | {"/top": image("/0", "qcow2")}, "more than 64"),
        ({"/top": image("/gone", "qcow2")}, "'/gone' could not be read: No such file"),
        ({"/top": bytes(600)}, "not a qcow2 image"),
        ({"/top": image("a/../../b", "raw")}, "contains '..'"),
    ],
)
def test_what_cannot_be_told_is_refused(images: dict[str, bytes], why: str) -> None:
    with pytest.raises(NotIdentified, match=why):
        read_chain(Link("/top"), read=reader(images))


def locked(disks: str, images: dict[str, bytes] | None = None) -> list[tuple[str, Mode]]:
    head = "<name>web</name><uuid>5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10</uuid>"
    parsed = parse_domain(f"<domain>{head}<devices>{disks}</devices></domain>", source="x", chains=True)
    links = {link: read_chain(link, read=reader(images or {})) for link in chains_of(parsed)}
    whole = with_chains(parsed, chain=links.__getitem__)
    return [(item.name, item.mode) for item in resources_of(whole, identify=BY_PATH)]


def disk(path: str, inside: str = "", *, kind: str = "qcow2", target: str = "vda") -> str:
    driver = f"<driver type='{kind}'/>" if kind else ""
    return f"<disk type='file'>{driver}<source file='{path}'/>{inside}<target dev='{target}'/></disk>"


def store(path: str, inside: str = "<backingStore/>", *, kind: str = "qcow2") -> str:
    said = f"<format type='{kind}'/>" if kind else ""
    return f"<backingStore type='file'>{said}<source file='{path}'/>{inside}</backingStore>"


def test_the_xml_is_asked_first_and_an_empty_backing_store_ends_the_chain() -> None:
    assert locked(disk("/a", store("/b", store("/c")))) == [
        ("/a", Mode.EXCLUSIVE), ("/b", Mode.SHARED), ("/c", Mode.SHARED)
    ]  # fmt: skip
    assert locked(disk("/a", "<backingStore/>")) == [("/a", Mode.EXCLUSIVE)]


def test_where_the_xml_says_no_more_the_image_does_if_it_is_said_to_be_qcow2() -> None:
    images = {"/a": image("/b", "qcow2"), "/b": image("/c", "raw"), "/c": image("/never", "raw")}
    assert [name for name, _ in locked(disk("/a"), images)] == ["/a", "/b", "/c"]
    assert [name for name, _ in locked(disk("/x", store("/b", "")), images)] == ["/x", "/b", "/c"]
    for kind in ("raw", ""):
        assert locked(disk("/a", kind=kind), images) == [("/a", Mode.EXCLUSIVE)]
        assert [name for name, _ in locked(disk("/x", store("/a", "", kind=kind)), images)] == ["/x", "/a"]


def test_the_chain_of_a_read_only_disk_is_read_only() -> None:
    assert {mode for _, mode in locked(disk("/a", store("/b") + "<readonly/>"))} == {Mode.READ_ONLY}


def test_a_block_commit_does_not_refuse_itself_but_two_disks_on_one_image_do() -> None:
    commit = "<mirror type='file' job='active-commit'><format type='raw'/><source file='/base'/></mirror>"
    assert locked(disk("/a", store("/base") + commit)) == [("/a", Mode.EXCLUSIVE), ("/base", Mode.EXCLUSIVE)]
    with pytest.raises(InvalidDomainXml, match="are the same resource"):
        locked(disk("/a", store("/base")) + disk("/base", kind="raw", target="vdb"))
    other = disk("/b", store("/base"), target="vdb")
    for disks in (other + disk("/a", store("/base") + commit), disk("/a", store("/base") + commit) + other):
        with pytest.raises(InvalidDomainXml, match="are the same resource"):
            locked(disks)
    two = locked(disk("/a", store("/base")) + other)
    assert two == [("/a", Mode.EXCLUSIVE), ("/base", Mode.SHARED), ("/b", Mode.EXCLUSIVE)]


def test_a_disk_that_is_its_own_only_by_name_is_still_named_twice() -> None:
    resource = Resource("path", "/a", Mode.EXCLUSIVE, "/a")
    with pytest.raises(InvalidInput, match="are the same resource"):
        distinct([Named("one", resource, disk="vda"), Named("two", resource, disk="vda")])


def test_too_deep_a_chain_in_the_xml_is_refused_and_none_is_read_where_it_is_not_asked_for() -> None:
    deep = "<backingStore/>"
    for number in range(65):
        deep = store(f"/{number}", deep)
    with pytest.raises(InvalidDomainXml, match="more than 64 backing files"):
        locked(disk("/a", deep))
    head = "<name>web</name><uuid>5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10</uuid>"
    plain = parse_domain(f"<domain>{head}<devices>{disk('/a', deep)}</devices></domain>", source="x")
    assert (len(plain.disks), chains_of(plain)) == (1, ())


@pytest.mark.parametrize(
    ("argument", "path", "mode", "image_format"),
    [
        ("/a:qcow2", "/a", Mode.EXCLUSIVE, "qcow2"),
        ("/a:qcow2:readonly", "/a", Mode.READ_ONLY, "qcow2"),
        ("/a:qcow2:raw", "/a:qcow2", Mode.EXCLUSIVE, "raw"),
        ("/a.qcow2", "/a.qcow2", Mode.EXCLUSIVE, "raw"),
    ],
)
def test_the_format_of_a_disk_on_the_command_line(argument: str, path: str, mode: Mode, image_format: str) -> None:
    found = parse_disk_argument(argument)
    assert (found.path, found.mode, found.image_format) == (path, mode, image_format)
