"""What a session is and what may be concluded from its heartbeats; pure, with `now` handed in.

Guaranteed: `proven_at` only ever moves on by the *sending* instant of a heartbeat that committed with success; the
word of a lease keepalive moves nothing. A session once missing is lost for good: its key never comes back, a new
session with a new id takes its place.

Every transition compares the session key's `mod_revision` with the session's `epoch`. Rewriting the key (a barrier)
starts a new epoch, and every transaction of the old one that is still under way can never commit.

Which clock: the host's own `ports.Clock`, in seconds. Wall clocks decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from etcdlock.errors import ContractMismatch, DuplicateHost
from etcdlock.escalation import Action
from etcdlock.model import DomainRecord, Machine, SessionKind, SessionRecord, SessionRef
from etcdlock.timing import Timing


class Phase(StrEnum):
    """LIVE: may acquire. SUSPECT: a heartbeat is overdue, nothing new. LOST: nothing may run under it."""

    LIVE = "live"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has joined. `lost` is set when a committed transaction found its key missing."""

    record: SessionRecord
    lease: int
    create_revision: int
    epoch: int
    proven_at: float
    lost: bool = False

    @property
    def ref(self) -> SessionRef:
        """Host id and session id."""
        return self.record.ref

    def proven(self, sent_at: float, /) -> Session:
        """After a heartbeat sent at `sent_at` has committed with success."""
        return replace(self, proven_at=max(self.proven_at, sent_at))

    def missing(self) -> Session:
        """After a committed transaction has found the key gone."""
        return replace(self, lost=True)

    def moved(self, epoch: int, /) -> Session:
        """After a barrier has rewritten the key; an older answer that comes late changes nothing."""
        return replace(self, epoch=max(self.epoch, epoch))

    def stop_at(self, timing: Timing, /) -> float:
        """The instant at which everything under this session is to be killed."""
        return self.proven_at + timing.stop_after_seconds

    def phase(self, now: float, timing: Timing, /) -> Phase:
        """What may be done under the session at `now`."""
        if self.lost or now >= self.stop_at(timing):
            return Phase.LOST
        return Phase.SUSPECT if now >= self.proven_at + timing.suspect_after_seconds else Phase.LIVE

    def may_answer_yes(self, now: float, timing: Timing, /) -> bool:
        """Whether a yes read off the clock at `now` still comes in time.

        A session known to be missing is asked about too: its guests run on until `stop_at`, so that they can be
        joined anew, but nothing starts under it.
        """
        return not self.lost and now < self.stop_at(timing)


GREATEST_STEP = 100_000_000
"""Revisions that no cluster makes between two heartbeats; the `--bump-revision` of a restore is told to add more."""


def history_replaced(*, seen: int, revision: int) -> bool:
    """Whether etcd was restored from a backup, or emptied: by its answer, at `revision`, to what was sent once `seen`
    was known (0 if nothing was).

    Within one history, an answer to what is sent later is of the same revision or a later one.
    """
    return revision < seen or 0 < seen < revision - GREATEST_STEP


def session_id(kind: SessionKind, random_id: str, /) -> str:
    """An id that was never used before and says which program keeps the session: `agent-3f09…`.

    A restarted agent carries on with what earlier agents of its boot have held, and with nothing of anybody else.
    """
    return f"{kind}-{random_id}"


def is_of(kind: SessionKind, ref: SessionRef, /) -> bool:
    """Whether a program of that kind kept the session."""
    return ref.session.startswith(f"{kind}-")


class Neighbour(StrEnum):
    """Who a living session key under our own host id is."""

    SIBLING = "sibling"
    """Another program on this very boot of this very machine."""
    EARLIER_BOOT = "earlier boot"
    """This machine before its reset, or a second machine: only time tells."""


def judge_neighbour(mine: Machine, other: SessionRecord, /) -> Neighbour:
    """Boot ids are random: an equal one means one kernel, whatever the rest says."""
    return Neighbour.SIBLING if other.machine.boot == mine.boot else Neighbour.EARLIER_BOOT


def duplicate_host(other: SessionRecord, /, *, waited_seconds: float) -> DuplicateHost:
    """The refusal to join beside a living session of another machine, or of a boot that has not ended."""
    return DuplicateHost(
        f"host id {other.ref.host!r} is in use: session {other.ref.session} ({other.kind}, since {other.since}) at "
        f"{other.address or 'an unknown address'} still lives after {waited_seconds:.1f} s and is not of this boot",
        hint="give every host its own host_id; two machines with one id would share its fate",
    )


def ended_by_reboot(mine: Machine, record: DomainRecord, /, *, host: str) -> bool:
    """Whether our being here proves that the record's owner runs no more: same host, same machine, another boot.

    A machine that cannot tell what it is (an empty digest) proves nothing.
    """
    same_machine = bool(mine.machine) and record.machine.machine == mine.machine
    return record.owner.host == host and same_machine and record.machine.boot != mine.boot


@dataclass(frozen=True, slots=True)
class Contract:
    """What all sessions of a cluster have agreed on; written once, by the first one."""

    timing: Timing
    disk_identity: str = "path"
    readonly_disks: str = "none"
    takeover_needs: str = "silence"
    local_folders: tuple[str, ...] = ()
    identity_rules: int = 0
    """Under `auto` the version of its rules: other rules give other names."""
    on_session_lost: Action = Action.KILL
    """What is done first with the guests of hosts that say nothing of their own."""
    backing_chain: str = "none"

    def as_mapping(self) -> dict[str, object]:
        """As it is written into etcd."""
        return {
            "timing": self.timing.as_mapping(),
            "disk_identity": self.disk_identity,
            "readonly_disks": self.readonly_disks,
            "takeover_needs": self.takeover_needs,
            "local_folders": list(self.local_folders),
            **({"identity_rules": self.identity_rules} if self.identity_rules else {}),
            **({"on_session_lost": str(self.on_session_lost)} if self.on_session_lost is not Action.KILL else {}),
            **({"backing_chain": self.backing_chain} if self.backing_chain != "none" else {}),
        }


def check_contract(mine: Contract, agreed: Mapping[str, object], /, *, key: str) -> None:
    """Refuse to join under other rules than the cluster's; names every difference with both values."""
    ours, theirs = _flat(mine.as_mapping()), _flat(agreed)
    differing = [
        f"{_SETTINGS.get(name, name)}: here {ours.get(name)}, cluster {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise ContractMismatch(
            f"this host's settings differ from the cluster's ({key}): " + "; ".join(differing),
            hint="use the cluster's values here; to change the cluster, end every session of it and delete that key",
        )


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    timing = values.get("timing")
    rules = {name: value for name, value in values.items() if name not in ("timing", "v")}
    return {**_UNSAID, **(timing if isinstance(timing, dict) else {}), **rules}


_UNSAID: Mapping[str, object] = {"local_folders": [], "on_session_lost": str(Action.KILL), "backing_chain": "none"}
"""What a contract means that was written before there was such a rule."""

_SETTINGS: Mapping[str, str] = {"on_session_lost": "cluster_on_session_lost"}
"""Which setting a rule is, where it has another name: people mend settings."""
