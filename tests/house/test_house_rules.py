"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlock import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("etcdlock", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LONGEST_FILE_LINES = 400
LONGEST_FUNCTION_LINES = 50
CATCH_ALL_NAMES = {"utils", "util", "helpers", "helper", "misc", "common_utils"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_says_what_it_is_for_and_stays_small_enough_to_be_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "the module has no docstring"
    assert text.count("\n") <= LONGEST_FILE_LINES, "split it by meaning"
    assert path.stem not in CATCH_ALL_NAMES, "name it for what it does"
    assert list(too_long(tree)) == []


def too_long(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


def test_the_error_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    drawn = re.findall(r"^    ([│ ├└─]*)(\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    by_depth: list[str] = []
    parents: dict[str, str] = {}
    for branch, name in drawn:
        depth = len(branch) // 4
        by_depth[depth:] = [name]
        parents[name] = by_depth[depth - 1] if depth else ""
    classes = [item for item in vars(errors).values() if isinstance(item, type) and item.__module__ == errors.__name__]
    assert parents == {
        item.__name__: item.__base__.__name__ if item.__base__ and item is not errors.EtcdlockError else ""
        for item in classes
    }


def test_every_folder_of_tests_is_run_by_one_of_the_commands() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    run = {*listed["testpaths"], *re.findall(r"pytest (tests/\w+)", (ROOT / "Makefile").read_text(encoding="utf-8"))}
    assert run == {relative(path.parent) for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_between_our_pages_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_file_of_ours_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for named in re.findall(r"`((?:etcdlock|tests|benchmarks|deploy|docs)/[\w./*-]+)`", text):
        assert list(ROOT.glob(named.rstrip("/"))), f"{page.name} names {named}"


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", pages))
    assert named
    assert named <= targets
