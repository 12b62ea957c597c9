"""What a file is called: after its file system and its path there, wherever that is mounted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etcdlock.adapters.places import parse_mount
from etcdlock.diskfacts import Kind, Mount, Place
from etcdlock.errors import InvalidInput, NotIdentified
from etcdlock.identity import DiskIdentity, Identified, Naming, check_no_local_folders, stays_behind
from etcdlock.identity.files import identify_place
from etcdlock.model import Mode, Resource

NFS = Mount(kind="nfs4", source="nas:/vms", root="/", point="/mnt", device="0:40")


def found(mount: Mount, real: str, *, inode: int = 7, links: int = 1, kind: Kind = Kind.FILE) -> Identified:
    place = Place(path=real, real=real, kind=kind, mount=mount, inode=inode, links=links)
    return identify_place(place, here="local/boot")


def name(mount: Mount, real: str = "") -> str:
    return str(found(mount, real or f"{mount.point}/a.img").name)


def mounted(kind: str, source: str, *, root: str = "/", options: str = "", uuid: str = "") -> Mount:
    return Mount(kind=kind, source=source, root=root, point="/mnt", device="0:40", options=options, uuid=uuid)


@pytest.mark.parametrize(
    ("mount", "called"),
    [
        (mounted("nfs4", "nas:/vms"), "nfs:nas:2049/vms/a.img"),
        (mounted("nfs", "NAS.:/vms/"), "nfs:nas:2049/vms/a.img"),
        (mounted("nfs4", "[FE80::1]:/vms"), "nfs:[fe80::1]:2049/vms/a.img"),
        (mounted("nfs4", "nas:/vms", options="rw,port=0,addr=10.0.0.1"), "nfs:nas:2049/vms/a.img"),
        (mounted("nfs4", "nas:/vms", options="rw,port=3049"), "nfs:nas:3049/vms/a.img"),
        (mounted("cifs", "//NAS/Vms"), "smb://nas/vms/a.img"),
        (mounted("cifs", "//nas/vms/Sub", root="/Sub"), "smb://nas/vms/sub/a.img"),
        (mounted("cifs", "//nas/vms/Sub"), "smb://nas/vms/sub/a.img"),
        (mounted("ceph", "10.0.0.1:6789,10.0.0.2:6789:/vms"), "ceph:/vms/a.img"),
        (mounted("ceph", "admin@b0b0.cephfs=/vms"), "ceph:/vms/a.img"),
        (mounted("fuse.glusterfs", "g1:/vms"), "gluster:vms/a.img"),
        (mounted("fuse.glusterfs", "g2:vms/sub"), "gluster:vms/sub/a.img"),
        (mounted("fuse.sshfs", "root@nas:/vms"), "ssh:nas:22/vms/a.img"),
        (mounted("fuse.sshfs", "joe@nas:vms"), "ssh:nas:22/~joe/vms/a.img"),
        (mounted("lustre", "10.0.0.1@tcp:10.0.0.2@tcp:/vms"), "lustre:vms/a.img"),
        (mounted("gpfs", "/dev/gpfs0"), "gpfs:gpfs0/a.img"),
        (mounted("fuse.mfs", "mfs#mfsmaster:9421"), "fuse.mfs:mfs#mfsmaster:9421/a.img"),
        (mounted("gfs2", "/dev/mapper/x", uuid="1B4E28BA-2FA1"), "gfs2:1b4e28ba-2fa1/a.img"),
        (mounted("ocfs2", "/dev/sdb", uuid="1B4E", root="/sub"), "ocfs2:1b4e/sub/a.img"),
        (mounted("ext4", "/dev/vda1"), "local/boot:0:40/a.img"),
        (mounted("btrfs", "/dev/vda1", root="/@images"), "local/boot:0:40/@images/a.img"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_is_called_after_its_file_system(mount: Mount, called: str) -> None:
    assert name(mount) == called


def test_a_server_that_may_not_tell_upper_from_lower_case_is_not_believed_to() -> None:
    share = mounted("cifs", "//nas/vms")
    assert name(share, "/mnt/Sub/A.img") == name(share, "/mnt/sub/a.IMG")


def test_where_a_share_is_mounted_and_how_deep_makes_no_difference() -> None:
    deep = Mount(kind="nfs4", source="nas:/vms/sub", root="/", point="/srv/images", device="0:41")
    assert name(NFS, "/mnt/sub/a.img") == name(deep, "/srv/images/a.img")
    root = Mount(kind="nfs4", source="nas:/", root="/", point="/", device="0:42")
    assert name(root, "/vms/sub/a.img") == name(deep, "/srv/images/a.img")


def test_a_bind_mount_and_its_origin_have_one_name() -> None:
    whole = Mount(kind="ext4", source="/dev/sdb", root="/", point="/data", device="8:16")
    bound = Mount(kind="ext4", source="/dev/sdb", root="/vms", point="/srv", device="8:16")
    one_file = Mount(kind="ext4", source="/dev/sdb", root="/vms/a.img", point="/disk", device="8:16")
    assert name(whole, "/data/vms/a.img") == name(bound, "/srv/a.img") == name(one_file, "/disk")


def test_a_path_of_a_like_named_neighbour_is_not_taken_for_one_inside() -> None:
    with pytest.raises(NotIdentified):
        found(replace(NFS, point="/mn"), "/mnt/a.img")


def test_all_names_of_a_file_with_several_are_one() -> None:
    one, other = (found(NFS, path, links=2) for path in ("/mnt/a.img", "/mnt/b.img"))
    assert one.name == other.name
    assert "2 names" in one.warning
    assert one.name != found(NFS, "/mnt/c.img", links=2, inode=8).name


@pytest.mark.parametrize(
    "mount",
    [
        mounted("virtiofs", "images"),
        mounted("9p", "images"),
        mounted("fuse.something", "something"),
        mounted("nfs4", "not a server"),
        mounted("cifs", "//nas"),
        mounted("gfs2", "/dev/sdb"),
        mounted("fuse.glusterfs", "g1:/"),
        mounted("proc", "proc"),
        mounted("ext4", "/dev/sdb", root="/gone//deleted"),
    ],
    ids=lambda mount: mount.kind,
)
def test_a_file_system_that_says_too_little_is_not_identified(mount: Mount) -> None:
    with pytest.raises(NotIdentified):
        name(mount)


def test_what_is_identified_by_little_says_so() -> None:
    assert "another one on every host" in found(mounted("nfs4", "localhost:/vms"), "/mnt/a").warning
    assert "home folder" in found(mounted("fuse.sshfs", "joe@nas:vms"), "/mnt/a").warning
    assert "on every host" in found(mounted("fuse.mfs", "mfs#mfsmaster:9421"), "/mnt/a").warning


def test_a_line_of_mountinfo_with_blanks_and_optional_fields_is_read() -> None:
    line = r"99 1 0:40 /a\040b /mnt\134x rw,relatime shared:1 master:2 - nfs4 nas:/v\040ms rw,vers=4.2,port=0"
    read = parse_mount(line)
    assert (read.kind, read.source, read.root, read.point) == ("nfs4", "nas:/v ms", "/a b", "/mnt\\x")
    assert (read.device, read.options) == ("0:40", "rw,vers=4.2,port=0")


# --- the rule as a whole -------------------------------------------------------------------------------------------


def auto(*places: Place, boot: str = "boot", unidentified: str = "refuse") -> Naming:
    return Naming(DiskIdentity.AUTO, "a", boot=boot, look=lambda _: places, unidentified=unidentified)


LOCAL = Place(
    path="/disk",
    real="/disk",
    kind=Kind.FILE,
    mount=Mount(kind="xfs", source="/dev/sda1", root="/", point="/", device="8:1"),
)


def test_equal_paths_of_two_hosts_own_file_systems_have_two_names_and_the_other_hosts_stays_behind() -> None:
    a, b = (auto(LOCAL, boot=boot)("/disk") for boot in ("boot-a", "boot-b"))
    assert a != b
    resource = Resource(b.lockspace, b.name, Mode.EXCLUSIVE, "/disk")
    assert stays_behind(resource, host="a", boot="boot-a")
    assert not stays_behind(resource, host="a", boot="boot-b")


@pytest.mark.parametrize("kind", [Kind.BLOCK, Kind.FILE])
def test_what_is_not_identified_is_refused_or_locked_by_its_path_with_a_warning(kind: Kind) -> None:
    strange = Place(path="/dev/vdb", real="/dev/vdb", kind=kind, number="254:16")
    with pytest.raises(NotIdentified):
        auto(strange)("/dev/vdb")
    (one,) = auto(strange, unidentified="path").identified(("/dev/vdb",))
    assert str(one.name) == "path:/dev/vdb"
    assert "must be the same disk on every host" in one.warning


def test_what_is_not_there_is_never_locked_by_its_path() -> None:
    hidden = Place(path="/mnt/a", real="/mnt/a", kind=Kind.ABSENT, error="Permission denied")
    with pytest.raises(NotIdentified, match="Permission denied") as denied:
        auto(hidden)("/mnt/a")
    assert "ask as root" in denied.value.hint
    absent = Place(path="/mnt/a", real="/mnt/a", kind=Kind.ABSENT, error="its folder does not exist")
    with pytest.raises(NotIdentified, match="its folder does not exist"):
        auto(absent, unidentified="path")("/mnt/a")


def test_local_folders_mean_nothing_under_auto_and_are_refused() -> None:
    check_no_local_folders("path", ("/local",))
    check_no_local_folders("auto", ())
    with pytest.raises(InvalidInput, match="local_folders"):
        check_no_local_folders("auto", ("/local",))
