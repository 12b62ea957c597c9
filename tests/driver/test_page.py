"""docs/DRIVERS.md says what the drivers declare and by how many tests that is proved; docs/DRIVER.md names what exists.

    python -m tests.driver.test_page        writes the table anew
"""

from __future__ import annotations

import re
from pathlib import Path

import etcdlock.driver
from etcdlock.driver import Capability, Driver
from tests.driver import test_contract, test_contract_hosts, test_migration_crashes, test_stopping
from tests.driver.declared import PROVED, kind_of
from tests.driver.places import DRIVERS

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = DOCS.parent / "etcdlock/driver/plugin.py"
MARK = "<!-- capabilities: tests/driver/test_page.py -->"
PROVING = (test_contract, test_contract_hosts, test_migration_crashes, test_stopping)
"""Importing them has registered what they prove."""


def table() -> str:
    said = re.findall(r'^    ([A-Z_]+) = "[\w ]+".*\n    """(.*)"""$', SOURCE.read_text(encoding="utf-8"), re.MULTILINE)
    meanings = {Capability[name]: meaning for name, meaning in said}
    lines = [f"| capability | {' | '.join(f'`{driver}`' for driver in DRIVERS)} | meaning |", "|---" * 6 + "|"]
    for capability in Capability:
        cells = (cell(kind_of(driver), capability) for driver in DRIVERS)
        lines.append(f"| {capability} | {' | '.join(cells)} | {meanings[capability].strip()} |")
    return "\n".join(lines)


def cell(kind: type[Driver], capability: Capability) -> str:
    if capability not in kind.capabilities:
        return "no"
    return f"yes ({sum(kind.capabilities.issuperset(needed) for needed in PROVED[capability].values())})"


def test_the_table_of_capabilities_is_what_the_suite_proves() -> None:
    text = DOCS.joinpath("DRIVERS.md").read_text(encoding="utf-8")
    assert table() in text, "python -m tests.driver.test_page"


def test_every_declared_capability_has_a_test_that_is_run_with_that_driver() -> None:
    kinds = [kind_of(driver) for driver in DRIVERS]
    assert [kind.name for kind in kinds for each in kind.capabilities if "(0)" in cell(kind, each)] == []


def test_every_name_that_is_exported_is_on_the_page() -> None:
    text = "".join(DOCS.joinpath(name).read_text(encoding="utf-8") for name in ("DRIVER.md", "DRIVERS.md"))
    assert [name for name in etcdlock.driver.__all__ if name not in text] == []


def write() -> None:
    page = DOCS / "DRIVERS.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition("\n\nEvery driver passes")
    page.write_text(f"{before}{MARK}\n\n{table()}\n\nEvery driver passes{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
