"""The agent of a host as a program: it is not offered as a command yet."""

from __future__ import annotations

from etcdlock.cli.agent_command import command
from etcdlock.cli.app import exit_code_of
from etcdlock.cli.common import Common, log_to_stderr


def main() -> int:
    """As the command line would run it."""
    log_to_stderr()
    return exit_code_of(lambda: command(Common(flags={"log_level": "info"})))


raise SystemExit(main())
