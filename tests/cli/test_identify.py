"""`etcdlock identify`: what disks are called and why, without any etcd."""

from __future__ import annotations

from pathlib import Path

from tests.cli.hosts import Cluster

AUTO = {"ETCDLOCK_DISK_IDENTITY": "auto", "ETCDLOCK_ENDPOINTS": "127.0.0.1:1"}
XML = """
<domain><name>vm1</name><uuid>4dea22b3-1d52-48f3-a516-782e98ab3fa0</uuid><devices>
  <disk type='file'><source file='{disk}'/><target dev='vda'/></disk>
  <disk type='network'><source protocol='rbd' name='pool/image'/><target dev='vdb'/></disk>
  <lease><lockspace>space</lockspace><key>one</key><target path='/leases'/></lease>
</devices></domain>
"""


def test_names_rules_and_reasons_are_told_of_paths_and_of_all_that_an_xml_names(
    cluster: Cluster, tmp_path: Path
) -> None:
    disk, xml = tmp_path / "disk.img", tmp_path / "vm1.xml"
    disk.touch()
    xml.write_text(XML.format(disk=disk))
    done = cluster.do("identify", "--json", str(disk), str(xml), **AUTO)
    assert done.status == 0, done.err
    document = done.document()
    path, vda, vdb, lease = document["disks"]
    assert document["disk_identity"] == "auto"
    assert (vda["lockspace"], vda["name"]) == (path["lockspace"], path["name"])
    assert path["name"].endswith("/disk.img")
    assert str(disk) in path["evidence"][0]
    assert (vdb["asked"], vdb["lockspace"], vdb["name"]) == ("disk vdb", "rbd", "pool/image")
    assert (lease["lockspace"], lease["name"]) == ("/leases/space", "one")


def test_a_disk_that_is_not_identified_is_told_beside_those_that_are(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.do("identify", "/nowhere/disk.img", str(tmp_path / "disk.img"), **AUTO)
    assert done.status == 104
    assert "NOT IDENTIFIED: '/nowhere/disk.img' could not be looked at: its folder does not exist" in done.out
    assert f"new file {tmp_path}/disk.img" in done.out


def test_nothing_to_identify_and_an_xml_that_cannot_be_read_are_mistakes(cluster: Cluster, tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path / "vm1.xml")]):
        assert cluster.do("identify", *arguments, **AUTO).status == 2
