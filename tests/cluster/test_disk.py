"""The judge of the lab's disks: what it must find, on disks made for it, by the clocks of hosts that differ."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.disk import Disk
from tests.cluster.guest import BLOCK_BYTES
from tests.demo.test_checker import written

CLOCKS = {"a": 0.0, "b": 86_400.0}
DAY_MS = 86_400_000


def blocks(*parts: list[bytes]) -> bytes:
    return b"".join(record.ljust(BLOCK_BYTES, b"\0") for part in parts for record in part)


def disk(folder: Path, content: bytes) -> Disk:
    disk = Disk.new("vm1", seen_at=folder)
    disk.file.write_bytes(content)
    return disk


def by_b(token: int, *times_ms: int) -> list[bytes]:
    """Written by a host whose clock is a day ahead, at these times by ours."""
    return written(token, "b", *(time + DAY_MS for time in times_ms))


def test_owners_one_after_the_other_are_in_order_though_the_clock_of_one_is_a_day_ahead(tmp_path: Path) -> None:
    content = blocks(written(3, "a", 10, 20), by_b(9, 500, 510), written(12, "a", 900))
    report = disk(tmp_path, content).judge(CLOCKS)
    assert report.faults == ()
    assert [round(tenure.first_at, 3) for tenure in report.tenures] == [0.01, 0.5, 0.9]


def test_an_overlap_is_found_that_the_clocks_as_they_show_would_hide(tmp_path: Path) -> None:
    content = blocks(written(3, "a", 10, 20, 600), by_b(9, 610))
    late = blocks(written(3, "a", 10, 20, 600), by_b(9, 500))
    assert disk(tmp_path, content).judge(CLOCKS).faults == ()
    assert disk(tmp_path, late).judge({}).faults == ()
    (fault,) = disk(tmp_path, late).judge(CLOCKS).faults
    assert fault == "b (token 9) wrote 100 ms before a (token 3) had ended"


def test_a_lower_token_after_a_higher_one_is_found(tmp_path: Path) -> None:
    a = written(3, "a", 10, 20)
    faults = disk(tmp_path, blocks(a[:1], by_b(9, 500), a[1:])).judge(CLOCKS).faults
    assert faults[0].startswith("record 2: the token shrank")


def test_a_block_cut_short_or_garbled_is_found(tmp_path: Path) -> None:
    whole = blocks(written(3, "a", 10, 20))
    assert disk(tmp_path, whole[:-1]).judge(CLOCKS).faults == ("record 1 is torn or garbled",)
    assert "record 0 is torn or garbled" in disk(tmp_path, b"x" + whole[1:]).judge(CLOCKS).faults


def test_a_disk_that_nobody_wrote_proves_nothing(tmp_path: Path) -> None:
    assert disk(tmp_path, b"").judge(CLOCKS).faults == ("the disk is empty: nobody ever wrote to it",)
