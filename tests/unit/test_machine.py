"""By what a machine may be recognised: only by two ids that no other machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdlock.adapters.machine import read_machine

MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
UUID = "A1B2C3D4-0001-0002-0003-00155D3C4D5E"


def digest(folder: Path, *, machine_id: str | None = MACHINE_ID, uuid: str | None = UUID) -> str:
    for name, text in (("boot_id", "b"), ("machine-id", machine_id), ("uuid", uuid)):
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text + "\n", encoding="utf-8")
    machine = read_machine(
        boot_id=folder / "boot_id", machine_id=folder / "machine-id", product_uuid=folder / "uuid"
    )
    assert machine.boot == "b"
    return machine.machine


def test_a_machine_is_recognised_again_and_its_ids_stay_secret(tmp_path: Path) -> None:
    mine = digest(tmp_path)
    assert mine == digest(tmp_path, uuid=UUID.lower())
    assert len(mine) == 64
    assert MACHINE_ID not in mine


def test_clones_of_one_disk_image_are_different_machines(tmp_path: Path) -> None:
    assert digest(tmp_path) != digest(tmp_path, uuid=UUID.replace("A1", "A2"))


def test_machines_that_share_a_uuid_are_different_machines(tmp_path: Path) -> None:
    assert digest(tmp_path) != digest(tmp_path, machine_id=MACHINE_ID.replace("3d", "4d"))


@pytest.mark.parametrize(
    "uuid",
    [
        None,
        "",
        "Not Settable",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90AB-CDDEEFAABBCC",
        UUID + "0",
        UUID + "é",
    ],
)
def test_a_uuid_that_is_absent_or_a_placeholder_proves_nothing(tmp_path: Path, uuid: str | None) -> None:
    assert digest(tmp_path, uuid=uuid) == ""


@pytest.mark.parametrize("machine_id", [None, "", "uninitialized", "0" * 32, MACHINE_ID[:-1]])
def test_a_machine_id_that_is_absent_or_not_set_proves_nothing(tmp_path: Path, machine_id: str | None) -> None:
    assert digest(tmp_path, machine_id=machine_id) == ""


def test_without_a_boot_id_there_is_no_machine(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="boot_id"):
        read_machine(boot_id=tmp_path / "boot_id", machine_id=tmp_path / "a", product_uuid=tmp_path / "b")
