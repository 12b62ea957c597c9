"""The words of etcdlock as frozen records. They hold no rule and reach nothing.

Instants named `since` and `when` are other hosts' wall clocks in ISO 8601, for people to read; nothing compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from etcdlock.escalation import Action


class Mode(StrEnum):
    """How a resource is held."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    READ_ONLY = "read-only"


class LockState(StrEnum):
    """A domain's lock: HELD, its guest may run; PARKED, it was stopped, and nobody has asked to let it run since."""

    HELD = "held"
    PARKED = "parked"


class Proof(StrEnum):
    """Why we know that nothing of a session runs any more."""

    SILENCE = "silence"
    REBOOT = "reboot"
    LEFT = "left"
    FENCE_AGENT = "fence agent"
    OPERATOR = "operator"


class SessionKind(StrEnum):
    """Which program keeps the session."""

    AGENT = "agent"
    DRIVER = "driver"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class DomainId:
    """A virtual machine: its UUID, and its name for people."""

    uuid: UUID
    name: str

    def __str__(self) -> str:
        return self.name or str(self.uuid)


@dataclass(frozen=True, slots=True)
class Owner:
    """A guest as those who start it name it: its domain, and the pid of its process on this host."""

    domain: DomainId
    pid: int

    def __str__(self) -> str:
        return f"{self.domain} (process {self.pid})"


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """A thing locked. Lockspace and name identify it on every host; `path` is what its owner calls it."""

    lockspace: str
    name: str
    mode: Mode
    path: str

    def __str__(self) -> str:
        return self.path or f"{self.lockspace}:{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class SessionRef:
    """One session of one host; a session id is used once and never again."""

    host: str
    session: str

    def __str__(self) -> str:
        return f"{self.host}/{self.session}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What tells one boot of one machine from all others.

    `boot` is /proc/sys/kernel/random/boot_id; `machine` a digest of machine-id and DMI product UUID.
    """

    boot: str
    machine: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """The value of a session's key. `ttl_seconds` is what etcd granted its lease, which may be more than was asked for;
    0 where that was not written.
    """

    ref: SessionRef
    machine: Machine
    kind: SessionKind
    version: str
    address: str
    since: str
    ttl_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Handover:
    """Whom an owner has something from: the domain that had it and its token then, its session, and why it may have it.

    `why` is a `Proof`, or "migration". `when`: of that proof, or the claim, by the clock of the host that wrote it.
    """

    domain: DomainId
    owner: SessionRef
    token: int
    why: str
    when: str


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A domain's lock.

    `request` is the random id of the transition that wrote the record. `token` is None in the record that the token's
    own transition wrote: there it is the key's `mod_revision`. pid and pid_start are 0 while no process is known.

    `run` is the `request` of the transition that last let a guest run, whatever has been written since: what a guest of
    another run has in memory is out of date. `on_session_lost` is the guest's own choice, where its starter
    has made one. `taken_over` are the resources that others took out of this record with a
    proof: a guest that held them does not run on. `history` is how it came here, the latest last, for people; it
    decides nothing. Records of earlier versions have none of these.
    """

    domain: DomainId
    owner: SessionRef
    machine: Machine
    state: LockState
    pid: int
    pid_start: int
    resources: tuple[Resource, ...]
    request: str
    token: int | None
    since: str
    run: str = ""
    on_session_lost: Action | None = None
    taken_over: tuple[Resource, ...] = ()
    history: tuple[Handover, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredDomain:
    """A domain record together with the revision that last wrote it."""

    record: DomainRecord
    mod_revision: int

    @property
    def token(self) -> int:
        """The fencing token of this ownership."""
        return self.mod_revision if self.record.token is None else self.record.token


@dataclass(frozen=True, slots=True)
class ResourceRecord:
    """The value of a resource's key: whose it is, and the full text of what the key may only hold as a digest."""

    domain: DomainId
    resource: Resource


@dataclass(frozen=True, slots=True)
class StoredResource:
    """A resource record together with the revision that last wrote it."""

    record: ResourceRecord
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Obituary:
    """Proof, kept in etcd, that nothing of a session runs any more."""

    dead: SessionRef
    proof: Proof
    by: str
    reason: str
    when: str


class FencingState(StrEnum):
    """What is known of an attempt to fence a host."""

    UNDER_WAY = "under way"
    """Or whoever made it has died meanwhile."""
    FAILED = "failed"
    """Nobody has confirmed that the host is off; it may be."""
    OFF = "off"
    """A fence agent has confirmed it."""


@dataclass(frozen=True, slots=True)
class Fencing:
    """The latest attempt to fence a host, kept in etcd: who makes it, why, and what came of it.

    `sessions` are the ids of the host's sessions that it is about; `attempt` counts the attempts for the same ones.
    `claimant` is the session of the agent that makes it, None if an operator does.
    """

    host: str
    sessions: tuple[str, ...]
    by: str
    reason: str
    attempt: int
    state: FencingState
    detail: str
    when: str
    claimant: SessionRef | None = None


@dataclass(frozen=True, slots=True)
class StoredFencing:
    """A fencing record together with the revision that last wrote it."""

    record: Fencing
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Blocker:
    """One reason for a refusal. `resource` is None where the domain itself is held.

    `owner` and what follows are None where the record that would tell could not be read in time.
    """

    domain: DomainId
    resource: Resource | None
    owner: SessionRef | None = None
    state: LockState | None = None
    since: str | None = None
    token: int | None = None
    alive: bool | None = None
    proof: Proof | None = None
