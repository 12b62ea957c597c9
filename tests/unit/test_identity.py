"""What a disk is called: one name for one disk, whoever spells it."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlock.errors import InvalidInput
from etcdlock.identity import (
    DiskArgument,
    DiskIdentity,
    Named,
    Naming,
    NetworkHost,
    NetworkSource,
    ResourceName,
    check_local_folder,
    distinct,
    escaped,
    identify_lease,
    identify_network,
    identify_path,
    identify_volume,
    local_lockspace,
    normal_path,
    parse_disk_argument,
    stays_behind,
)
from etcdlock.keyspace import Keyspace
from etcdlock.model import Mode, Resource

BY_TEXT = (DiskIdentity.PATH, DiskIdentity.MD5)
PATHS = st.lists(st.binary(min_size=1, max_size=12).filter(lambda part: b"/" not in part and b"\0" not in part))


@pytest.mark.parametrize("spelling", ["/a/b", "//a/b", "/a//b", "/a/./b", "/./a/b/", "/a/b/.", "///a/b//"])
@pytest.mark.parametrize("rule", BY_TEXT)
def test_spellings_of_one_path_have_one_name(spelling: str, rule: DiskIdentity) -> None:
    assert identify_path(spelling, rule=rule) == identify_path("/a/b", rule=rule)


@pytest.mark.parametrize("other", ["/a/B", "/a/b ", "/a/.b", "/a/b.", "/a/...", "/a", "/a/b\n", "/a\\b"])
@pytest.mark.parametrize("rule", BY_TEXT)
def test_different_paths_have_different_names(other: str, rule: DiskIdentity) -> None:
    assert identify_path(other, rule=rule) != identify_path("/a/b", rule=rule)


def test_path_rule_uses_the_path_itself() -> None:
    assert identify_path("/a//b", rule=DiskIdentity.PATH) == ResourceName("path", "/a/b")


def test_md5_rule_is_the_name_that_libvirts_sanlock_plugin_uses() -> None:
    name = identify_path("/var/lib/libvirt/images/web.img", rule=DiskIdentity.MD5)
    assert name == ResourceName("__LIBVIRT__DISKS__", "9bd0267eef6ed5e6d04a52914fb4b02a")


@pytest.mark.parametrize("rule", BY_TEXT)
@pytest.mark.parametrize("path", ["/local/a", "/local//x/./a", "/./local/x/y", "//var/own/z"])
def test_what_lies_below_a_local_folder_is_named_after_its_host(path: str, rule: DiskIdentity) -> None:
    a, b = (Naming(rule, host, ("/local", "/var/own/")) for host in ("a", "b"))
    assert a(path) == ResourceName("host/a", normal_path(path))
    assert b(path) == ResourceName("host/b", normal_path(path))


@pytest.mark.parametrize("rule", BY_TEXT)
@pytest.mark.parametrize("path", ["/local", "/localhost/a", "/san/local/a", "/var/own", "/var/owner/z", "/local.img"])
def test_what_does_not_lie_below_one_by_whole_components_has_its_one_name_on_all_hosts(
    path: str, rule: DiskIdentity
) -> None:
    a, b = (Naming(rule, host, ("/local", "/var/own/")) for host in ("a", "b"))
    assert a(path) == b(path) == identify_path(path, rule=rule)


@pytest.mark.parametrize("path", ["/local/../san/a", "local/a", "", "/local/a\0"])
def test_a_way_out_of_a_local_folder_is_refused_as_anywhere(path: str) -> None:
    with pytest.raises(InvalidInput):
        Naming(host="a", local_folders=("/local",))(path)


@pytest.mark.parametrize("host", ["a", "b", "a/b", "", "ä", "n" * 300])
def test_a_hosts_own_file_has_a_key_that_nothing_else_has(host: str) -> None:
    own = Resource(local_lockspace(host), "/local/a", Mode.EXCLUSIVE, "/local/a")
    keys = Keyspace()
    others = [
        Resource(lockspace, "/local/a", Mode.EXCLUSIVE, "")
        for lockspace in ("path", "host", "/host/a", "host/c", "rbd", "volume", local_lockspace(host + "/"))
    ]
    assert keys.holders(own) not in [keys.holders(other) for other in others]


def test_only_another_hosts_own_file_stays_behind_when_a_guest_migrates() -> None:
    lockspaces = ("host/a", "host/b", "host/", "path", "/host/b", "nbd", "host")
    behind = [name for name in lockspaces if stays_behind(Resource(name, "x", Mode.EXCLUSIVE, ""), host="a")]
    assert behind == ["host/b", "host/"]


@pytest.mark.parametrize("folder", ["/", "//", "/.", "relative", "/a/..", ""])
def test_a_local_folder_that_cannot_be_meant_is_refused(folder: str) -> None:
    with pytest.raises(InvalidInput):
        check_local_folder(folder)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "not absolute"),
        ("disk.img", "not absolute"),
        ("./disk.img", "not absolute"),
        ("[datastore] vm/disk.vmdk", "not absolute"),
        ("/a/../b", r"'\.\.'"),
        ("/..", r"'\.\.'"),
        ("/a/..", r"'\.\.'"),
        ("/a\0b", "NUL"),
        ("/" + "a" * 4095, "4095 bytes"),
        ("/" + "ä" * 2048, "4095 bytes"),
        ("/a\ud800", "surrogate"),
    ],
)
@pytest.mark.parametrize("rule", BY_TEXT)
def test_paths_that_name_no_file_safely_are_refused(path: str, says: str, rule: DiskIdentity) -> None:
    with pytest.raises(InvalidInput, match=says):
        identify_path(path, rule=rule)


def test_the_longest_path_of_the_kernel_is_accepted() -> None:
    longest = "/" + "a" * 4094
    assert identify_path(longest, rule=DiskIdentity.PATH).name == longest


def test_a_path_that_is_not_utf8_keeps_its_bytes_and_survives_json() -> None:
    path = os.fsdecode(b"/images/caf\xe9.img")
    name = identify_path(path, rule=DiskIdentity.PATH).name
    assert os.fsencode(json.loads(json.dumps(name))) == b"/images/caf\xe9.img"
    digest = hashlib.md5(b"/images/caf\xe9.img", usedforsecurity=False).hexdigest()
    assert identify_path(path, rule=DiskIdentity.MD5).name == digest


@settings(deadline=None)
@given(PATHS)
def test_every_path_of_bytes_is_normalised_once_and_for_all_or_refused(parts: list[bytes]) -> None:
    path = os.fsdecode(b"/" + b"/".join(parts))
    if b".." in parts:
        with pytest.raises(InvalidInput):
            normal_path(path)
        return
    normal = normal_path(path)
    assert normal_path(normal) == normal
    assert os.fsencode(normal).split(b"/")[1:] == ([part for part in parts if part != b"."] or [b""])


def test_what_a_person_sees_has_no_control_characters() -> None:
    assert escaped("/a b\n\x1b[31m\udce9ä") == "/a b\\n\\x1b[31m\\xe9ä"


@settings(deadline=None)
@given(st.text(st.characters()))
def test_escaping_leaves_only_printable_text(text: str) -> None:
    assert escaped(text).isprintable()


def host(name: str = "", port: str = "", socket: str = "") -> tuple[NetworkHost, ...]:
    return (NetworkHost(name, port=port, socket=socket),)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (NetworkSource("rbd", "pool/img", host("mon1", "6789") + host("mon2")), ("rbd", "pool/img")),
        (NetworkSource("rbd", "pool/img"), ("rbd", "pool/img")),
        (NetworkSource("rbd", "pool/img", snapshot="gold"), ("rbd", "pool/img@gold")),
        (NetworkSource("rbd", "pool/space/img"), ("rbd", "pool/space/img")),
        (
            NetworkSource("iscsi", "iqn.2013-07.com.Example:t/02", host("portal1")),
            ("iscsi", "iqn.2013-07.com.example:t/2"),
        ),
        (
            NetworkSource("iscsi", "iqn.2013-07.com.example:t", host("portal2")),
            ("iscsi", "iqn.2013-07.com.example:t/0"),
        ),
        (NetworkSource("gluster", "vol/dir//a.img", host("g1")), ("gluster", "vol/dir/a.img")),
        (NetworkSource("sheepdog", "vdi", host("s1")), ("sheepdog", "vdi")),
        (NetworkSource("nbd", "", host("Box.Example.org.")), ("nbd", "box.example.org:10809/")),
        (NetworkSource("nbd", "/e", host("10.0.0.1", "1")), ("nbd", "10.0.0.1:1//e")),
        (NetworkSource("nbd", "e", host("2001:DB8:0::1")), ("nbd", "[2001:db8::1]:10809/e")),
        (NetworkSource("nbd", "e", host("[2001:db8::1]")), ("nbd", "[2001:db8::1]:10809/e")),
        (NetworkSource("nbd", "e", host(socket="/run//nbd")), ("nbd", "unix:/run/nbd:e")),
        (NetworkSource("nfs", "/x//a.img", host("nas")), ("nfs", "nas:2049/x/a.img")),
        (NetworkSource("https", "a.iso", host("h", "443"), query="v=1"), ("https", "h:443/a.iso?v=1")),
        (NetworkSource("https", "/a.iso", host("h")), ("https", "h:443/a.iso")),
        (NetworkSource("ssh", "/srv/a", host("h")), ("ssh", "h:22/srv/a")),
    ],
)
def test_network_disks_are_named_by_what_identifies_them(source: NetworkSource, name: tuple[str, str]) -> None:
    assert identify_network(source) == ResourceName(*name)


@pytest.mark.parametrize(
    "source",
    [
        NetworkSource("", "a", host("h")),
        NetworkSource("carrier-pigeon", "a", host("h")),
        NetworkSource("rbd", ""),
        NetworkSource("rbd", "image"),
        NetworkSource("rbd", "/image"),
        NetworkSource("rbd", "pool/"),
        NetworkSource("gluster", "vol", host("h")),
        NetworkSource("gluster", "vol/../x", host("h")),
        NetworkSource("iscsi", "", host("h")),
        NetworkSource("iscsi", "iqn.x/one", host("h")),
        NetworkSource("iscsi", "iqn.x/1/2", host("h")),
        NetworkSource("iscsi", "iqn.x/" + "9" * 5000, host("h")),
        NetworkSource("sheepdog", "", host("h")),
        NetworkSource("nbd", "e"),
        NetworkSource("nbd", "e", host("a") + host("b")),
        NetworkSource("nbd", "e", host("")),
        NetworkSource("nbd", "e", host("a/b")),
        NetworkSource("nbd", "e", host("a:1")),
        NetworkSource("nbd", "e", host("a", "0")),
        NetworkSource("nbd", "e", host("a", "65536")),
        NetworkSource("nbd", "e", host("a", "http")),
        NetworkSource("nbd", "e", host(socket="nbd.sock")),
        NetworkSource("nfs", "", host("a")),
        NetworkSource("nfs", "a/../b", host("a")),
    ],
)
def test_network_disks_that_cannot_be_named_are_refused(source: NetworkSource) -> None:
    with pytest.raises(InvalidInput):
        identify_network(source)


def test_only_servers_of_this_host_are_said_to_mean_this_host() -> None:
    for here in (host("localhost"), host("127.0.0.1"), host("::1"), host(socket="/run/nbd")):
        assert NetworkSource("nbd", "e", here).means_this_host
    assert not NetworkSource("nbd", "e", host("10.0.0.1")).means_this_host
    assert not NetworkSource("rbd", "pool/img", host("127.0.0.1")).means_this_host


def test_leases_are_named_as_libvirts_lockd_plugin_names_them() -> None:
    name = identify_lease("web", target="/srv//leases", lockspace="cluster")
    assert name == ResourceName("/srv/leases/cluster", "web")


@pytest.mark.parametrize(
    ("key", "target", "lockspace"),
    [("", "/t", "l"), ("k", "/t", ""), ("k", "t", "l"), ("k", "/t", ".."), ("k", "", "l"), ("k\0", "/t", "l")],
)
def test_incomplete_leases_are_refused(key: str, target: str, lockspace: str) -> None:
    with pytest.raises(InvalidInput):
        identify_lease(key, target=target, lockspace=lockspace)


def test_volumes_are_named_by_pool_and_volume() -> None:
    assert identify_volume("a.img", pool="images") == ResourceName("volume", "images/a.img")
    for pool, volume in (("", "v"), ("p", ""), ("p/q", "v")):
        with pytest.raises(InvalidInput):
            identify_volume(volume, pool=pool)


def wanted(called: str, mode: Mode, *, name: str = "/a", path: str = "") -> Named:
    return Named(called, Resource(lockspace="path", name=name, mode=mode, path=path or name))


@pytest.mark.parametrize("other", Mode)
def test_one_disk_twice_is_refused_if_either_writes_alone(other: Mode) -> None:
    pair = [wanted("disk vda", Mode.EXCLUSIVE), wanted("--disk /x", other, path="//a")]
    for order in (pair, pair[::-1]):
        with pytest.raises(InvalidInput, match=r"disk vda.*--disk /x|--disk /x.*disk vda"):
            distinct(order)


@pytest.mark.parametrize(
    ("first", "second", "stands"),
    [
        (Mode.SHARED, Mode.SHARED, Mode.SHARED),
        (Mode.READ_ONLY, Mode.READ_ONLY, Mode.READ_ONLY),
        (Mode.SHARED, Mode.READ_ONLY, Mode.SHARED),
        (Mode.READ_ONLY, Mode.SHARED, Mode.SHARED),
    ],
)
def test_one_disk_twice_is_taken_once_in_the_stronger_mode(first: Mode, second: Mode, stands: Mode) -> None:
    found = distinct([wanted("a", first), wanted("between", Mode.EXCLUSIVE, name="/b"), wanted("c", second)])
    assert [(resource.name, resource.mode) for resource in found] == [("/a", stands), ("/b", Mode.EXCLUSIVE)]


def test_one_name_in_two_lockspaces_is_two_resources() -> None:
    other = Named("lease", Resource(lockspace="/a/b", name="/a", mode=Mode.EXCLUSIVE, path=""))
    assert len(distinct([wanted("disk", Mode.EXCLUSIVE), other])) == 2


@pytest.mark.parametrize(
    ("argument", "path", "mode"),
    [
        ("/a", "/a", Mode.EXCLUSIVE),
        ("a.img", "a.img", Mode.EXCLUSIVE),
        ("/a:shared", "/a", Mode.SHARED),
        ("/a:readonly", "/a", Mode.READ_ONLY),
        ("/a:read-only", "/a", Mode.READ_ONLY),
        ("/a:exclusive", "/a", Mode.EXCLUSIVE),
        ("/a:shared:exclusive", "/a:shared", Mode.EXCLUSIVE),
        ("/a:readonly:shared", "/a:readonly", Mode.SHARED),
        ("/a:b", "/a:b", Mode.EXCLUSIVE),
        ("/a:", "/a:", Mode.EXCLUSIVE),
        ("/a:ro/b", "/a:ro/b", Mode.EXCLUSIVE),
        ("/dev/pci-0000:00:1f.2", "/dev/pci-0000:00:1f.2", Mode.EXCLUSIVE),
        ("shared", "shared", Mode.EXCLUSIVE),
        ("/a\n\udce9:shared", "/a\n\udce9", Mode.SHARED),
    ],
)
def test_a_disk_argument_is_a_path_and_perhaps_a_mode(argument: str, path: str, mode: Mode) -> None:
    assert parse_disk_argument(argument) == DiskArgument(path, mode)


@pytest.mark.parametrize("argument", ["", ":shared", ":exclusive", "/a:ro", "/a:Shared", "/a:rw", "/a\0", "/a:share"])
def test_a_disk_argument_without_a_path_or_with_a_mistyped_mode_is_refused(argument: str) -> None:
    with pytest.raises(InvalidInput):
        parse_disk_argument(argument)


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda path: "\0" not in path))
def test_every_path_can_be_given_with_its_mode_spelt_out(path: str) -> None:
    for word, mode in (("exclusive", Mode.EXCLUSIVE), ("shared", Mode.SHARED), ("readonly", Mode.READ_ONLY)):
        assert parse_disk_argument(f"{path}:{word}") == DiskArgument(path, mode)
