"""Questions to a survey: who stands in the way, and which sessions an operator may declare ended; pure.

What is answered is true of the survey's revision and proposes only: acquires, takeovers and obituaries compare again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from etcdlock.errors import CorruptRecord, InvalidInput, SessionAlive
from etcdlock.identity import escaped, with_wholes
from etcdlock.keyspace import Keyspace
from etcdlock.model import Blocker, Mode, Resource, SessionRef, StoredResource
from etcdlock.survey import Leftover, LockView, SessionView, Standing, Survey


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody would like to lock: a domain by its UUID, or by its name where that is all they know; resources."""

    text: str
    uuid: UUID | None = None
    name: str = ""
    resources: tuple[Resource, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def locked(self) -> tuple[Resource, ...]:
        """The resources that take a lock, and what partitions are part of; read-only ones take none and are free."""
        return with_wholes(resource for resource in self.resources if resource.mode is not Mode.READ_ONLY)


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything in the way, the locks that it belongs to, and records that might be in the way but cannot be read."""

    blockers: tuple[Blocker, ...]
    locks: tuple[LockView, ...]
    unreadable: tuple[Leftover, ...]


def asked(text: str, /) -> Question:
    """A question about one domain, by UUID or name."""
    if not text:
        raise InvalidInput("a domain's name or UUID cannot be empty")
    try:
        return Question(f"domain {text}", uuid=UUID(text), name=text)
    except ValueError:
        return Question(f"domain {text}", name=text)


def answer(survey: Survey, question: Question, /, *, keys: Keyspace) -> Answer:
    """Who stands in the way."""
    domains = tuple(lock for lock in survey.locks if _is_asked(lock, question))
    mine = {lock.stored.record.domain.uuid for lock in domains}
    rivals = [
        (item, survey.lock_of(item.record.domain.uuid))
        for resource in question.locked
        for item in _rivals(survey, resource, keys=keys)
        if item.record.domain.uuid not in mine
    ]
    holders = {lock.stored.record.domain.uuid: lock for _, lock in rivals if lock is not None}
    return Answer(
        blockers=(*(lock.blocker(None) for lock in domains), *(_in_the_way(item, lock) for item, lock in rivals)),
        locks=(*domains, *holders.values()),
        unreadable=_unreadable(survey, question, rivals=(item for item, _ in rivals), keys=keys),
    )


def check_readable(question: Question, found: Answer, /) -> None:
    """Raises `CorruptRecord` where nothing was found, but a record that would tell could not be read."""
    if found.unreadable and not found.blockers:
        first = found.unreadable[0]
        raise CorruptRecord(
            f"it cannot be told who holds {question}: {first.text}", key=first.key, hint="see 'etcdlock doctor'"
        )


def _is_asked(lock: LockView, question: Question) -> bool:
    domain = lock.stored.record.domain
    return domain.uuid == question.uuid or (bool(question.name) and domain.name == question.name)


def _rivals(survey: Survey, resource: Resource, *, keys: Keyspace) -> tuple[StoredResource, ...]:
    """The locks on the resource that rule out one in its mode."""
    return tuple(item for item in survey.resources if _rules_out(item.record.resource, resource, keys=keys))


def _rules_out(held: Resource, wanted: Resource, *, keys: Keyspace) -> bool:
    both_shared = held.mode is Mode.SHARED and wanted.mode is Mode.SHARED
    return keys.holders(held) == keys.holders(wanted) and not both_shared


def _in_the_way(item: StoredResource, lock: LockView | None) -> Blocker:
    """Named by the domain's own record where that lists the resource; else the two disagree and no owner is known."""
    resource = item.record.resource
    listed = () if lock is None else lock.stored.record.resources
    if lock is None or not any((r.lockspace, r.name) == (resource.lockspace, resource.name) for r in listed):
        return Blocker(domain=item.record.domain, resource=resource)
    return lock.blocker(resource)


def _unreadable(
    survey: Survey, question: Question, *, rivals: Iterable[StoredResource], keys: Keyspace
) -> tuple[Leftover, ...]:
    """Records that could hold what is asked for. One of any domain could be that of a name."""
    owners = {item.record.domain.uuid for item in rivals} | ({question.uuid} if question.uuid else set())
    prefixes = [keys.holders(resource).key for resource in question.locked]
    exact = {keys.domain(uuid) for uuid in owners}
    by_name_only = question.uuid is None and bool(question.name)
    return tuple(
        item
        for item in survey.unreadable
        if item.key in exact
        or any(item.key.startswith(prefix) for prefix in prefixes)
        or (by_name_only and item.key.startswith(keys.domains.key))
    )


# --- what may be broken --------------------------------------------------------------------------------------------


def sessions_to_break(survey: Survey, target: str, /) -> tuple[SessionRef, ...]:
    """The sessions whose end is to be recorded for `HOST` or `HOST/SESSION`: keyless, unproven, named by a lock.

    Raises `SessionAlive` where a key stands, and `InvalidInput` for what the cluster has never heard of.
    """
    host, session = _split_target(survey, target)
    views = [view for view in survey.sessions if view.ref.host == host and session in ("", view.ref.session)]
    living = [view for view in views if view.standing is Standing.ALIVE]
    if living:
        raise _alive(survey, living[0], whole_host=not session)
    return tuple(view.ref for view in views if view.standing is Standing.SILENT)


def sessions_to_fence(survey: Survey, host: str, /, *, forced: bool) -> tuple[SessionView, ...]:
    """The sessions whose end a fence agent's word would prove; those that live first, and only if that is `forced`.

    Raises `SessionAlive` where one lives otherwise, and `InvalidInput` for a host that the cluster has never heard of.
    """
    if host not in survey.hosts:
        raise _unknown(survey, host)
    views = [view for view in survey.sessions if view.ref.host == host]
    living = [view for view in views if view.standing is Standing.ALIVE]
    if living and not forced:
        raise _alive(survey, living[0], whole_host=False)
    return (*living, *(view for view in views if view.standing is Standing.SILENT))


def _split_target(survey: Survey, target: str) -> tuple[str, str]:
    """Host and session id, which is empty for the whole host; a host's id may itself have slashes."""
    if target in survey.hosts:
        return target, ""
    host, _, session = target.rpartition("/")
    known = {view.ref for view in survey.sessions} | {item.dead for item in survey.obituaries}
    if SessionRef(host, session) in known:
        return host, session
    raise _unknown(survey, target)


def _unknown(survey: Survey, target: str) -> InvalidInput:
    hosts = ", ".join(escaped(name) for name in survey.hosts) or "none"
    return InvalidInput(
        f"there is no host or session {escaped(target)!r} in this cluster; its hosts: {hosts}",
        hint="`etcdlock hosts` lists hosts and sessions",
    )


def _alive(survey: Survey, view: SessionView, *, whole_host: bool) -> SessionAlive:
    record, host = view.record, view.ref.host
    where = f" ({record.kind}, since {record.since}, at {record.address or 'an unknown address'})" if record else ""
    others = (other for other in survey.sessions if other.ref.host == host)
    silent = [str(other.ref) for other in others if other.standing is Standing.SILENT]
    hint = "stop its guests there, or turn it off and wait until its key has expired"
    if whole_host and silent:
        hint = f"its sessions without a key can be broken one by one: {', '.join(silent)}"
    return SessionAlive(
        f"session {view.ref}{where} still has its key: host {host} is alive, nothing was written", hint=hint
    )
