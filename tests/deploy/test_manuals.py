"""The package's manual pages: every command and option is in them, and no word of theirs is taken for a request."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from etcdlock.cli.app import COMMANDS, build
from etcdlock.cli.exits import Exit

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGES = ("etcdlock.1", "etcdlock-guard.8", "etcdlock-libvirt.8")
REQUESTS = {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".nh", ".ad"}


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As deploy/debian/build makes them."""
    folder = tmp_path_factory.mktemp("manuals")
    subprocess.run([sys.executable, DEPLOY / "debian/manuals.py", folder], check=True, timeout=60)
    return folder


def test_every_program_that_the_package_puts_on_the_path_has_its_page(manuals: Path) -> None:
    assert {path.name for path in manuals.iterdir()} == set(PAGES)
    programs = re.findall(r'(?:launcher |"\$root/usr/s?bin/)(etcdlock[a-z-]*)', (DEPLOY / "debian/build").read_text())
    assert {page.partition(".")[0] for page in PAGES} == set(programs)


def test_every_command_option_and_exit_code_is_told(manuals: Path) -> None:
    text = (manuals / "etcdlock.1").read_text(encoding="utf-8").replace("\\-", "-")
    group: Any = typer.main.get_command(build())
    for name in COMMANDS:
        assert f".SS etcdlock {name} " in text
        for option in group.commands[name].params:
            assert option.hidden or all(word in text for word in option.opts), (name, option.opts)
    for code in Exit:
        assert f"\\fB{code.value}\\fR" in text, code


@pytest.mark.parametrize("page", PAGES)
def test_no_word_of_a_text_is_taken_for_a_request(manuals: Path, page: str) -> None:
    text = (manuals / page).read_text(encoding="utf-8")
    assert {line.split()[0] for line in text.splitlines() if line[:1] in (".", "'")} <= REQUESTS
    if shutil.which("groff") is None:
        pytest.skip("needs groff: make system-deps")
    command = ["groff", "-man", "-Tutf8", "-k", "-ww", str(manuals / page)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert shown.stderr == ""
