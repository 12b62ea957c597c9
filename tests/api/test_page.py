"""docs/API.md says what the API is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from etcdlock.api import events
from etcdlock.api.answers import TABLE, Outcome
from tests.api.serving import ApiHost, Serving

PAGE = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")


@pytest.fixture
def described(hosts: Serving) -> dict[str, Any]:
    host = hosts.host("alice", extra_routers=(events.Feed().router(),))
    found = host.client._call("GET", "/openapi.json")  # noqa: SLF001 - no program needs it but this one
    return dict(found)


def test_every_call_is_on_the_page_and_every_call_on_the_page_exists(described: dict[str, Any]) -> None:
    served = {
        (method.upper(), path.replace(":path", ""))
        for path, methods in described["paths"].items()
        for method in methods
    }
    told = set(re.findall(r"`(GET|POST) (/[\w/{}]+)`", PAGE)) - {("GET", "/metrics")}
    assert told == served


def test_every_field_that_is_sent_or_answered_is_on_the_page(described: dict[str, Any]) -> None:
    fields = {
        name
        for title, schema in described["components"]["schemas"].items()
        if title not in ("HTTPValidationError", "ValidationError")
        for name in schema.get("properties", {})
    }
    assert {"vcpus_stopped", "lockspace", "token", "confirmed_by"} < fields
    missing = [name for name in sorted(fields - {"uuid"}) if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE]
    assert missing == []


def test_what_the_agent_tells_of_itself_is_on_the_page(alice: ApiHost) -> None:
    alice_tells = alice.client.agent()
    assert [name for name in alice_tells if f"`{name}`" not in PAGE] == []


def test_every_outcome_and_every_status_of_the_table_is_on_the_page() -> None:
    assert [outcome for outcome in Outcome if f"| `{outcome}` |" not in PAGE] == []
    lines = dict(re.findall(r"^\| (\d{3}) \| (.*) \|$", PAGE, flags=re.MULTILINE))
    told = {(status, name) for status, text in lines.items() for name in re.findall(r"`(\w+)`", text)}
    assert [(status, kind.__name__) for kind, status, _ in TABLE if (str(status), kind.__name__) not in told] == []
