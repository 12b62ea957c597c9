"""What callers send and are sent, as the OpenAPI document shows it; checked before anything is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from etcdlock.api.answers import Outcome
from etcdlock.api.behind import Identify
from etcdlock.errors import InvalidInput
from etcdlock.escalation import Action
from etcdlock.identity import QCOW2, Chain, Link, Named, distinct, layer_mode
from etcdlock.model import DomainId, LockState, Mode, Owner, Resource, StoredDomain

LONGEST_TEXT = 4096
MOST_RESOURCES = 1000


def _real(uuid: UUID) -> UUID:
    """All zeros or all ones: many definitions have it, and two guests would be one."""
    if len(set(uuid.bytes)) < 2:
        raise ValueError("a placeholder is no domain's UUID")
    return uuid


DomainUuid = Annotated[UUID, AfterValidator(_real), Path(description="the domain's UUID")]
Text = Annotated[str, Field(max_length=LONGEST_TEXT, pattern=r"^[^\x00]*$")]


class Sent(BaseModel):
    """What is not known is refused: it would have meant something to whoever wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WantedResource(Sent):
    """A disk by its `path`, which the agent names by the cluster's rule; or anything by `lockspace` and `name`."""

    path: Text = Field(default="", description="what its owner calls it; absolute, if it is what names the disk")
    mode: Mode = Field(default=Mode.EXCLUSIVE, description="read-only ones take no lock, unless the cluster says so")
    format: Literal["raw", "qcow2"] = Field(
        default="raw", description="of `qcow2` the cluster may lock the backing chain"
    )
    lockspace: Text = Field(default="", description="together with `name`: what is locked, the same on every host")
    name: Text = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """What must be named: its path, if that is what names it. Raises `InvalidInput`."""
        if self.name or self.lockspace:
            return ()
        if not self.path.startswith("/"):
            raise InvalidInput(f"a resource named by its path needs an absolute one, not {self.path!r}")
        return (self.path,)

    @property
    def link(self) -> Link | None:
        """What may lie on others, and is looked into if the cluster locks these. Raises `InvalidInput`."""
        return Link(self.path) if self.format == QCOW2 and self.paths else None

    def named(self, identify: Identify, /) -> Named:
        """Raises `InvalidInput`."""
        if bool(self.lockspace) != bool(self.name):
            raise InvalidInput("a resource has both a lockspace and a name, or is named by its path")
        if self.name:
            return Named(str(self), Resource(self.lockspace, self.name, self.mode, self.path))
        called = identify(self.path)
        return Named(self.path, Resource(called.lockspace, called.name, self.mode, self.path), disk=self.path)

    def layers(self, chains: Mapping[Link, Chain], /) -> tuple[str, ...]:
        """What was found below it."""
        link = self.link
        return () if link is None or link not in chains else chains[link].layers

    def below(self, path: str, identify: Identify, /) -> Named:
        """An image of its chain."""
        called = identify(path)
        lower = Resource(called.lockspace, called.name, layer_mode(self.mode), path)
        return Named(f"{self.path} (backing {path})", lower, disk=self.path, is_backing=True)


class Wanted(Sent):
    """Resources, by themselves."""

    resources: tuple[WantedResource, ...] = Field(default=(), max_length=MOST_RESOURCES)

    def paths(self, chains: Mapping[Link, Chain], /) -> tuple[str, ...]:
        """All that must be named. Raises `InvalidInput`."""
        below = (path for one in self.resources for path in one.layers(chains))
        return (*(path for one in self.resources for path in one.paths), *below)

    def all_named(self, identify: Identify, /, *, chains: Mapping[Link, Chain]) -> list[Named]:
        """Each, repetitions included, and what lies below. Raises `InvalidInput`."""
        wanted = [one.named(identify) for one in self.resources]
        wanted += (one.below(path, identify) for one in self.resources for path in one.layers(chains))
        return wanted


