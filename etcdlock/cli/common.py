"""What every command takes besides its own arguments, and how it prints: a table for people or JSON for programs."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from etcdlock.cli.manpage import COMMON_PANEL
from etcdlock.journal import FieldFormatter

if TYPE_CHECKING:
    from etcdlock.config import Settings

R = TypeVar("R")


def _option(*names: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002 - typer's own word
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=COMMON_PANEL, show_default=False)


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None, _option("--config", metavar="FILE", help="TOML file of settings [/etc/etcdlock/etcdlock.toml]")
        ],
        None,
    ),
    "endpoint": (
        Annotated[list[str] | None, _option("--endpoint", metavar="HOST:PORT", help="etcd member; may be repeated")],
        None,
    ),
    "cluster": (
        Annotated[str | None, _option("--cluster", metavar="NAME", help="the cluster whose locks these are")],
        None,
    ),
    "host_id": (
        Annotated[str | None, _option("--host-id", metavar="NAME", help="this host's name in the cluster")],
        None,
    ),
    "log_level": (
        Annotated[
            str | None,
            _option("--log-level", metavar="LEVEL", help="debug, info, warning or error; the log goes to stderr"),
        ],
        None,
    ),
    "as_json": (Annotated[bool, _option("--json", help="print one JSON document instead of text")], False),
}


@dataclass(frozen=True, slots=True)
class Common:
    """The common options of one invocation."""

    config: Path | None = None
    as_json: bool = False
    flags: dict[str, Any] = field(default_factory=dict)

    def settings(self, **more: Any) -> Settings:
        """Load the settings, with this command line's flags on top, and the command's own. Raises `InvalidSetting`."""
        from etcdlock.config import load

        settings = load(file=self.config, flags={**self.flags, **more})
        logging.getLogger("etcdlock").setLevel(settings.log_level.upper())
        return settings

    def show(self, document: Any, /, *, otherwise: Callable[[], None]) -> None:
        """Print `document` as JSON if that was asked for, else do what prints it for people."""
        if self.as_json:
            print_json(document)
        else:
            otherwise()


def run_async(work: Coroutine[Any, Any, R], /) -> R:
    """`asyncio.run`, which costs a twentieth of a second to import: `--help` has no use for it."""
    import asyncio

    return asyncio.run(work)


def print_json(document: Any, /) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def with_common(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command, written as `command(common, *, …) -> exit code`, the common options.

    Typer reads a command's options off its signature; this one has ours behind the command's own.
    """
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        flags = {name: values.pop(name) for name in ("cluster", "host_id", "log_level")}
        endpoints = values.pop("endpoint")
        flags["endpoints"] = tuple(endpoints) if endpoints else None
        given = Common(config=values.pop("config"), as_json=values.pop("as_json"), flags=flags)
        raise typer.Exit(command(given, **values))

    wrapped.__signature__ = signature.replace(parameters=[*own, *ours], return_annotation=None)  # type: ignore[attr-defined]
    return wrapped


def log_to_stderr() -> None:
    """Events go to stderr, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter())
    logger = logging.getLogger("etcdlock")
    logger.handlers = [handler]
    logger.propagate = False
