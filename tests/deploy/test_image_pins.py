"""What the image pins is what pyproject.toml asks for, each with its hashes, and from one registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMAGE = ROOT / "deploy" / "image"
PINNED = ["requirements.txt", "build-requirements.txt"]


def pins(name: str) -> dict[str, str]:
    text = (IMAGE / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==(\S+) \\$", text, flags=re.MULTILINE)
    return {str(canonicalize_name(name)): version for name, version in found}


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_every_dependency_is_pinned_to_a_version_that_we_allow(file: str, wanted: list[str]) -> None:
    pinned = pins(file)
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in deploy/image/{file}: make image-pins"
        assert version in requirement.specifier, f"{requirement}, pinned to {version}: make image-pins"


@pytest.mark.parametrize("file", PINNED)
def test_every_pin_has_hashes_and_names_no_place(file: str) -> None:
    text = (IMAGE / file).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[\w])", text)
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert re.findall(r"://|--index|--find-links", text) == []


def test_images_are_named_by_a_tag_that_does_not_move() -> None:
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").glob("*Dockerfile")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r"^FROM (\S+)|^\s+image: (?!etcdlock|\$)(\S+)", text, flags=re.MULTILINE))
    images = {one or other for one, other in named} - {"scratch"}
    assert images
    assert [image for image in images if ":" not in image or image.endswith(":latest")] == []