class WantedLocks(Wanted):
    """A guest of this host, by the pid of its process, and all that it needs."""

    name: Annotated[str, Field(max_length=255)] = Field(default="", description="the domain's name, for people")
    pid: int = Field(ge=1, le=2**31 - 1, description="of its process on this host, which must exist")

    def owner(self, uuid: UUID, /) -> Owner:
        """The guest."""
        return Owner(DomainId(uuid, self.name), self.pid)

    def named(self, identify: Identify, /, *, chains: Mapping[Link, Chain]) -> tuple[Resource, ...]:
        """Each once, and what lies below. Raises `InvalidInput`."""
        return distinct(self.all_named(identify, chains=chains))


class StartLocks(WantedLocks):
    """The same for a guest that begins here."""

    on_session_lost: Action | None = Field(
        default=None, description="what is done first with it if the session is lost; without it, as its host says"
    )


class IncomingLocks(WantedLocks):
    """The same for a guest that migrates in."""

    run: Text = Field(
        default="", description="as the source's `park` or `prepare` says; without it, the run at the first such call"
    )


class ReservedDomain(Sent):
    """All disks and leases of a domain; the domain itself is not locked."""

    xml: str = Field(description="libvirt's domain XML")
    readonly: bool = Field(default=False, description="they are only read: all shared")


class ReservedLocks(Wanted):
    """What a process that is no guest needs. `pid` is its own, if it is not the caller's."""

    name: Annotated[str, Field(max_length=255)] = Field(default="", description="what it is for, for people")
    pid: int = Field(default=0, ge=0, le=2**31 - 1, description="of a process on this host; 0: of the caller")
    domains: tuple[ReservedDomain, ...] = Field(default=(), max_length=MOST_RESOURCES)

    def owner(self, uuid: UUID, /, *, caller: int) -> Owner:
        """The process."""
        return Owner(DomainId(uuid, self.name), self.pid or caller)


class Stopped(Sent):
    """Said aloud, since another host may run the guest for it: its vCPUs do not run any more."""

    vcpus_stopped: Literal[True] = Field(description="true; they run again only after a yes to `unpark` or `cancel`")


class Confirmation(Sent):
    """That a host is off, and how that is known. Etcdlock cannot check it."""

    confirmed_by: Text = Field(description="who has verified it")
    reason: Text = Field(description="how that is known, for the record")
    session: Text = Field(default="", description="only this one of the host's sessions")


class Shown(BaseModel):
    """What is answered."""

    model_config = ConfigDict(frozen=True)


class Domain(Shown):
    """A virtual machine."""

    uuid: UUID
    name: str


class LockedResource(Shown):
    """A thing locked."""

    path: str
    lockspace: str
    name: str
    mode: Mode


class Lock(Shown):
    """A domain's lock as it stands. If nobody is known to have it, all but `domain` and `held` is null or empty."""

    domain: Domain
    held: bool = Field(description="whether this host has it")
    host: str | None = None
    session: str | None = None
    state: LockState | None = None
    run: str | None = Field(default=None, description="changes each time the guest is let run")
    token: int | None = Field(default=None, description="fencing token: grows with every change of owner")
    pid: int | None = None
    since: str | None = None
    resources: tuple[LockedResource, ...] = ()

    @classmethod
    def of(cls, uuid: UUID, stored: StoredDomain | None, /, *, host: str) -> Lock:
        """As this host sees it."""
        if stored is None:
            return cls(domain=Domain(uuid=uuid, name=""), held=False)
        record = stored.record
        return cls(
            domain=Domain(uuid=uuid, name=record.domain.name),
            held=record.owner.host == host,
            host=record.owner.host,
            session=record.owner.session,
            state=record.state,
            run=record.run or None,
            token=stored.token,
            pid=record.pid or None,
            since=record.since,
            resources=tuple(
                LockedResource(path=item.path, lockspace=item.lockspace, name=item.name, mode=item.mode)
                for item in record.resources
            ),
        )


class Failure(Shown):
    """Any other answer than a success."""

    error: str = Field(description="its class")
    message: str
    hint: str = Field(description="what to do next, if there is something to do")
    outcome: Outcome
    blockers: list[dict[str, object]] = Field(description="with HeldElsewhere: everything that is in the way")
