#!/usr/bin/env python3
"""Writes the package's manual pages: etcdlock(1), from the commands themselves, etcdlock-guard(8), etcdlock-libvirt(8).

    deploy/debian/manuals.py FOLDER

Runs by whatever Python can import etcdlock; deploy/debian/build runs it by the package's own libraries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main

import etcdlock
from etcdlock.cli.app import COMMANDS, build

SOURCE = Path(__file__).resolve().parents[2]
PAGES = "/usr/share/doc/etcdlock"


def main() -> None:
    """All pages, into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in {
        "etcdlock.1": commands(), "etcdlock-guard.8": guard(), "etcdlock-libvirt.8": switch(),
    }.items():  # fmt: skip
        folder.joinpath(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def commands() -> Iterator[str]:
    """Every command, with what it says of itself."""
    group: Any = typer.main.get_command(build())
    found = [group.commands[name] for name in COMMANDS]
    everywhere = set.intersection(*({option.name for option in options(command)} for command in found))
    yield from begun("etcdlock", 1, group.help)
    yield from ("\\fBetcdlock\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] ...", ".PP", "\\fBetcdlock \\-\\-version\\fR")
    yield from (
        ".SH DESCRIPTION",
        words(
            "Locks domains and their disks in etcd before their guests run, stops a guest "
            "before anybody else could be given its locks, and lets the locks of a dead host change hands only "
            f"against a proof of its end. {PAGES} tells how that works, and how it is set up and run."
        ),
    )
    yield ".SH COMMANDS"
    for command in found:
        yield from one(command, everywhere)
    yield ".SH OPTIONS OF EVERY COMMAND"
    yield from listed(row(option) for option in options(found[0]) if option.name in everywhere)
    yield from (".SH EXIT STATUS", words("Of \\fBrun\\fR and \\fBreserve\\fR that of their command, but for:"))
    yield from listed(exits())
    yield ".SH FILES"
    yield from listed((
        ("/etc/etcdlock/etcdlock.toml", f"the settings; {PAGES}/CONFIGURATION.md has every one"),
        ("/run/etcdlock/agent.sock", "where this host's agent is asked"),
        ("/var/lib/etcdlock", "what happened on this host, for etcdlock why"),
    ))  # fmt: skip
    yield ".SH ENVIRONMENT"
    yield from listed((
        ("ETCDLOCK_CONFIG", "another file of settings"),
        ("ETCDLOCK_SETTING", "a setting, such as ETCDLOCK_CLUSTER; it counts before the file, and after an option"),
    ))  # fmt: skip
    yield from see("etcdlock-libvirt", 8, "etcdlock-guard", 8, "virtlockd", 8)


def one(command: Any, everywhere: set[str]) -> Iterator[str]:
    """A command: usage, text, its own options."""
    usage = str(command.options_metavar or "").strip()
    yield f".SS etcdlock {roff(command.name)} {roff(usage)}"
    for number, paragraph in enumerate(str(command.help).strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield words(paragraph)
    yield from listed(row(option) for option in options(command) if option.name not in everywhere)


def options(command: Any) -> list[Any]:
    """Those that are shown, and how to ask for help."""
    context = command.context_class(command, info_name=command.name, help_option_names=["-h", "--help"])
    return [item for item in command.get_params(context) if item.param_type_name == "option" and not item.hidden]


def row(option: Any) -> tuple[str, str]:
    """As in the help of its command."""
    value = "" if option.is_flag else f" {option.metavar or str(option.name).upper()}"
    return f"{', '.join(sorted((*option.opts, *option.secondary_opts), key=len))}{value}", option.help or ""


def exits() -> Iterator[tuple[str, str]]:
    """The table of docs/CLI.md, which a test holds to be true."""
    page = (SOURCE / "docs" / "CLI.md").read_text(encoding="utf-8")
    yield from re.findall(r"^\| (\d+) \| `\w+` \| (.*) \|$", page, flags=re.MULTILINE)


def guard() -> Iterator[str]:
    """The program that systemd starts for each agent."""
    yield from begun("etcdlock-guard", 8, "Stops a host's guests at their deadline if nobody else does.")
    yield from ("\\fBetcdlock\\-guard\\fR", ".PP", "\\fBetcdlock\\-guard \\-\\-listen\\fR \\fIPATH\\fR")
    yield from (
        ".SH DESCRIPTION",
        words(
            "systemd starts it for each agent that connects to etcdlock-guard.socket. It "
            "ends by itself when it has nothing to guard any more, and nobody should end it before. Where there is "
            "no systemd, --listen starts such a guard for whoever connects to the Unix socket PATH, for ever."
        ),
    )
    yield from see("etcdlock", 1)


def switch() -> Iterator[str]:
    """The script that gives virtlockd's place to the agent; it says itself what it takes."""
    yield from begun("etcdlock-libvirt", 8, "Gives virtlockd's place on this host to etcdlock's agent, and back.")
    script = (SOURCE / "deploy" / "libvirt" / "etcdlock-libvirt").read_text(encoding="utf-8")
    text = re.search(r"<<'END'\nUsage: (.*?)^END$", script, flags=re.MULTILINE | re.DOTALL)
    if text is None:
        sys.exit("deploy/libvirt/etcdlock-libvirt does not say any more how it is used")
    usage, explained = text[1].split("\n\n", 1)
    for title, lines in (("", re.sub("^ +", "", usage, flags=re.MULTILINE)), (".SH DESCRIPTION", explained)):
        yield from (*([title] if title else []), ".nf", *map(roff, lines.rstrip().splitlines()), ".fi")
    yield from (".PP", words(f"{PAGES}/LIBVIRT.md says what is changed, and how to do it by hand."))
    yield from see("etcdlock", 1, "virtlockd", 8)


# --- roff ------------------------------------------------------------------------------------------------------------


def begun(name: str, section: int, purpose: str) -> Iterator[str]:
    """The head of a page."""
    what = purpose.strip().rstrip(".")
    yield f'.TH {name.upper()} {section} "" "etcdlock {etcdlock.__version__}" ""\n.nh\n.ad l'
    yield from (".SH NAME", f"{roff(name)} \\- {roff(what[0].lower() + what[1:])}", ".SH SYNOPSIS")


def listed(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms and what they mean."""
    for term, meaning in rows:
        yield from (".TP", f"\\fB{roff(term)}\\fR", words(meaning))


def see(*pages: str | int) -> Iterator[str]:
    """The last section."""
    both = zip(pages[::2], pages[1::2], strict=True)
    yield from (".SH SEE ALSO", ", ".join(f"\\fB{roff(str(name))}\\fR({section})" for name, section in both))


def words(text: str) -> str:
    """A paragraph on one line; what is code in the text is bold."""
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fR", roff(" ".join(text.split())))


def roff(text: str) -> str:
    """Nothing in it is taken for a request; what was set in bold already stays so."""
    safe = re.sub(r"\\(?!f[BR])", r"\\e", text).replace("-", "\\-")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe


if __name__ == "__main__":
    main()
