"""Make the certificates of etcd and the hosts.

The first time this makes in FOLDER an authority of the cluster's own (ca.pem, ca.key) and the certificate of etcd's
administrator (root.pem, root.key); then and later it makes what is asked for: etcd's members in members/, hosts in
hosts/, fleets in fleets/, operators in operators/, readers in readers/, each as NAME.pem with its key NAME.key. Nothing
that exists is ever overwritten. Keys are readable by their owner alone.

Give every machine ca.pem and its own two files, and keep ca.key away from all of them: whoever has it can be anybody.
Without a name to make, it lists what is there and until when it is valid.

With --renew the named certificates are issued anew for the keys that they have; give them out again and restart what
reads them.

Exits with 0, or 2 if anything was there already or cannot be made; then nothing was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etcdlock.cli.common import Common
from etcdlock.cli.exits import Exit

USAGE = "[OPTIONS] FOLDER"


def _names(metavar: str, purpose: str) -> object:
    return typer.Option(metavar=metavar, help=f"{purpose}; may be repeated")


def command(
    common: Common,
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", hidden=True)],
    member: Annotated[
        list[str] | None, _names("NAME[=ADDRESS,…]", "a member of etcd, with the names and addresses it is reached at")
    ] = None,
    host: Annotated[list[str] | None, _names("HOST_ID", "a host of the cluster")] = None,
    fleet: Annotated[list[str] | None, _names("NAME", "hosts that share one certificate")] = None,
    operator: Annotated[list[str] | None, _names("NAME", "somebody who may break")] = None,
    reader: Annotated[list[str] | None, _names("NAME", "somebody who may only look")] = None,
    days: Annotated[int, typer.Option(metavar="DAYS", help="how long they are valid [825]")] = 825,
    ca_days: Annotated[int, typer.Option(metavar="DAYS", help="how long a new authority is [3650]")] = 3650,
    renew: Annotated[bool, typer.Option("--renew", help="issue existing certificates anew")] = False,
) -> int:
    """Make, renew or list."""
    from etcdlock.cli.issuing import Asked, listed, make, renewed

    keys = common.settings().keyspace
    asked = Asked(
        members=tuple(member or ()),
        hosts=tuple(host or ()),
        fleets=tuple(fleet or ()),
        operators=tuple(operator or ()),
        readers=tuple(reader or ()),
        days=days,
        ca_days=ca_days,
    )
    if renew:
        made = renewed(folder, asked, keys=keys)
    elif asked.nothing and (folder / "ca.pem").exists():
        made = listed(folder)
    else:
        made = make(folder, asked, keys=keys)
    common.show({"folder": str(folder), "certificates": made}, otherwise=lambda: _print(made))
    return Exit.OK


def _print(made: list[dict[str, object]], /) -> None:
    from etcdlock.cli import tables

    table = tables.table("CERTIFICATE", "NAME", "VALID UNTIL", "FOR")
    for one in made:
        names = one["names"]
        shown = ", ".join(names) if isinstance(names, list) else ""
        table.add_row(*(tables.text(cell) for cell in (one["file"], one["name"], str(one["until"])[:10], shown)))
    tables.console().print(table)
