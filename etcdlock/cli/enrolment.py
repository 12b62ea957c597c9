"""What `etcdlock init-cluster` does: find out what etcd has, make what is missing, switch authentication on, and see
that its administrator is still let in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etcdlock.adapters.certificates import facts
from etcdlock.adapters.etcd_auth import AuthDesk, auth_desk
from etcdlock.adapters.new_files import Content, write_new
from etcdlock.adapters.tls_probe import wants_client_certificate
from etcdlock.errors import AccessDenied, InvalidInput, Refused, Unreachable, reason_of
from etcdlock.etcdversion import roles_bind
from etcdlock.ports import KeyRange
from etcdlock.rights import ADMINISTRATOR, Grant, Part, Right, Rights, Step, part_of, steps, user_name, wanted_rights
from etcdlock.wiring import etcd_options, open_store

if TYPE_CHECKING:
    from etcdlock.adapters.etcd_options import EtcdOptions
    from etcdlock.config import Settings
    from etcdlock.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The command line."""

    hosts: tuple[str, ...] = ()
    fleets: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    certs: Path | None = None
    passwords: Path | None = None
    despite_other_keys: bool = False
    leave_auth_off: bool = False


async def enrol(settings: Settings, asked: Enrolment, /) -> dict[str, Any]:
    """Do it; what there is now, as a document. May be repeated."""
    keys = settings.keyspace
    wanted = wanted_rights(keys, _users(asked, keys=keys))
    options = etcd_options(settings)
    async with auth_desk(options) as desk:
        was_on = await desk.is_on()
        to_do = steps(wanted, existing=await _existing(desk))
        new = {step.subject for step in to_do if step.is_user and step.creates}
        switch_on = not was_on and not asked.leave_auth_off
        if switch_on:
            await _check_others(desk, asked, keys=keys)
            await _check_administrator(options, asked, is_new=ADMINISTRATOR in new)
        passwords = _passwords(asked, new)
        for step in to_do:
            await _take(desk, step, passwords=passwords)
        if switch_on:
            await desk.enable()
            await _check_after(_as_administrator(options, asked))
    return {
        "cluster": settings.cluster,
        "authentication": was_on or not asked.leave_auth_off,
        "users": [_described(user, wanted, new=user in new) for user in wanted.users],
        "warning": await _warning(settings),
    }


def _users(asked: Enrolment, /, *, keys: Keyspace) -> list[str]:
    parts = {
        Part.HOST: asked.hosts,
        Part.FLEET: asked.fleets,
        Part.OPERATOR: asked.operators,
        Part.READER: asked.readers,
    }
    named = [user_name(keys, part, name) for part, names in parts.items() for name in names]
    certified = [] if asked.certs is None else list(_certified(asked.certs, keys=keys))
    return list(dict.fromkeys((*named, *certified)))


def _certified(folder: Path, /, *, keys: Keyspace) -> Iterator[str]:
    """Whoever has a certificate there by which etcd knows them as somebody of this cluster."""
    found = sorted(path for part in Part for path in (folder / f"{part}s").glob("*.pem"))
    for path in found:
        try:
            name = facts(path.read_bytes()).common_name
        except (OSError, InvalidInput) as error:
            raise InvalidInput(f"--certs: {path}: {reason_of(error)}") from error
        if part_of(keys, name) is None:
            raise InvalidInput(
                f"--certs: {path} is for {name!r}, which is nobody of the cluster {keys.cluster!r}",
                hint="name the cluster that the certificates were made for: --cluster",
            )
        yield name


async def _existing(desk: AuthDesk, /) -> Rights:
    roles = await desk.roles()
    grants = {
        name: frozenset(Grant(first, end, Right(right)) for first, end, right in found) for name, found in roles.items()
    }
    return Rights(grants, await desk.users())


async def _check_others(desk: AuthDesk, asked: Enrolment, /, *, keys: Keyspace) -> None:
    """Nobody who uses this etcd now may be locked out unawares."""
    others = await desk.count(KeyRange("", prefix=True)) - await desk.count(keys.everything)
    if others and not asked.despite_other_keys:
        raise Refused(
            f"this etcd has {others} keys that are not of the cluster {keys.cluster!r}: whoever uses them would be "
            "locked out when etcd begins to ask who they are. Nothing was changed.",
            hint="give them users first (--leave-auth-off makes only ours), then use --despite-other-keys",
        )


