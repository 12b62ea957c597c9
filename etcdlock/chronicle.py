"""What happened to a guest or a host: what etcd knows, and what this host has on record, as one account; pure.

etcd tells on every host who has a lock, from whom it came and with which proof; that is safe there when a host is dead.
A host's own record tells what happened on it: when its session was proven for the last time, when it was overdue, what
was stopped and by whom. Its times are that host's wall clock, for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from etcdlock.documents import (
    Document,
    fencing_document,
    lock_document,
    obituary_document,
    session_document,
)
from etcdlock.errors import InvalidInput, Unreachable
from etcdlock.explain import describe_proof
from etcdlock.model import Handover, Obituary, Proof, SessionRef
from etcdlock.survey import LockView, Survey
from etcdlock.timing import Timing

Line = Mapping[str, Any]

MOST_EVENTS = 200
NEAR = timedelta(seconds=60)
"""What happened to the host so soon before or after something went wrong with a guest belongs to its story."""

SAME = timedelta(seconds=1)
"""An agent notes a heartbeat when it is answered, a guard reckons from when it was sent."""

MEANINGS: Mapping[str, str] = {
    "acquired": "it was given this lock",
    "adopted": "a new agent went on with it",
    "agent_ready": "an agent was up",
    "claimed": "it came here by migration",
    "fenced": "a fence agent confirmed that the host is off",
    "fencing": "the host was to be switched off",
    "fencing_failed": "nobody confirmed that the host is off",
    "guard_finds_stuck": "it did not die when it was killed",
    "guard_freezes": "the guard stopped it, to let it run on once its lock is proven",
    "guard_has_frozen": "it stood still",
    "guard_runs_command": "its command was started",
    "guard_strikes": "the guard killed it: its session had not been proven in time",
    "guest_frozen": "the agent stopped it, to let it run on once its lock is proven",
    "guest_goes_on": "it was let run on: nobody can have had its lock",
    "guest_gone": "its process ended",
    "guest_stopped": "the agent killed it: its session could not be proven in time",
    "guest_stuck": "it did not die when it was killed",
    "heartbeat": "the session was proven",
    "heartbeat_back": "the session could be proven again",
    "heartbeat_failed": "the session could not be proven",
    "obituary_written": "this host wrote the proof that the session had ended",
    "parked": "its vCPUs had stopped",
    "refused": "a lock was refused",
    "rejoined": "its lock was carried over into a new session",
    "released": "its locks were given back",
    "robbed": "another had taken disks of it with a proof: it was killed",
    "session_joined": "a new session began",
    "session_lost": "the session's key was gone",
    "session_missing": "the session was seen missing",
    "session_suspect": "a heartbeat was overdue: nothing new was acquired",
    "superseded": "another had its lock: whatever ran was killed",
    "taken_over": "its locks were taken over from a host that is proven dead",
    "shadow_began": "an agent was up that refused and stopped nothing: shadow mode",
    "would_have_refused": "it was answered yes in shadow mode: else it would have been refused",
    "would_have_stopped": "it ran on in shadow mode: else it would have been stopped",
    "unparked": "its vCPUs were let run again",
}
"""For people; an event that is not among them is told by its name."""

HOST_EVENTS = frozenset(
    ("agent_ready", "earlier_guard_ended", "etcd_history_replaced", "guard_replaced", "guard_started", "heartbeat",
     "heartbeat_back", "heartbeat_failed", "join_failed", "session_joined", "session_left", "session_left_standing",
     "session_lost", "session_resumed", "session_suspect", "shadow_began")
)  # fmt: skip


def tell(
    asked: str, survey: Survey | None, record: Sequence[Line], /, *, host: str, timing: Timing, needs: str
) -> Document:
    """The document of `etcdlock why`; `survey` is None where etcd is away, `host` whose record this is.

    Raises `InvalidInput` if nothing is known of what is asked, `Unreachable` if etcd might know more.
    """
    lines = derived(record, timing=timing)
    locks = _locks_of(asked, survey)
    events = events_of_domain(asked, lines)
    if not locks and not events:
        return _of_host(asked, survey, lines, host=host, needs=needs)
    handovers = [item for lock in locks for item in lock.stored.record.history]
    owners = {item.owner for item in handovers} | {lock.stored.record.owner for lock in locks}
    return {
        **_begun(asked, "domain", survey),
        "told": [sentence for lock in locks for sentence in _told_of(lock, survey)] or [f"no lock names {asked} now"],
        "locks": [lock_document(lock, needs=needs) for lock in locks],
        **_proofs_of(survey, owners, {owner.host for owner in owners}),
        "events": _shown(events, host),
    }


def _begun(asked: str, kind: str, survey: Survey | None) -> Document:
    return {"asked": asked, "kind": kind, "revision": survey.revision if survey else None}


def _proofs_of(survey: Survey | None, dead: Iterable[SessionRef], hosts: Iterable[str]) -> Document:
    found, of = set(dead), set(hosts)
    obituaries = survey.obituaries if survey else ()
    fencings = survey.fencings if survey else ()
    return {
        "obituaries": [obituary_document(item) for item in obituaries if item.dead in found],
        "fencings": [fencing_document(item.record) for item in fencings if item.record.host in of],
    }


def _shown(lines: Sequence[Line], host: str) -> list[Document]:
    return [{**line, "host": host, "meaning": MEANINGS.get(line["event"])} for line in lines[-MOST_EVENTS:]]


# --- a domain --------------------------------------------------------------------------------------------------------


def _locks_of(asked: str, survey: Survey | None) -> list[LockView]:
    if survey is None:
        return []
    named = ((lock, lock.stored.record.domain) for lock in survey.locks)
    return [lock for lock, domain in named if asked in (domain.name, str(domain.uuid))]


def _told_of(lock: LockView, survey: Survey | None) -> list[str]:
    record = lock.stored.record
    proofs = {item.dead: item for item in survey.obituaries} if survey else {}
    state = f"{record.state} on host {record.owner.host} since {record.since} (token {lock.stored.token})"
    lost = [f"{resource} was taken over from it with a proof" for resource in record.taken_over]
    standing = f"its session {record.owner} is {lock.standing}"
    proof = [_told_proof(lock.obituary)] if lock.obituary else []
    came = [_told_handover(item, lock, proofs.get(item.owner)) for item in record.history]
    return [f"domain {record.domain} is {state}; {standing}", *proof, *came, *lost]


def _told_handover(item: Handover, lock: LockView, obituary: Obituary | None) -> str:
    what = "it" if item.domain.uuid == lock.stored.record.domain.uuid else f"what domain {item.domain} had"
    source = f"host {item.owner.host} (session {item.owner.session}, token {item.token})"
    if item.why not in set(Proof):
        return f"{what} came from {source} by {item.why} at {item.when}"
    told = f": {_told_proof(obituary)}" if obituary else f": {describe_proof(Proof(item.why))}, proven at {item.when}"
    return f"{what} was taken over from {source}{told}"


def _told_proof(item: Obituary) -> str:
    return f"{item.proof}, by {item.by} at {item.when}: {item.reason} ({describe_proof(item.proof)})"


def events_of_domain(asked: str, lines: Sequence[Line], /) -> list[Line]:
    """What is on record of a domain, by name or UUID, and of its host about the times when something went wrong."""
    names, owners, found = {asked}, dict[int, set[str]](), set[int]()
    for number, line in enumerate(lines):
        fields = line["fields"]
        said = {str(fields[key]) for key in ("domain", "uuid") if key in fields}
        if line["event"] == "guest_known":
            owners[fields["pid"]] = said
        if said & names:
            names |= said if line["event"] == "guest_known" else set()
            found.add(number)
        elif owners.get(_pid(fields), set()) & names:
            found.add(number)
    wrong = [_at(lines[number]) for number in found if _is_wrong(lines[number])]
    about = {
        number
        for number, line in enumerate(lines)
        if line["event"] in HOST_EVENTS and any(abs(_at(line) - at) <= NEAR for at in wrong)
    }
    return [lines[number] for number in sorted(found | about)] if found else []


def _pid(fields: Mapping[str, Any]) -> int:
    """Of the guest that an event is about, 0 if it names none."""
    named = str(fields.get("guest", "")).partition(":")[0]
    return int(named) if named.isdecimal() else int(fields.get("pid") or 0)


def _is_wrong(line: Line) -> bool:
    return line.get("level") in ("warning", "error", "critical")


# --- a host ----------------------------------------------------------------------------------------------------------


def _of_host(asked: str, survey: Survey | None, lines: Sequence[Line], /, *, host: str, needs: str) -> Document:
    """What became of its sessions, and who has what from it; of this very host also all that is on record."""
    events = list(lines) if asked == host else [line for line in lines if _names_host(line, asked)]
    hosts = {*survey.hosts, *(item.record.host for item in survey.fencings)} if survey else set()
    if asked not in hosts and not events and survey is None:
        raise Unreachable(
            f"etcd could not be asked, and this host has nothing on record of {asked!r}",
            hint="see 'etcdlock doctor'; what befell a host or its guests is also on that host's own record",
        )
    if asked not in hosts and not events:
        raise InvalidInput(
            f"nothing is known of {asked!r}: no host, no lock and no event of this host's record has that name",
            hint="give a domain's name or UUID, or a host's id; a host's own record is on that host",
        )
    views = [view for view in survey.sessions if view.ref.host == asked] if survey else []
    dead = [item for item in survey.obituaries if item.dead.host == asked] if survey else []
    heirs = [(lock, item) for lock in survey.locks for item in _from_host(lock, asked)] if survey else []
    proofs = {item.dead: item for item in dead}
    told = [
        *(f"session {view.ref} is {view.standing}, {view.locks} lock(s) name it" for view in views),
        *(f"session {item.dead} is proven dead: {_told_proof(item)}" for item in dead),
        *(f"{_told_heir(lock)}: {_told_handover(item, lock, proofs.get(item.owner))}" for lock, item in heirs),
    ]
    return {
        **_begun(asked, "host", survey),
        "told": told,
        "sessions": [session_document(view) for view in views],
        "locks": [lock_document(lock, needs=needs) for lock in dict.fromkeys(lock for lock, _ in heirs)],
        **_proofs_of(survey, proofs, {asked}),
        "events": _shown(events, host),
    }


def _told_heir(lock: LockView) -> str:
    record = lock.stored.record
    return f"domain {record.domain} on host {record.owner.host}, token {lock.stored.token}"


def _from_host(lock: LockView, host: str) -> list[Handover]:
    return [item for item in lock.stored.record.history if item.owner.host == host]


def _names_host(line: Line, host: str) -> bool:
    texts = [str(line["fields"].get(name, "")) for name in ("host", "session", "source")]
    return any(text == host or text.startswith(f"{host}/") for text in texts)


# --- what follows from what is on record -----------------------------------------------------------------------------


def derived(record: Sequence[Line], /, *, timing: Timing) -> list[Line]:
    """The record, in order, with what it implies: when a heartbeat was overdue, and from a guard when the last one was.

    A program that is killed notes no heartbeat any more; its guard knows how long ago the last one was.
    """
    implied: list[Line] = []
    for number, line in enumerate(record):
        if line["event"] in ("guard_strikes", "guard_freezes") and "proven_seconds_ago" in line["fields"]:
            session = {"session": line["fields"].get("session")}
            proven = _at(line) - timedelta(seconds=line["fields"]["proven_seconds_ago"])
            implied += [_implied("heartbeat", proven, session), _overdue(proven, session, timing)]
        elif line["event"] == "heartbeat" and (after := _next_word(record[number + 1 :])) is not None:
            overdue = _overdue(_at(line), {"session": line["fields"].get("session")}, timing)
            if after["event"] in ("heartbeat_failed", "session_lost") and _lasted(record[number + 1 :], overdue):
                implied.append(overdue)
    lines = list(record)
    for line in implied:
        if not any(other["event"] == line["event"] and abs(_at(other) - _at(line)) < SAME for other in lines):
            lines.append(line)
    return sorted(lines, key=lambda line: str(line["at"]))


def _next_word(lines: Sequence[Line]) -> Line | None:
    words = ("heartbeat", "heartbeat_failed", "heartbeat_back", "session_lost", "session_joined")
    return next((line for line in lines if line["event"] in words), None)


def _lasted(lines: Sequence[Line], overdue: Line) -> bool:
    """Whether nothing was proven before it was overdue."""
    proofs = (line for line in lines if line["event"] in ("heartbeat", "heartbeat_back", "session_joined"))
    return all(_at(line) > _at(overdue) for line in proofs)


def _overdue(proven: datetime, session: Mapping[str, Any], timing: Timing) -> Line:
    return _implied("session_suspect", proven + timedelta(seconds=timing.suspect_after_seconds), session)


def _implied(event: str, at: datetime, fields: Mapping[str, Any]) -> Line:
    return {"at": at.isoformat(timespec="milliseconds"), "event": event, "level": "info", "fields": fields}


def _at(line: Line) -> datetime:
    return datetime.fromisoformat(str(line["at"]))
