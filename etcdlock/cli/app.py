"""The `etcdlock` command: its subcommands, and how an error is shown."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

import etcdlock
from etcdlock.cli.common import log_to_stderr, print_json, with_common
from etcdlock.cli.exits import exit_for
from etcdlock.cli.manpage import ManPage
from etcdlock.errors import EtcdlockError

COMMANDS = (
    "run", "reserve", "status", "inquire", "hosts", "why", "break", "fence", "cleanup", "doctor", "identify",
    "attach", "adopt", "agent", "shadow", "events", "certs", "init-cluster", "demo",
)  # fmt: skip


def build() -> typer.Typer:
    """The application with all its commands; each is `command` in its own module."""
    app = typer.Typer(
        name="etcdlock",
        help="Clustered locks for virtual machines and their disks, over etcd.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_everywhere)
    for name in COMMANDS:
        module = import_module(f"etcdlock.cli.{name.replace('-', '_')}_command")
        app.command(name, cls=ManPage, help=module.__doc__, options_metavar=module.USAGE)(with_common(module.command))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(etcdlock.__version__)
        raise typer.Exit


def _everywhere(
    *,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="print the version"
    ),
) -> None:
    """What comes before a command."""


def run_command_line() -> int:
    """Run what `sys.argv` says; the exit code, with every error shown on stderr (as JSON with --json)."""
    log_to_stderr()
    try:
        ended = build()(prog_name="etcdlock", standalone_mode=True)
    except EtcdlockError as error:
        _show(error, as_json="--json" in _own_arguments())
        return int(exit_for(error))
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    return ended if isinstance(ended, int) else 0


def _own_arguments() -> list[str]:
    """This command line without the guest's command behind `--`."""
    arguments = sys.argv[1:]
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _show(error: EtcdlockError, /, *, as_json: bool) -> None:
    if as_json:
        from etcdlock.documents import error_document

        print_json(error_document(error))
        return
    for line in str(error).splitlines() or [""]:
        print(f"etcdlock: {line}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
