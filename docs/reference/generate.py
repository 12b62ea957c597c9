"""Pages of the site that are made from the code each time it is built: commands, HTTP calls, Python modules.

Run by Sphinx (see docs/conf.py). What is written here is never committed, so it cannot drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import typer.main

from etcdlock.api.app import create_app
from etcdlock.cli.app import COMMANDS, build

MODULES = {
    "driver": "The lock manager, for management programs",
    "api.client": "A client of the agent's API, standard library only",
    "errors": "Every error, one tree",
    "testing": "Virtual time, a store, guests and a guard for tests of your own",
}
"""What may be imported by others, and what for."""


def write_reference(folder: Path) -> None:
    """Write all of them into `folder`; what is as it was stays untouched."""
    folder.mkdir(exist_ok=True)
    write(folder / "cli.md", commands())
    write(folder / "http.md", calls())
    for module, purpose in MODULES.items():
        write(folder / f"{module}.md", module_page(module, purpose))


def write(page: Path, lines: Iterator[str]) -> None:
    """A page."""
    text = "\n".join(lines) + "\n"
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


# --- commands ------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every command with its usage, what it says of itself, and its options."""
    yield "# Commands\n\nMade from the program itself. [The command line](../../CLI.md) explains them.\n"
    group: Any = typer.main.get_command(build())
    for name in COMMANDS:
        yield from command(group.commands[name])


def command(found: Any) -> Iterator[str]:
    """One command."""
    context = found.context_class(found, info_name=f"etcdlock {found.name}")
    yield f"## etcdlock {found.name}\n"
    yield f"    {found.get_usage(context).removeprefix('Usage: ')}\n"
    yield f"{found.help or ''}\n"
    yield "| option | meaning |\n|---|---|"
    for parameter in found.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            names = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
            yield f"| {names} | {cell(parameter.help or '')} |"
    yield ""


# --- HTTP ----------------------------------------------------------------------------------------------------------


def calls() -> Iterator[str]:
    """Every call of the agent's OpenAPI document, with what goes in and what comes out."""
    document = openapi()
    made_from = f"Made from `/openapi.json`, version {document['info']['version']}"
    yield f"# HTTP calls\n\n{made_from}. [The agent's API](../../API.md) explains them.\n"
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            yield from one_call(f"{method.upper()} {path}", call)
    yield "## Documents\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from one_schema(name, schema)


def openapi() -> dict[str, Any]:
    """The agent's own document; no agent is needed to make it."""
    nobody = cast("Any", SimpleNamespace(host="host"))
    app = create_app(nobody, nobody, namer=cast("Any", None), readonly_disks="none", answer_seconds=10.0)
    return app.openapi()


def one_call(title: str, call: dict[str, Any]) -> Iterator[str]:
    """A call: text, parameters, body, answers."""
    yield f"## `{title}`\n"
    yield f"{call.get('description') or call.get('summary') or ''}\n"
    for parameter in call.get("parameters", []):
        need = "required" if parameter.get("required") else "optional"
        yield f"- `{parameter['name']}` ({parameter['in']}, {need}): {kind(parameter['schema'])}"
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        yield f"- body: {kind(body)}"
    for status, answer in call["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        yield f"- answers {status}: {cell(answer['description'])}{': ' + kind(schema) if schema else ''}"
    yield ""


def one_schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """A document and its fields."""
    yield f"### {name}\n\n{schema.get('description', '')}\n"
    if "properties" in schema:
        yield "| field | kind | meaning |\n|---|---|---|"
        for field, of in schema["properties"].items():
            yield f"| `{field}` | {kind(of)} | {cell(of.get('description', ''))} |"
    elif "enum" in schema:
        yield f"One of {', '.join(f'`{value}`' for value in schema['enum'])}."
    yield ""


def kind(schema: dict[str, Any]) -> str:
    """A type in words; a document as a link."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for alternatives in ("anyOf", "oneOf", "allOf"):
        if alternatives in schema:
            return " or ".join(kind(one) for one in schema[alternatives])
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def cell(text: str) -> str:
    """Fit for a table."""
    return " ".join(text.split()).replace("|", "\\|")


# --- Python --------------------------------------------------------------------------------------------------------


def module_page(module: str, purpose: str) -> Iterator[str]:
    """Filled in from the docstrings by autodoc."""
    yield f"# etcdlock.{module}\n\n{purpose}.\n"
    shown = "   :members:" if "." in module or module == "errors" else "   :members:\n   :imported-members:"
    yield f"```{{eval-rst}}\n.. automodule:: etcdlock.{module}\n{shown}\n```"
