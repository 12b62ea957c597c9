"""What the command line locks, named as everything on its host names it."""

from __future__ import annotations

from pathlib import Path

from etcdlock.cli.wanted import read_wanted
from etcdlock.config import load

SETTINGS = load(
    environment={"ETCDLOCK_HOST_ID": "a", "ETCDLOCK_LOCAL_FOLDERS": "/local", "ETCDLOCK_DISK_IDENTITY": "path"}
)
DOMAIN = """
    <domain>
      <name>vm1</name>
      <uuid>c7a5fdbd-cdaf-9455-926a-d65c16db1809</uuid>
      <devices>
        <disk type='file'><source file='/local/a.img'/><target dev='vda'/></disk>
        <disk type='file'><source file='/san/a.img'/><target dev='vdb'/></disk>
      </devices>
    </domain>"""


def names(*disks: str, file: Path | None = None) -> list[tuple[str, str]]:
    _, resources = read_wanted(SETTINGS, file=file, uuid=None, name="", disks=disks)
    return [(resource.lockspace, resource.name) for resource in resources]


def test_disks_below_a_local_folder_are_this_hosts_own_wherever_they_are_named(tmp_path: Path) -> None:
    file = tmp_path / "vm1.xml"
    file.write_text(DOMAIN, encoding="utf-8")
    own, shared = ("host/a", "/local/a.img"), ("path", "/san/a.img")
    assert names("/local//a.img", "/san/a.img:shared") == [own, shared]
    assert names(file=file) == [own, shared]
