"""The pages of `--help` and of docs/: everything is in them, and showing them costs next to nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from etcdlock.cli.app import COMMANDS, build
from etcdlock.cli.exits import Exit
from etcdlock.config import (
    ENVIRONMENT_PREFIX,
    FOR_COMMANDS,
    FOR_GUESTS,
    TABLES,
    FenceDevice,
    Settings,
    TimingSettings,
    load,
)
from etcdlock.documents import blocker_document, survey_document
from etcdlock.survey import LeftoverKind, Standing, Takeover
from tests.cli.hosts import Cluster
from tests.unit.records_in_etcd import ALICE, BOB, DISK, KEYS, VM, domain, obituary, session, survey

DOCS = Path(__file__).parents[2] / "docs"
CLI = DOCS.joinpath("CLI.md").read_text(encoding="utf-8")
CONFIGURATION = DOCS.joinpath("CONFIGURATION.md").read_text(encoding="utf-8")


def parameters(name: str) -> list[Any]:
    group: Any = typer.main.get_command(build())
    return [parameter for parameter in group.commands[name].params if parameter.param_type_name == "option"]


def section(command: str) -> str:
    """What docs/CLI.md says of a command, and of the options that all have."""
    common, own = (re.split(r"^## ", CLI.split(f"## {title}\n")[1], flags=re.MULTILINE)[0] for title in (
        "Options of every command", f"etcdlock {command}"
    ))  # fmt: skip
    return common + own


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_all_its_options_are_documented(command: str) -> None:
    assert f"| [`etcdlock {command}`](#etcdlock-{command}) |" in CLI
    page = section(command)
    options = {word for parameter in parameters(command) for word in parameter.opts}
    assert [option for option in sorted(options) if f"`{option}" not in page] == []


def test_no_option_is_documented_that_does_not_exist() -> None:
    known = {word for command in COMMANDS for parameter in parameters(command) for word in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", CLI))
    assert named - known <= {"--help", "--version"}


def test_every_exit_code_is_documented_with_its_name() -> None:
    assert [code for code in Exit if f"| {code.value} | `{code.name}` |" not in CLI] == []


def test_every_word_that_a_document_may_hold_is_documented() -> None:
    words = [*Standing, *Takeover, *LeftoverKind]
    assert [word for word in words if f"`{word}`" not in CLI] == []


def fields(document: Any) -> Iterator[str]:
    """Every field's name, however deep."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield name
            yield from fields(value)
    elif isinstance(document, list):
        for value in document:
            yield from fields(value)


def test_every_field_of_the_documents_is_documented() -> None:
    found = survey(session(ALICE), domain(VM, BOB, DISK), obituary(BOB), {KEYS.session(BOB): b"?"})
    blocker = found.locks[0].blocker(DISK)
    documents = [survey_document(found, cluster="blue", needs="silence"), blocker_document(blocker)]
    names = {name for document in documents for name in fields(document)}
    assert {"standing", "lockspace", "takeover", "proof", "text"} < names
    assert [name for name in sorted(names) if f"`{name}`" not in CLI] == []


@pytest.mark.parametrize("prefix", ["", "timing."])
def test_every_setting_is_documented_with_its_variable_and_its_default(prefix: str) -> None:
    model = TimingSettings if prefix else Settings
    for name, field in model.model_fields.items():
        if name in TABLES:
            continue
        variable = ENVIRONMENT_PREFIX + (prefix.replace(".", "__") + name).upper()
        default = field.get_default(call_default_factory=True)
        assert f"| `{name}` | `{variable}` | `{json.dumps(default)}` |" in CONFIGURATION


def test_every_key_of_a_fence_device_is_documented() -> None:
    assert [name for name in FenceDevice.model_fields if f"| `{name}` |" not in CONFIGURATION] == []


def test_the_example_file_is_accepted_as_it_stands(tmp_path: Path) -> None:
    example = tmp_path / "etcdlock.toml"
    example.write_text("cluster" + CONFIGURATION.split("```toml\ncluster")[1].split("```")[0], encoding="utf-8")
    settings = load(file=example, environment={})
    assert settings.host_id == "node-7"
    timing = settings.contract.timing
    assert f"guests survive {int(timing.stop_after_seconds)} s without etcd" in CONFIGURATION
    assert f"takeovers come after {timing.takeover_seconds:g} s" in CONFIGURATION


def test_the_variables_of_guests_are_documented() -> None:
    assert [name for name in FOR_GUESTS | FOR_COMMANDS if f"`{ENVIRONMENT_PREFIX}{name}`" not in CONFIGURATION] == []


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def help_pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cluster = Cluster("127.0.0.1:1", "nowhere", tmp_path_factory.mktemp("help"))
    pages = cluster.do_all(["--help"], *([name, "--help"] for name in COMMANDS))
    assert [(page.status, page.err) for page in pages] == [(0, "")] * len(pages)
    return dict(zip(["", *COMMANDS], (page.out for page in pages), strict=True))


def test_the_first_page_has_one_whole_line_for_each_command(help_pages: dict[str, str]) -> None:
    listed = help_pages[""].split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_reads_like_a_manual_and_not_like_code(help_pages: dict[str, str], command: str) -> None:
    page = help_pages[command]
    assert page.startswith(f"Usage: etcdlock {command} [OPTIONS]")
    assert "Options of every command:" in page
    assert re.findall(r"<\w+|x>=|\{--|\[default|dict\[|list\[", page) == []
    assert max(map(len, page.splitlines())) <= 80


def test_the_usage_of_run_shows_where_the_command_goes(help_pages: dict[str, str]) -> None:
    assert help_pages["run"].splitlines()[0] == "Usage: etcdlock run [OPTIONS] -- COMMAND [ARGUMENT]..."


@pytest.mark.parametrize(
    ("work", "light"),
    [("import etcdlock", ("typer", "asyncio")), ("from etcdlock.cli.app import build; build()", ("asyncio",))],
    ids=["import", "help"],
)
def test_what_only_some_commands_need_is_not_loaded_for_all(work: str, light: tuple[str, ...]) -> None:
    heavy = {"grpc", "etcd3", "google.protobuf", "pydantic", "rich.table", "tenacity", "defusedxml", *light}
    heavy |= {"fastapi", "uvicorn", "starlette", "prometheus_client"}
    program = f"import sys; {work}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=DOCS.parent)
    assert heavy & set(found.stdout.split()) == set()
