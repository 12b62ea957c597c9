"""What every command takes besides its own arguments, and how it prints: a table for people or JSON for programs."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.journal import FieldFormatter

if TYPE_CHECKING:
    from etcdlock.config import Settings

PANEL = "Options of every command"

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[
            Path | None,
            typer.Option("--config", metavar="FILE", help="TOML file [/etc/etcdlock/etcdlock.toml]", rich_help_panel=PANEL),
        ],
        None,
    ),
    "endpoint": (
        Annotated[
            list[str] | None,
            typer.Option("--endpoint", metavar="HOST:PORT", help="etcd member; may be repeated", rich_help_panel=PANEL),
        ],
        None,
    ),
    "cluster": (
        Annotated[str | None, typer.Option("--cluster", help="name of the cluster", rich_help_panel=PANEL)],
        None,
    ),
    "host_id": (
        Annotated[
            str | None, typer.Option("--host-id", help="this host's name in the cluster", rich_help_panel=PANEL)
        ],
        None,
    ),
    "log_level": (
        Annotated[
            str | None,
            typer.Option("--log-level", help="debug, info, warning or error, to stderr", rich_help_panel=PANEL),
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="print JSON", rich_help_panel=PANEL)], False),
}


@dataclass(frozen=True, slots=True)
class Common:
    """The common options of one invocation."""

    config: Path | None = None
    as_json: bool = False
    flags: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        """Load the settings, with this command line's flags on top. Raises `InvalidSetting`."""
        from etcdlock.config import load

        settings = load(file=self.config, flags=self.flags)
        logging.getLogger("etcdlock").setLevel(settings.log_level.upper())
        return settings

    def show(self, document: Any, /, *, otherwise: Callable[[], None]) -> None:
        """Print `document` as JSON if that was asked for, else do what prints it for people."""
        if self.as_json:
            print_json(document)
        else:
            otherwise()


def print_json(document: Any, /) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def with_common(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command, written as `command(common, *, …) -> exit code`, the common options.

    Typer reads a command's options off its signature; this one has ours behind the command's own.
    """
    signature = inspect.signature(command, eval_str=True)
    first, *own = signature.parameters.values()
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
