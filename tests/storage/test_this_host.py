"""Disks that this machine can make, named by what its kernel says of them: nothing here is made up."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from etcdlock.adapters.places import Places
from etcdlock.errors import NotIdentified
from etcdlock.identity import DiskIdentity, Identified, Naming, ResourceName

MIB = 2**20


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def found(path: Path | str, *, unidentified: str = "refuse") -> Identified:
    naming = Naming(DiskIdentity.AUTO, boot="boot", look=Places(), unidentified=unidentified)
    return naming.identified((str(path),))[0]


def name(path: Path | str) -> ResourceName:
    return found(path).name


@contextmanager
def loop(file: Path, *options: str) -> Iterator[Path]:
    device = Path(run("losetup", "--find", "--show", *options, file))
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(what: Path | str, point: Path, *options: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    run("mount", *options, what, point)
    try:
        yield point
    finally:
        run("umount", point)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    if os.geteuid() != 0:
        pytest.skip("needs root, for loop devices and mounts: sudo")
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ext4(stack: ExitStack, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a file system of its own, and mounts it."""

    def make(called: str) -> Path:
        image = tmp_path / f"{called}.img"
        image.touch()
        os.truncate(image, 8 * MIB)
        run("mkfs.ext4", "-q", image)
        return stack.enter_context(mounted(image, tmp_path / called, "-o", "loop"))

    return make


def test_links_and_bind_mounts_lead_to_one_name(
    stack: ExitStack, ext4: Callable[[str], Path], tmp_path: Path
) -> None:
    disk = ext4("one") / "vms" / "disk.img"
    disk.parent.mkdir()
    disk.touch()
    link = tmp_path / "link"
    link.symlink_to(disk)
    bound = stack.enter_context(mounted(disk.parent, tmp_path / "bound", "--bind"))
    (tmp_path / "single").touch()
    run("mount", "--bind", disk, tmp_path / "single")
    stack.callback(run, "umount", tmp_path / "single")
    names = {name(path) for path in (disk, link, bound / "disk.img", tmp_path / "single")}
    assert len(names) == 1
    assert names.pop().name.endswith("/vms/disk.img")


def test_equal_paths_in_two_file_systems_have_two_names(ext4: Callable[[str], Path]) -> None:
    one, other = ext4("one") / "disk.img", ext4("other") / "disk.img"
    one.touch()
    other.touch()
    assert one.stat().st_ino == other.stat().st_ino, "file systems made alike"
    assert name(one) != name(other)


def test_hard_links_are_one_disk_and_the_warning_says_so(ext4: Callable[[str], Path]) -> None:
    one = ext4("one") / "a.img"
    one.touch()
    before = name(one)
    other = one.with_name("b.img")
    os.link(one, other)
    assert name(one) == name(other) != before
    assert "hard links" in found(one).warning


def test_a_file_made_anew_in_its_place_has_the_same_name_and_a_renamed_one_its_new_name(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    to_be = name(disk)
    disk.touch()
    assert name(disk) == to_be
    disk.unlink()
    disk.touch()
    assert name(disk) == to_be
    disk.rename(tmp_path / "other.img")
    assert name(tmp_path / "other.img") != to_be


@pytest.mark.parametrize("options", [(), ("--offset", str(MIB)), ("--offset", str(MIB), "--sizelimit", str(MIB))])
def test_a_loop_device_is_called_like_its_file(
    stack: ExitStack, tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, 4 * MIB)
    device = stack.enter_context(loop(file, *options))
    second = stack.enter_context(loop(file))
    assert name(device) == name(second) == name(file)


def test_a_loop_device_over_a_loop_device_and_its_partition_are_told_by_the_file_below(
    stack: ExitStack, tmp_path: Path
) -> None:
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, 8 * MIB)
    below = stack.enter_context(loop(file))
    above = stack.enter_context(loop(below, "--partscan"))
    assert name(above) == name(file)
    run("addpart", above, "2", "4096", "2048")
    stack.callback(run, "delpart", above, "2")
    second = Path(f"{above}p2")
    assert name(second).name == f"{name(file).name}/part2"
    assert "whole disk" in found(second).warning


def test_a_loop_device_whose_file_is_not_the_one_at_that_path_is_not_identified(
    stack: ExitStack, tmp_path: Path
) -> None:
    """As for one that was made in another mount namespace, or before its file was replaced."""
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, MIB)
    device = stack.enter_context(loop(file))
    file.rename(tmp_path / "moved.img")
    assert name(device) == name(tmp_path / "moved.img"), "the kernel follows a file that is renamed"
    hidden = stack.enter_context(mounted("none", tmp_path / "over", "-t", "tmpfs")) / "moved.img"
    hidden.touch()
    run("mount", "--bind", hidden, tmp_path / "moved.img")
    stack.callback(run, "umount", tmp_path / "moved.img")
    with pytest.raises(NotIdentified, match="not to be seen here"):
        name(device)


def test_a_file_of_an_overlay_is_named_in_it(stack: ExitStack, tmp_path: Path) -> None:
    room = stack.enter_context(mounted("none", tmp_path / "room", "-t", "tmpfs"))
    for folder in ("lower", "upper", "work"):
        (room / folder).mkdir()
    (room / "lower" / "disk.img").touch()
    options = f"lowerdir={room}/lower,upperdir={room}/upper,workdir={room}/work"
    merged = stack.enter_context(mounted("overlay", tmp_path / "merged", "-t", "overlay", "-o", options))
    before = name(merged / "disk.img")
    (merged / "disk.img").write_bytes(b"written")
    assert name(merged / "disk.img") == before, "also once it has been copied up"


def test_every_name_under_dev_disk_leads_to_the_device(stack: ExitStack, tmp_path: Path) -> None:
    """Links as udev makes them; no udev need run."""
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, MIB)
    device = stack.enter_context(loop(file))
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "loop-0123").symlink_to(os.path.relpath(device, by_id))
    assert name(by_id / "loop-0123") == name(file)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/nowhere/disk.img", "its folder does not exist"),
        ("/dev/nothing", "no such device"),
        ("/etc/passwd/x", "Not a directory"),
    ],
)
def test_what_is_not_there_is_not_identified(path: str, says: str) -> None:
    with pytest.raises(NotIdentified, match=says):
        name(path)


def test_a_link_that_leads_nowhere_is_not_taken_for_a_file_to_be(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "not" / "there")
    with pytest.raises(NotIdentified, match="leads nowhere"):
        name(tmp_path / "link")


def test_paths_that_only_bytes_can_say_are_named(tmp_path: Path) -> None:
    disk = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \\n.img"))
    disk.touch()
    assert os.fsencode(name(disk).name).endswith(b"/caf\xe9 \\n.img")
