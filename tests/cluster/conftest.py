"""A lab for each etcd that there is, made when a test first asks for it and kept for those after it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Lab
from tests.contract.etcds import SYSTEM, binary_of

_PROGRAMS = ("ip", "mkfs.ext4", "mount", "nsenter", "setpriv", "unshare")
_NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--pid", "--time", "--fork", "true")
_DEVICES = ("/dev/net/tun", "/dev/loop-control")


@pytest.fixture(scope="session")
def lab_tools() -> None:
    """Whoever asks for it is skipped where no lab can be."""
    _need_what_a_lab_needs()


@pytest.fixture(scope="module")
def lab(
    lab_tools: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """On the etcd that a test names as its parameter, else the system's. Each test makes a scene of its own in it."""
    binary = binary_of(getattr(request, "param", SYSTEM))
    with Lab(tmp_path_factory.mktemp("lab"), binary=binary) as lab:
        yield lab


def _need_what_a_lab_needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces and loop devices")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    missing += [device for device in _DEVICES if not Path(device).exists()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make system-deps")
    if subprocess.run(_NAMESPACES, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make namespaces")
