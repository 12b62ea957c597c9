"""What `etcdlock certs` makes: which certificates, under which names, in which files of its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from etcdlock.adapters.certificates import Authority, Issued, facts
from etcdlock.adapters.new_files import Content, refuse_existing, replace, write_new
from etcdlock.errors import InvalidInput
from etcdlock.keyspace import Keyspace, segment
from etcdlock.rights import ADMINISTRATOR, Part, user_name

AUTHORITY = "ca"
MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line. A member is NAME or NAME=ADDRESS,ADDRESS."""

    members: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    fleets: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    days: int = 825
    ca_days: int = 3650

    @property
    def nothing(self) -> bool:
        return not (self.members or self.hosts or self.fleets or self.operators or self.readers)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate: its files without their ending, its common name; a member's names, None for a client."""

    stem: str
    common_name: str
    names: tuple[str, ...] | None = None


def make(folder: Path, asked: Asked, /, *, keys: Keyspace) -> list[dict[str, Any]]:
    """The authority and the administrator if there is no authority yet, and what is asked for: all or nothing."""
    now = datetime.now(UTC)
    wanted = list(_wanted(asked, keys=keys))
    is_new = not (folder / f"{AUTHORITY}.pem").exists()
    if is_new:
        if asked.ca_days < asked.days:
            less = f"--ca-days {asked.ca_days} is less than --days {asked.days}"
            raise InvalidInput(f"{less}: nothing outlives its authority")
        authority = Authority.create(f"etcdlock {segment(keys.cluster)}", now=now, days=asked.ca_days)
        wanted.insert(0, Wanted(ADMINISTRATOR, ADMINISTRATOR))
    else:
        authority = _authority(folder)
    refuse_existing({path: Content(b"", secret=True) for one in wanted for path in _paths(folder, one.stem)})
    files = _files(folder, AUTHORITY, Issued(authority.pem, authority.key_pem)) if is_new else {}
    for one in wanted:
        files |= _files(folder, one.stem, _issue(authority, one, now=now, days=asked.days))
    write_new(files)
    return [_described(path.relative_to(folder), content.data) for path, content in files.items() if not content.secret]


def renewed(folder: Path, asked: Asked, /, *, keys: Keyspace) -> list[dict[str, Any]]:
    """The certificates asked for, valid anew for the same key and the same names."""
    if asked.nothing:
        raise InvalidInput("--renew: name what is to be renewed, as with --host HOST_ID")
    now = datetime.now(UTC)
    authority = _authority(folder)
    new: dict[Path, bytes] = {}
    for one in _wanted(asked, keys=keys):
        certificate, key = _paths(folder, one.stem)
        if one.names is not None and len(one.names) > 1:
            raise InvalidInput(f"--renew: member {one.stem}: give its name alone; its addresses stay as they are")
        before = Issued(_read(certificate), _read(key))
        try:
            new[certificate] = authority.renew(before, now=now, days=asked.days).certificate
        except InvalidInput as error:
            raise InvalidInput(f"{certificate}: {error}", hint=error.hint) from error
    for path, data in new.items():
        replace(path, Content(data, secret=False))
    return [_described(path.relative_to(folder), data) for path, data in new.items()]


def listed(folder: Path, /) -> list[dict[str, Any]]:
    """Every certificate there is."""
    found = sorted(folder.rglob("*.pem"), key=lambda path: (len(path.parts), path))
    return [_described(path.relative_to(folder), _read(path)) for path in found]


def _wanted(asked: Asked, /, *, keys: Keyspace) -> Iterator[Wanted]:
    seen = set()
    for one in (*map(_member, asked.members), *_clients(asked, keys=keys)):
        if one.stem in seen:
            raise InvalidInput(f"{one.stem} is named twice")
        seen.add(one.stem)
        yield one


def _clients(asked: Asked, /, *, keys: Keyspace) -> Iterator[Wanted]:
    named = {
        Part.HOST: asked.hosts,
        Part.FLEET: asked.fleets,
        Part.OPERATOR: asked.operators,
        Part.READER: asked.readers,
    }
    for part, names in named.items():
        for name in names:
            if not name:
                raise InvalidInput(f"--{part}: the name is empty")
            yield Wanted(f"{part}s/{segment(name)}", user_name(keys, part, name))


def _member(given: str, /) -> Wanted:
    name, _, addresses = given.partition("=")
    if not name:
        raise InvalidInput(f"--member {given!r}: give NAME, or NAME=ADDRESS,ADDRESS")
    names = (name, *(address.strip() for address in addresses.split(",") if address.strip()))
    return Wanted(f"{MEMBERS}/{segment(name)}", f"etcd/{segment(name)}", names)


def _issue(authority: Authority, one: Wanted, /, *, now: datetime, days: int) -> Issued:
    try:
        if one.names is None:
            return authority.for_client(one.common_name, now=now, days=days)
        return authority.for_member(one.common_name, names=one.names, now=now, days=days)
    except InvalidInput as error:
        raise InvalidInput(f"{one.stem}: {error}", hint=error.hint) from error


def _authority(folder: Path, /) -> Authority:
    certificate, key = _paths(folder, AUTHORITY)
    try:
        return Authority.load(_read(certificate), _read(key))
    except InvalidInput as error:
        raise InvalidInput(f"{certificate} and {key}: {error}", hint=error.hint) from error


def _paths(folder: Path, stem: str, /) -> tuple[Path, Path]:
    return folder / f"{stem}.pem", folder / f"{stem}.key"


def _files(folder: Path, stem: str, issued: Issued, /) -> dict[Path, Content]:
    certificate, key = _paths(folder, stem)
    return {key: Content(issued.key, secret=True), certificate: Content(issued.certificate, secret=False)}


def _read(path: Path, /) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: it cannot be read: {error.strerror}") from error


def _described(file: Path, certificate: bytes, /) -> dict[str, Any]:
    try:
        said = facts(certificate)
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from error
    until = said.not_after.isoformat(timespec="seconds")
    return {"file": str(file), "name": said.common_name, "names": list(said.names), "until": until}