async def _check_administrator(options: EtcdOptions, asked: Enrolment, /, *, is_new: bool) -> None:
    """Neither may the administrator, who alone could switch it off again: by a password that is known, or root's
    certificate where etcd looks at certificates.
    """
    if asked.passwords is not None and (is_new or _password_file(asked.passwords, ADMINISTRATOR).exists()):
        return
    if _common_name(options) != ADMINISTRATOR:
        raise Refused(
            "nobody could administer this etcd once it asks who they are: this is not root's certificate, and root's "
            "password is not known. Nothing was changed.",
            hint="use --certs FOLDER, or --passwords FOLDER; root's password, if it has one, is in root.password there",
        )
    for endpoint in options.endpoints:
        if not await _insists(endpoint, options):
            raise Refused(
                f"{endpoint} does not ask for certificates, so nobody would be let in any more. Nothing was changed.",
                hint="start every member with --client-cert-auth and --trusted-ca-file, or use --passwords FOLDER",
            )


async def _insists(endpoint: str, options: EtcdOptions, /) -> bool:
    return await asyncio.to_thread(
        wants_client_certificate,
        endpoint,
        ca_file=options.ca_file,
        within_seconds=options.try_timeout_seconds,
    )


def _common_name(options: EtcdOptions, /) -> str:
    return facts(Path(options.cert_file).read_bytes()).common_name if options.cert_file else ""


def _passwords(asked: Enrolment, users: set[str], /) -> dict[str, str]:
    """A password for each new user; nobody ever knows those that are in no file, so only certificates let them in."""
    made = {user: secrets.token_urlsafe(32) for user in users}
    if asked.passwords is None:
        return made
    files = {user: _password_file(asked.passwords, user) for user in users}
    known = {user: _read(path) for user, path in files.items() if path.exists()}
    write_new({path: Content(made[user].encode(), secret=True) for user, path in files.items() if user not in known})
    return made | known


def _password_file(folder: Path, user: str, /) -> Path:
    """Beside the certificate of the same user."""
    if user == ADMINISTRATOR:
        return folder / f"{ADMINISTRATOR}.password"
    _, part, name = user.split("/")
    return folder / f"{part}s" / f"{name}.password"


def _read(path: Path, /) -> str:
    try:
        found = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: it cannot be read: {reason_of(error)}") from error
    if not found:
        raise InvalidInput(f"{path}: it is empty", hint="remove it, and a password is made up")
    return found


async def _take(desk: AuthDesk, step: Step, /, *, passwords: dict[str, str]) -> None:
    if step.grant is not None:
        grant = step.grant
        await desk.grant(step.subject, first=grant.first, end=grant.end, right=grant.right)
    elif step.role:
        await desk.give_role(step.subject, role=step.role)
    elif step.is_user:
        await desk.add_user(step.subject, password=passwords[step.subject])
    else:
        await desk.add_role(step.subject)


def _as_administrator(options: EtcdOptions, asked: Enrolment, /) -> EtcdOptions:
    """By certificate if that is root's, else by the password that it has been given."""
    if asked.passwords is None or _common_name(options) == ADMINISTRATOR:
        return options
    password = _read(_password_file(asked.passwords, ADMINISTRATOR))
    return replace(options, username=ADMINISTRATOR, password=password)


async def _check_after(options: EtcdOptions, /) -> None:
    async with auth_desk(options) as desk:
        try:
            await desk.roles()
        except (AccessDenied, Unreachable) as error:
            raise AccessDenied(
                f"etcd now asks who everybody is, and does not let its administrator in: {error}",
                hint="look at the members' --client-cert-auth and --trusted-ca-file, or use root's password",
            ) from error


async def _warning(settings: Settings, /) -> str | None:
    """What the versions that etcd's members state make of all this."""
    async with open_store(settings) as store:
        reports = await store.inspect()
    loose = sorted({report.version for report in reports if report.reachable and not roles_bind(report.version)})
    if not loose:
        return None
    return (
        f"etcd {', '.join(loose)} looks at no role for what is nested in a transaction: whoever has any certificate or "
        "password can read and write every lock. Upgrade to 3.5.28, 3.6.9 or later; until then let only those in whom "
        "you trust with all of it, and let readers look through a host's agent (api_group)."
    )


def _described(user: str, wanted: Rights, /, *, new: bool) -> dict[str, Any]:
    granted = sorted(grant for role in wanted.users[user] for grant in wanted.roles[role])
    return {"name": user, "roles": sorted(wanted.users[user]), "rights": list(map(str, granted)), "new": new}
