"""Alert rules and dashboard: what Prometheus' own tool says of them, and that every panel is a query it can parse.

That every metric in them exists is kept by tests/promises/test_metrics.py, beside the metrics themselves.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "etcdlock.rules.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "etcdlock.json").read_text(encoding="utf-8"))


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs prometheus: make system-deps")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_sound() -> None:
    promtool("check", "config", str(FOLDER / "prometheus.yml"))


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    text = Path(__file__).with_name("etcdlock.rules.test.yml").read_text(encoding="utf-8")
    made = tmp_path / "rules.test.yml"
    made.write_text(text.replace("RULES", str(RULES)), encoding="utf-8")
    assert all(f"alertname: {name}" in text for name in alerts())
    promtool("test", "rules", str(made))


def alerts() -> list[str]:
    return [line.split()[-1] for line in RULES.read_text(encoding="utf-8").splitlines() if "- alert:" in line]


def test_every_panel_asks_what_prometheus_understands(tmp_path: Path) -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    filled = [query.replace("$__rate_interval", "1m").replace("$host", ".*") for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    made = tmp_path / "panels.yml"
    made.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", str(made))


def test_no_two_panels_lie_on_each_other() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} <= set(range(24))
