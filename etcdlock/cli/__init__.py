"""The command line: one file a command; it parses, calls and prints, and decides nothing."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `etcdlock` command."""
    from etcdlock.cli.app import run_command_line

    raise SystemExit(run_command_line())
