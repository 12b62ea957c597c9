"""Who is who in etcd and who may do what: a cluster's users and roles, each with the least that its part needs; pure.

    <cluster>/host/<host id>       a host: reads the cluster; writes all of it but the sessions of other hosts
    <cluster>/fleet/<name>         hosts that share one certificate: read and write all of the cluster
    <cluster>/operator/<name>      somebody who may break: reads the cluster; writes obituaries
    <cluster>/reader/<name>        somebody who may look: reads the cluster

A user's name is also its certificate's common name, so every part can be told apart and taken away alone. Cluster and
name are one segment each, as in keys: no name reaches into another's.

What roles cannot say is under which conditions a key may be written. A host may rewrite any lock of its cluster, since
takeovers do that; what keeps it from doing so without a proof is its own program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from etcdlock.errors import RightsDiffer
from etcdlock.keyspace import Keyspace, segment

T = TypeVar("T")

ADMINISTRATOR: Final = "root"
"""etcd's own name for who may do everything, as a user and as a role."""


class Part(StrEnum):
    """What somebody is to the cluster."""

    HOST = "host"
    FLEET = "fleet"
    OPERATOR = "operator"
    READER = "reader"


class Right(StrEnum):
    """By etcd's names."""

    READ = "READ"
    WRITE = "WRITE"
    BOTH = "READWRITE"


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A right on the keys from `first` up to and without `end`; without an end on `first` alone."""

    first: str
    end: str
    right: Right

    def __str__(self) -> str:
        return f"{self.right} {self.first}" + (f" to {self.end}" if self.end else "")


@dataclass(frozen=True, slots=True)
class Rights:
    """Roles by name with what they grant, and users by name with their roles."""

    roles: Mapping[str, frozenset[Grant]]
    users: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """One change: a new role or user, or something more for one. Of `grant` and `role` one at most is given."""

    subject: str
    is_user: bool
    grant: Grant | None = None
    role: str = ""

    @property
    def creates(self) -> bool:
        return self.grant is None and not self.role


def user_name(keys: Keyspace, part: Part, name: str, /) -> str:
    """Who this is in etcd, and in its certificate."""
    return f"{segment(keys.cluster)}/{part}/{segment(name)}"


def part_of(keys: Keyspace, user: str, /) -> Part | None:
    """What the user of this name is to this cluster; None if it is nothing to it."""
    for part in Part:
        if user.startswith(f"{segment(keys.cluster)}/{part}/"):
            return part
    return None


def wanted_rights(keys: Keyspace, users: Iterable[str], /) -> Rights:
    """The roles of the cluster, and these users, which must be its own (`user_name`)."""
    roles = {role: _grants(keys, role) for role in (_role(keys, part) for part in Part)}
    given: dict[str, frozenset[str]] = {}
    for user in users:
        part = part_of(keys, user)
        if part is None:
            raise ValueError(f"{user} is no user of the cluster {keys.cluster}")
        given[user] = frozenset((_role(keys, part), *((user,) if part is Part.HOST else ())))
        if part is Part.HOST:
            roles[user] = frozenset((_grant(keys.sessions().key + _last(user), Right.BOTH),))
    return Rights(roles, given)


def steps(wanted: Rights, /, *, existing: Rights) -> tuple[Step, ...]:
    """What is missing, in an order in which it can be made.

    What exists may be less than is wanted, as after an attempt that broke off. Raises `RightsDiffer` where it is more
    or other: then it is somebody else's, or was changed by hand, and is left alone.
    """
    more = _more("role", wanted.roles, existing.roles) | _more("user", wanted.users, existing.users)
    if more:
        raise RightsDiffer(
            "etcd has " + "; ".join(f"{name} with {has}" for name, has in more.items()) + ". Nothing was changed.",
            hint="they are not as this command makes them: rename or remove them with etcdctl, or name another cluster",
        )
    return (*_administrator(existing), *_role_steps(wanted, existing), *_user_steps(wanted, existing))


def _administrator(existing: Rights) -> Iterable[Step]:
    """etcd does not ask anybody who they are before it has one."""
    if ADMINISTRATOR not in existing.roles:
        yield Step(ADMINISTRATOR, is_user=False)
    if ADMINISTRATOR not in existing.users:
        yield Step(ADMINISTRATOR, is_user=True)
    if ADMINISTRATOR not in existing.users.get(ADMINISTRATOR, ()):
        yield Step(ADMINISTRATOR, is_user=True, role=ADMINISTRATOR)


def _role_steps(wanted: Rights, existing: Rights) -> Iterable[Step]:
    for role, grants in wanted.roles.items():
        if role not in existing.roles:
            yield Step(role, is_user=False)
        for grant in sorted(grants - existing.roles.get(role, frozenset())):
            yield Step(role, is_user=False, grant=grant)


def _user_steps(wanted: Rights, existing: Rights) -> Iterable[Step]:
    for user, roles in wanted.users.items():
        if user not in existing.users:
            yield Step(user, is_user=True)
        for role in sorted(roles - existing.users.get(user, frozenset())):
            yield Step(user, is_user=True, role=role)


def _more(
    kind: str, wanted: Mapping[str, frozenset[T]], existing: Mapping[str, frozenset[T]]
) -> dict[str, str]:
    extra = {name: has - wanted[name] for name, has in existing.items() if name in wanted and has - wanted[name]}
    return {f"{kind} {name}": ", ".join(sorted(map(str, found))) for name, found in extra.items()}


def _role(keys: Keyspace, part: Part) -> str:
    return f"{segment(keys.cluster)}/{part}"


def _grants(keys: Keyspace, role: str) -> frozenset[Grant]:
    reads = _grant(keys.root, Right.READ)
    if role == _role(keys, Part.READER):
        return frozenset((reads,))
    if role == _role(keys, Part.FLEET):
        return frozenset((_grant(keys.root, Right.BOTH),))
    if role == _role(keys, Part.OPERATOR):
        return frozenset((reads, _grant(keys.obituaries.key, Right.BOTH)))
    sessions = keys.sessions().key
    before = Grant(keys.root, sessions, Right.BOTH)
    after = Grant(_after(sessions), _after(keys.root), Right.BOTH)
    return frozenset((reads, before, after))


def _grant(folder: str, right: Right) -> Grant:
    return Grant(folder, _after(folder), right)


def _after(folder: str) -> str:
    """The first key behind all that lie in the folder, whose name ends with a slash."""
    return folder[:-1] + chr(ord("/") + 1)


def _last(user: str) -> str:
    return user.rpartition("/")[2] + "/"
