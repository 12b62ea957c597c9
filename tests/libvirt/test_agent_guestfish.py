"""guestfish opens disks by a libvirt guest of its own: it takes their locks and is refused them, as any guest is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.libvirt.agents import Cluster
from tests.libvirt.guest import Guest
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost

Fish = Callable[..., subprocess.CompletedProcess[str]]

BOOTS_WITHIN_SECONDS = 100
"""Its appliance is made once, in some seconds; then it boots without KVM, which a machine that is virtual may not offer
for the processor that libguestfs asks for."""
WORKS = ("run", ":", "list-devices", ":", "mkfs", "ext4", "/dev/sda", ":", "mount", "/dev/sda", "/", ":", "ls", "/")
LOOKS = ("run", ":", "list-devices")


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is kept from one test to the next."""
    if shutil.which("guestfish") is None:
        pytest.skip("needs guestfish: make system-deps")
    return tmp_path_factory.mktemp("appliance")


@pytest.fixture
def fish(appliance: Path, b: LibvirtHost) -> Fish:
    """Runs guestfish on host b on a disk."""
    environment = {
        "LIBGUESTFS_BACKEND": "libvirt",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_CACHEDIR": str(appliance),
        "LIBGUESTFS_TMPDIR": "/run",
    }

    def run(disk: SharedDisk, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = ["guestfish", "--format=raw", *options, "--add", disk.path, *words]
        return b.run(command, env=environment, within_seconds=BOOTS_WITHIN_SECONDS)

    return run


def test_on_a_disk_that_is_free_it_works_under_a_lock_and_leaves_none_behind(
    cluster: Cluster, disk: SharedDisk, fish: Fish
) -> None:
    before = cluster.records.revision()
    worked = fish(disk, *WORKS)
    assert worked.stdout.split() == ["/dev/sda", "lost+found"], worked.stderr
    assert times_locked(cluster, disk, after=before) == 1
    cluster.wait_until_free()


def test_on_a_disk_of_a_guest_that_runs_elsewhere_it_is_refused_and_says_who_has_it(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk, fish: Fish
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    refused = fish(disk, *LOOKS)
    assert refused.returncode != 0
    assert f"resource busy: disk {disk.path} is held by domain {guest.name} on host a" in refused.stderr
    assert list(cluster.records.locks()) == [guest.name]
    cluster.check_held_once(guest, by=a)


def test_read_only_it_looks_at_a_disk_of_a_guest_that_runs_since_it_writes_to_a_file_of_its_own(
    cluster: Cluster, a: LibvirtHost, disk: SharedDisk, fish: Fish
) -> None:
    guest = Guest((disk.path,))
    cluster.start(guest, on=a)
    before, contents = cluster.records.revision(), disk.file.read_bytes()
    looked = fish(disk, *LOOKS, ":", "mkfs", "ext4", "/dev/sda", options=("--ro",))
    assert looked.stdout.split() == ["/dev/sda"], looked.stderr
    assert times_locked(cluster, disk, after=before) == 0
    assert disk.file.read_bytes() == contents, "what it writes goes to its own file"
    cluster.check_held_once(guest, by=a)
    assert cluster.runs_on(guest) == ["a"]


def times_locked(cluster: Cluster, disk: SharedDisk, /, *, after: int) -> int:
    """How often somebody took the disk since that revision."""
    events = cluster.records.history(after=after)
    return sum(event.value is not None and disk.file.name in event.key for event in events)
