"""From domain XML to resources: on what libvirt writes, on what people write, and on what attackers write."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlock.domainxml import MAX_XML_LENGTH, DomainXml, named_of, parse_domain, resources_of
from etcdlock.errors import InvalidDomainXml
from etcdlock.identity import DiskIdentity, identify_path
from etcdlock.model import Mode

DOMAINS = Path(__file__).parent / "domains"
IMAGES = "/var/lib/libvirt/images"
BY_PATH = partial(identify_path, rule=DiskIdentity.PATH)
BY_MD5 = partial(identify_path, rule=DiskIdentity.MD5)

Names = list[tuple[str, str, Mode]]


def parse(text: str) -> DomainXml:
    return parse_domain(text, source="test.xml")


def domain(devices: str = "", *, head: str = "") -> str:
    head = head or "<name>web</name><uuid>5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10</uuid>"
    return f"<domain type='kvm'>{head}<devices>{devices}</devices></domain>"


def disk(path: str, *, target: str = "vda", inside: str = "", device: str = "disk") -> str:
    return f"<disk type='file' device='{device}'><source file='{path}'/><target dev='{target}'/>{inside}</disk>"


def names(parsed: DomainXml) -> Names:
    return [(found.lockspace, found.name, found.mode) for found in resources_of(parsed, identify=BY_PATH)]


def corpus(file: str) -> DomainXml:
    return parse_domain((DOMAINS / file).read_bytes(), source=file)


GUEST_REST: Names = [
    ("path", f"{IMAGES}/shared.raw", Mode.SHARED),
    ("path", f"{IMAGES}/template.raw", Mode.READ_ONLY),
    ("volume", "images/data.raw", Mode.EXCLUSIVE),
    ("nbd", "127.0.0.1:10809/export", Mode.EXCLUSIVE),
    ("path", f'{IMAGES}/name with <odd> & "chars".raw', Mode.EXCLUSIVE),
    ("path", f"{IMAGES}/tools.iso", Mode.READ_ONLY),
    ("/var/lib/libvirt/leases/cluster", "web", Mode.EXCLUSIVE),
]


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("guest-inactive.xml", ["web-root.qcow2"]),
        ("guest-live.xml", ["web-root.qcow2"]),
        ("guest-live-mirror.xml", ["web-root.qcow2", "copy.qcow2"]),
        ("guest-live-snapshot.xml", ["web-root.snap1"]),
        ("guest-live-commit.xml", ["web-root.snap1", "web-root.qcow2"]),
    ],
)
def test_a_real_guest_is_read_alike_defined_running_copying_and_committing(file: str, written: list[str]) -> None:
    parsed = corpus(file)
    assert parsed.domain.uuid == UUID("5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10")
    assert parsed.domain.name == "web"
    assert names(parsed) == [("path", f"{IMAGES}/{name}", Mode.EXCLUSIVE) for name in written] + GUEST_REST
    assert [warning.split(" is ")[0] for warning in parsed.warnings] == ["disk vdd", "disk vde"]


def test_every_kind_of_source_that_libvirt_accepts_is_named() -> None:
    parsed = corpus("every-source.xml")
    assert names(parsed) == [
        ("rbd", "volumes/vol-1", Mode.EXCLUSIVE),
        ("rbd", "volumes/base@gold", Mode.READ_ONLY),
        ("iscsi", "iqn.2013-07.com.example:target/2", Mode.EXCLUSIVE),
        ("nbd", "unix:/run/nbd.sock:", Mode.EXCLUSIVE),
        ("gluster", "vol/dir/image.qcow2", Mode.EXCLUSIVE),
        ("nfs", "nas.example.org:2049/export/vm.raw", Mode.EXCLUSIVE),
        ("ssh", "nas.example.org:22/srv/x.raw", Mode.EXCLUSIVE),
        ("sheepdog", "vdi", Mode.EXCLUSIVE),
        ("path", "/dev/mapper/vg0-web", Mode.EXCLUSIVE),
        ("path", "/srv/share", Mode.READ_ONLY),
        ("path", "/srv/t.qcow2", Mode.SHARED),
        ("iscsi", "iqn.2013-07.com.example:lun0/0", Mode.EXCLUSIVE),
        ("path", "/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.2001-04.com.example:s-lun-1", Mode.SHARED),
        ("https", "mirror.example.org:443/isos/debian.iso?v=1", Mode.READ_ONLY),
        ("path", "/srv/floppy.img", Mode.EXCLUSIVE),
    ]
    warnings = "\n".join(parsed.warnings)
    assert "-drive" in warnings
    assert "<hostdev>" in warnings
    assert "disk vdd" in warnings
    assert len(parsed.warnings) == 3


def test_forms_that_the_real_guests_do_not_have() -> None:
    parsed = corpus("hand-made.xml")
    assert parsed.domain.uuid == UUID("5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a13")
    assert names(parsed) == [
        ("path", "/srv/no-type.raw", Mode.EXCLUSIVE),
        ("path", "/srv/index.qcow2", Mode.EXCLUSIVE),
        ("path", "/dev/vg0/blocks", Mode.EXCLUSIVE),
        ("path", "/srv/old.raw", Mode.EXCLUSIVE),
        ("path", "/srv/old-copy.raw", Mode.EXCLUSIVE),
        ("path", "/srv/moving.raw", Mode.SHARED),
        ("nbd", "box:10810/e", Mode.EXCLUSIVE),
        ("path", "/srv/both.raw", Mode.READ_ONLY),
        ("path", "/srv/gone.raw", Mode.EXCLUSIVE),
        ("path", "/srv/plain.iso", Mode.READ_ONLY),
        ("path", "/srv/line\nbreak", Mode.EXCLUSIVE),
        ("path", "/srv/über.raw", Mode.EXCLUSIVE),
        ("/srv/leases/space", "one", Mode.EXCLUSIVE),
    ]
    assert parsed.leases[0].offset == 1048576
    assert [w for w in parsed.warnings if "(-blockdev, -hda in" in w]
    assert [w for w in parsed.warnings if "NVDIMM" in w]
    assert len(parsed.warnings) == 2


def test_a_real_snapshot_xml_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(InvalidDomainXml, match=r"refused-snapshot\.xml: describes a <domainsnapshot>") as refusal:
        corpus("refused-snapshot.xml")
    assert "virsh dumpxml" in refusal.value.hint


@pytest.mark.parametrize("kind", ["vhostuser", "nvme"])
def test_a_real_disk_that_no_other_host_can_name_is_refused(kind: str) -> None:
    with pytest.raises(InvalidDomainXml, match=f"disk vd[ab]: disks of type '{kind}'") as refusal:
        corpus(f"refused-{kind}.xml")
    assert "<lease>" in refusal.value.hint


def test_the_path_of_a_resource_is_the_text_of_the_xml() -> None:
    parsed = parse(domain(disk("/srv//a.raw") + disk("/srv/./b.raw", target="vdb")))
    found = resources_of(parsed, identify=BY_MD5)
    assert [resource.path for resource in found] == ["/srv//a.raw", "/srv/./b.raw"]
    assert {resource.lockspace for resource in found} == {"__LIBVIRT__DISKS__"}


@pytest.mark.parametrize(
    ("first", "second"), [("", ""), ("", "<readonly/>"), ("<shareable/>", ""), ("<readonly/>", "")]
)
def test_one_disk_under_two_targets_is_refused_with_both_named(first: str, second: str) -> None:
    both = disk("/srv/a.raw", inside=first) + disk("/srv//a.raw", target="vdb", inside=second)
    with pytest.raises(InvalidDomainXml, match=r"test\.xml: disk vda .*disk vdb .*'/srv//a\.raw'"):
        resources_of(parse(domain(both)), identify=BY_PATH)


def test_a_copy_onto_a_disk_of_the_same_domain_is_refused() -> None:
    copy = "<mirror type='file' job='copy'><source file='/srv/b.raw'/></mirror>"
    devices = disk("/srv/a.raw", inside=copy) + disk("/srv/b.raw", target="vdb")
    with pytest.raises(InvalidDomainXml, match=r"disk vda \(mirror\).*disk vdb"):
        resources_of(parse(domain(devices)), identify=BY_PATH)


def test_one_iso_in_two_drives_is_one_resource() -> None:
    devices = disk("/a.iso", device="cdrom") + disk("/a.iso", target="vdb", device="cdrom")
    assert names(parse(domain(devices))) == [("path", "/a.iso", Mode.READ_ONLY)]
    assert len(named_of(parse(domain(devices)), identify=BY_PATH)) == 2


def test_one_lease_twice_is_refused() -> None:
    lease = "<lease><lockspace>l</lockspace><key>k</key><target path='/t'/></lease>"
    with pytest.raises(InvalidDomainXml, match="lease 'k'"):
        resources_of(parse(domain(lease * 2)), identify=BY_PATH)


def test_a_thousand_disks_are_read_and_a_repetition_among_them_is_found() -> None:
    devices = "".join(disk(f"/srv/{number}", target=f"vd{number}") for number in range(1000))
    started = time.process_time()
    assert len(names(parse(domain(devices)))) == 1000
    assert time.process_time() - started < 5, "reading a thousand disks takes some 20 ms"
    with pytest.raises(InvalidDomainXml, match=r"disk vd999 .*disk vdx"):
        names(parse(domain(devices + disk("/srv/999", target="vdx"))))


HEAD = "<name>n</name><uuid>5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10</uuid>"


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "not well-formed"),
        ("no xml", "not well-formed"),
        ("<domain>", "not well-formed"),
        ("<a>" * 100_000, "not well-formed"),
        ("<a>" * 100_000 + "</a>" * 100_000, "describes a <a>"),
        ("<?xml version='1.0' encoding='nonsense'?><domain/>", "not well-formed|no <"),
        ("<domain>\0</domain>", "not well-formed"),
        ("<domain>\ud800</domain>", "not well-formed"),
        ("<!DOCTYPE domain><domain/>", "DTD"),
        ("<!DOCTYPE d [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]><domain><name>&b;</name></domain>", "DTD"),
        ("<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name></domain>", "DTD"),
        ("<!DOCTYPE d SYSTEM 'http://127.0.0.1/x.dtd'><domain/>", "DTD"),
        ("<domain><name>&nbsp;</name></domain>", "not well-formed"),
        ("<domain xmlns='urn:other'/>", "not a <domain>"),
        ("<domstatus><domain/></domstatus>", "describes a <domstatus>"),
        ("<domain/>", "no <uuid>|no <name>"),
        (domain(head="<uuid>5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10</uuid>"), "no <name>"),
        (domain(head=HEAD.replace(">n<", "> <")), "no <name>"),
        (domain(head=HEAD.replace(">n<", ">n&#10;m<")), r"n\\nm"),
        (domain(head=HEAD.replace(">n<", f">{'n' * 256}<")), "255 bytes"),
        (domain(head=HEAD + HEAD), "2 <"),
        (domain(head="<name>n</name>"), "no <uuid>"),
        (domain(head="<name>n</name><uuid>web</uuid>"), "not a UUID"),
        (domain(head="<name>n</name><uuid>{5f1c5f64-2c1e-4b7e-9d2e-0d9a3c1b7a10}</uuid>"), "not a UUID"),
        (domain(head="<name>n</name><uuid>00000000-0000-0000-0000-000000000000</uuid>"), "placeholder"),
        (domain("<disk type='file'><source file='/a'/></disk>"), "no <target"),
        (domain("<disk type='file'><target dev='vda'/></disk>"), "disk vda: has no source"),
        (domain("<disk type='file'><source/><target dev='vda'/></disk>"), "disk vda: has no source"),
        (domain("<disk type='block'><source file='/a'/><target dev='vda'/></disk>"), "disk vda: has no source"),
        (domain("<disk type='network'><target dev='vda'/></disk>"), "disk vda: has no source"),
        (domain("<disk type='network'><source/><target dev='vda'/></disk>"), "disk vda: disks over the protocol ''"),
        (domain("<disk type='vhostvdpa'><source dev='/dev/v'/><target dev='vda'/></disk>"), "type 'vhostvdpa'"),
        (domain("<disk type='next year'><source file='/a'/><target dev='vda'/></disk>"), "type 'next year'"),
        (domain("<disk type='volume'><source pool='p'/><target dev='vda'/></disk>"), "disk vda: 'p' and ''"),
        (domain(disk("/a", device="tape")), "'tape'"),
        (domain(disk("/a", inside="<source file='/b'/>")), "2 <source>"),
        (domain(disk("/a", inside="<mirror type='file'/>")), "<mirror>"),
        (domain(disk("/a", inside="<mirror type='vhostuser'><source path='/s'/></mirror>")), "type 'vhostuser'"),
        (domain(disk("a.raw")), "disk vda: the path 'a.raw' is not absolute"),
        (domain(disk("/a/../b")), r"disk vda: .*'\.\.'"),
        (domain(disk("/" + "a" * 4095)), "4095 bytes"),
        (domain(disk("/a&#10;/../b")), r"'/a\\n/\.\./b'"),
        (domain("<lease><key>k</key><target path='/t'/></lease>"), "lease 'k'"),
        (domain("<lease><lockspace>l</lockspace><target path='/t'/></lease>"), "lease ''"),
        (domain("<lease><lockspace>l</lockspace><key>k</key></lease>"), "no <target"),
        (domain("<lease><lockspace>l</lockspace><key>k</key><target path='/t' offset='-1'/></lease>"), "offset"),
        (domain("<lease><lockspace>l</lockspace><key>k</key><target path='t'/></lease>"), "not absolute"),
    ],
)
def test_malformed_and_hostile_xml_is_refused_with_the_place_and_the_reason(xml: str, says: str) -> None:
    with pytest.raises(InvalidDomainXml, match=says) as refusal:
        parse(xml)
    assert str(refusal.value).startswith("test.xml: ")
    assert str(refusal.value).isprintable()


def test_an_oversized_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidDomainXml, match="larger than 4 MiB"):
        parse("<" * (MAX_XML_LENGTH + 1))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "nonsense", "hex", "utf-7"])
def test_other_encodings_are_read_or_refused_but_never_mangled(encoding: str) -> None:
    body = domain(disk("/srv/über.raw"))
    text = f"<?xml version='1.0' encoding='{encoding}'?>{body}"
    known = encoding in ("utf-8", "utf-16", "latin-1")
    octets = text.encode(encoding if known else "utf-8")
    try:
        parsed = parse_domain(octets, source="test.xml")
    except InvalidDomainXml:
        assert not known
    else:
        assert names(parsed) == [("path", "/srv/über.raw", Mode.EXCLUSIVE)]


CORPUS = [path.read_bytes() for path in sorted(DOMAINS.glob("*.xml"))]
PIECES = [
    b"<",
    b">",
    b"/",
    b"'",
    b"&#0;",
    b"&lt;",
    b"",
    b"<disk>",
    b"</disk>",
    b"file",
    b"..",
    b"\xff",
    b"\0",
    b"type='",
]


def refusal_of(xml: bytes | str) -> str:
    """What is said to a person, empty where it could be read; anything else than a refusal is a crash."""
    try:
        resources_of(parse_domain(xml, source="test.xml"), identify=BY_MD5)
    except InvalidDomainXml as refusal:
        return str(refusal)
    return ""


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(st.characters(), max_size=200))
def test_any_bytes_at_all_are_read_or_refused(xml: bytes | str) -> None:
    assert refusal_of(xml).isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(CORPUS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from(PIECES)), max_size=4),
)
def test_real_xml_with_pieces_broken_is_read_or_refused(xml: bytes, cuts: list[tuple[float, int, bytes]]) -> None:
    for where, length, piece in cuts:
        at = int(where * len(xml))
        xml = xml[:at] + piece + xml[at + length :]
    assert refusal_of(xml).isprintable()


ATTRIBUTE = st.sampled_from(["type", "device", "file", "dev", "dir", "pool", "volume", "protocol", "name", "port"]) | (
    st.sampled_from(["transport", "socket", "path", "offset", "value", "query", "shareBacking"])
)
VALUE = st.sampled_from(["file", "network", "volume", "block", "disk", "cdrom", "/a", "a/b", "rbd", "nbd", "iscsi"]) | (
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="<&'\ufffe\uffff"), max_size=6)
)
TAG = st.sampled_from(
    ["disk", "source", "target", "host", "mirror", "lease", "key", "lockspace", "dataStore", "snapshot"]
)


def written(tag: str, attributes: dict[str, str], parts: list[str]) -> str:
    listed = " ".join(f"{key}='{value}'" for key, value in attributes.items())
    return f"<{tag} {listed}>{''.join(parts)}</{tag}>"


def element(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(written, TAG, st.dictionaries(ATTRIBUTE, VALUE, max_size=3), st.lists(inside, max_size=3))


@settings(deadline=None)
@given(st.recursive(VALUE, element, max_leaves=12))
def test_well_formed_nonsense_is_read_or_refused(devices: str) -> None:
    assert refusal_of(domain(devices)).isprintable()
