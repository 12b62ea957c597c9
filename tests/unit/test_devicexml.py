"""What a domain XML names of its host besides disks."""

from __future__ import annotations

from etcdlock.devicexml import parse_devices
from etcdlock.identity import Naming
from etcdlock.model import Mode

XML = """<domain type='kvm'><name>vm</name><devices>
  <serial type='dev'><source path='/dev/ttyS0'/></serial>
  <console type='dev'><source path='/dev/ttyS0'/></console>
  <serial type='pty'><source path='/dev/pts/3'/></serial>
  <channel type='unix'><source mode='connect' path='/run/someone'/></channel>
  <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='6' slot='18' function='5'/></source></hostdev>
  <filesystem type='mount'><source dir='/srv/share'/></filesystem>
</devices></domain>"""


def test_a_hosts_own_things_are_named_after_it_once_and_a_folder_is_shared() -> None:
    parsed = parse_devices(XML, source="vm.xml", host="h1", identify=Naming())
    assert [(named.resource.lockspace, named.resource.name, named.resource.mode) for named in parsed] == [
        ("host/h1", "/dev/ttyS0", Mode.EXCLUSIVE),
        ("host/h1", "pci:0000:06:12.5", Mode.EXCLUSIVE),
        ("path", "/srv/share", Mode.SHARED),
    ]
