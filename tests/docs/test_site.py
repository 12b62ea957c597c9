"""The documentation: it builds without a link that leads nowhere, and says of errors, alerts and timing what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from etcdlock import errors
from etcdlock.session import Contract
from etcdlock.timing import Timing

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return DOCS.joinpath(name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return built


def test_every_page_becomes_one_of_the_site(site: Path) -> None:
    wanted = {str(path.relative_to(DOCS).with_suffix(".html")) for path in DOCS.rglob("*.md")}
    assert {name for name in wanted if not (site / name).exists()} == set()


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    assert "<code" in (site / "reference/made/cli.html").read_text(encoding="utf-8")
    assert "/v1/domains/{uuid}/acquire" in (site / "reference/made/http.html").read_text(encoding="utf-8")
    assert "etcdlock.errors.HeldElsewhere" in (site / "reference/made/errors.html").read_text(encoding="utf-8")


def test_a_reader_fetches_nothing_from_elsewhere(site: Path) -> None:
    for built in site.rglob("*.html"):
        text = built.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', text) == [], built


def test_every_kind_of_error_has_its_line_in_troubleshooting() -> None:
    ours = (kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__)
    first_cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page("TROUBLESHOOTING.md"), flags=re.MULTILINE)
    said = {name.strip("` ") for cell in first_cells for name in cell.split(",")}
    assert {kind.__name__ for kind in ours} - {"EtcdlockError"} == said


def test_every_alert_has_its_line_in_operations() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "etcdlock.rules.yml").read_text(encoding="utf-8")
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert alerts
    assert alerts == set(re.findall(r"^\| `(Etcdlock\w+)`", page("OPERATIONS.md"), flags=re.MULTILINE))


def test_what_all_hosts_must_agree_on_is_named_where_an_operator_changes_it() -> None:
    # The timing is a table of its own, and the version of the rules no setting.
    rules = {field.name for field in fields(Contract)} - {"timing", "identity_rules", "on_session_lost"}
    rules.add("cluster_on_session_lost")
    said = re.search(r"\*\*To change it\*\* \(and likewise ([^)]*)\)", page("OPERATIONS.md"))
    assert said
    assert set(re.findall(r"`(\w+)`", said[1])) == rules
    comment = (ROOT / "deploy/debian/etcdlock.toml").read_text(encoding="utf-8").partition("\n\n")[0]
    assert {rule for rule in rules if not re.search(rf"\b{rule}\b", comment)} == set()


def test_the_table_of_timings_is_what_the_arithmetic_gives() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) s \| (\d+) s \|$", page("OPERATIONS.md"), flags=re.MULTILINE)
    assert rows
    for hold_off, survive, takeover in rows:
        timing = Timing(hold_off_seconds=float(hold_off))
        assert float(survive) <= timing.stop_after_seconds < float(survive) + 0.1
        assert float(takeover) == timing.takeover_seconds
