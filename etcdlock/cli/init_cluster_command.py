"""Make the users and roles of a cluster in etcd.

Each gets the least rights. A host may write what lies below its cluster's prefix, and there nothing of other hosts'
sessions; an operator may write proofs of a host's end (`etcdlock break`); a reader only reads. Then etcd is told to ask
everybody who they are.

With --certs FOLDER, as `etcdlock certs` has made it, this is done with the certificate of its administrator, for
everybody who has a certificate there. What exists already is left as it is: do it again for more hosts, or after an
attempt that broke off. A user or role that has more rights, or others, is refused and nothing is changed.

Exits with 0 when all is as it should be, 104 if etcd has something else under these names or would lock its
administrator out, 101 or 102 if it is away or did not say whether it was done (then do it again), 106 if it denies
access.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etcdlock.cli.common import Common, run_async
from etcdlock.cli.exits import Exit

if TYPE_CHECKING:
    from etcdlock.documents import Document

USAGE = "[OPTIONS]"


def _names(metavar: str, purpose: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{purpose}; may be repeated")


def command(
    common: Common,
    *,
    certs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="what `etcdlock certs` has made: for everybody there")
    ] = None,
    host: Annotated[list[str] | None, _names("HOST_ID", "a host of the cluster")] = None,
    fleet: Annotated[list[str] | None, _names("NAME", "hosts that share one user")] = None,
    operator: Annotated[list[str] | None, _names("NAME", "somebody who may break")] = None,
    reader: Annotated[list[str] | None, _names("NAME", "somebody who may only look")] = None,
    passwords: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="give users passwords: from the files there, made up where there is none"),
    ] = None,
    despite_other_keys: Annotated[
        bool, typer.Option("--despite-other-keys", help="switch authentication on though others keep keys in this etcd")
    ] = False,
    leave_auth_off: Annotated[
        bool, typer.Option("--leave-auth-off", help="make users and roles only; etcd lets everybody in as before")
    ] = False,
) -> int:
    """Make what is missing, and say what there is."""
    from etcdlock.cli.enrolment import Enrolment, enrol

    given = {}
    if certs is not None:
        given = {"ca_file": f"{certs}/ca.pem", "cert_file": f"{certs}/root.pem", "key_file": f"{certs}/root.key"}
    settings = common.settings(**given)
    asked = Enrolment(
        hosts=tuple(host or ()),
        fleets=tuple(fleet or ()),
        operators=tuple(operator or ()),
        readers=tuple(reader or ()),
        certs=certs,
        passwords=passwords,
        despite_other_keys=despite_other_keys,
        leave_auth_off=leave_auth_off,
    )
    document = run_async(enrol(settings, asked))
    common.show(document, otherwise=lambda: _print(document))
    return Exit.OK


def _print(document: Document, /) -> None:
    from etcdlock.cli import tables

    out = tables.console()
    table = tables.table("USER", "RIGHTS IN ETCD", "")
    for user in document["users"]:
        rights = tables.lines(*(tables.text(right) for right in user["rights"]))
        table.add_row(tables.text(user["name"]), rights, tables.text("new" if user["new"] else "was there"))
    out.print(table)
    asks = "etcd asks everybody who they are" if document["authentication"] else "etcd still lets everybody in"
    out.print()
    out.print(tables.text(f"{asks}."))
    if document["warning"]:
        out.print(tables.text(f"WARNING: {document['warning']}", style="bold red"), soft_wrap=True)
