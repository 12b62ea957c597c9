"""A partition's share in its disk: told by its name, once for all partitions, never for what is no partition."""

from __future__ import annotations

import pytest

from etcdlock.identity import whole_of, with_wholes
from etcdlock.model import Mode, Resource

UNIT = "naa.600a098038303053"


def of(name: str, mode: Mode = Mode.EXCLUSIVE, *, lockspace: str = "wwn") -> Resource:
    return Resource(lockspace, name, mode, f"/dev/{name.replace('/', '-')}")


@pytest.mark.parametrize("mode", [Mode.EXCLUSIVE, Mode.SHARED])
@pytest.mark.parametrize("lockspace", ["wwn", "md", "lvm", "rbd", "local/boot"])
def test_who_has_a_partition_shares_its_disk(mode: Mode, lockspace: str) -> None:
    assert whole_of(of(f"{UNIT}/part3", mode, lockspace=lockspace)) == Resource(lockspace, UNIT, Mode.SHARED, "")


@pytest.mark.parametrize(
    "other",
    [of(UNIT), of(f"{UNIT}/part3", Mode.READ_ONLY), of(f"{UNIT}/part"), of(f"{UNIT}/part3x"),
     of("server:/export/part3", lockspace="nfs"), of("/dev/sda/part3", lockspace="path"), of("/part3")],
    ids=range(7),
)  # fmt: skip
def test_what_is_no_partition_or_is_not_locked_shares_none(other: Resource) -> None:
    assert whole_of(other) is None


def test_several_partitions_share_one_disk_once_and_the_disk_itself_stands_for_it() -> None:
    first, second, disk = of(f"{UNIT}/part1"), of(f"{UNIT}/part2"), of(UNIT)
    assert with_wholes((first, second)) == (first, second, Resource("wwn", UNIT, Mode.SHARED, ""))
    assert with_wholes((first, disk)) == (first, disk)
    assert with_wholes((disk,)) == (disk,)
