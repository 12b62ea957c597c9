"""What an agent can tell of itself and its cluster, and an operator's word that it passes on. It changes no lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from etcdlock.agent.breaking import Broken, declare_dead
from etcdlock.agent.context import Context
from etcdlock.agent.endings import End
from etcdlock.agent.host import HostAgent
from etcdlock.agent.residents import Resident
from etcdlock.documents import domain_document, resource_document
from etcdlock.keyspace import Keyspace
from etcdlock.ports import Snapshot
from etcdlock.timing import Timing


class View:
    """`endpoint` says which of etcd's is in use; `place` where this program runs, as far as it cannot tell itself;
    `record` reads what happened on this host."""

    def __init__(
        self,
        agent: HostAgent,
        context: Context,
        /,
        *,
        name: str,
        endpoint: Callable[[], str],
        answer_seconds: float,
        place: Mapping[str, object] | None = None,
        record: Callable[[], tuple[list[dict[str, Any]], str | None]] = lambda: ([], None),
    ) -> None:
        self._agent = agent
        self._context = context
        self._endpoint = endpoint
        self._answer_seconds = answer_seconds
        self._place = place or {}
        self.record = record
        self.name = name

    @property
    def host(self) -> str:
        """Who this host is in the cluster."""
        return self._context.host

    @property
    def keys(self) -> Keyspace:
        """Where the cluster's keys lie."""
        return self._context.keys

    @property
    def takeover_needs(self) -> str:
        """The cluster's rule, which is this host's: it could not have joined otherwise."""
        return self._context.contract.takeover_needs

    @property
    def timing(self) -> Timing:
        """The cluster's."""
        return self._context.timing

    async def snapshot(self) -> Snapshot:
        """The cluster's keys at one revision."""
        return await self._context.store.read(self.keys.everything)

    async def declare_dead(self, target: str, /, *, by: str, reason: str) -> Broken:
        """As `breaking.declare_dead`."""
        until = self._context.clock.now() + self._answer_seconds
        return await declare_dead(self._context, target, by=by, reason=reason, until=until)

    def end_of(self, uuid: UUID, pid: int, /) -> End:
        """How a guest of this host ended."""
        return self._agent.endings.find(uuid, pid)

    def describe_agent(self, *, with_guests: bool = True) -> dict[str, Any]:
        """Its session, how long its guests have if no further heartbeat commits, and the guests."""
        member, context = self._agent.member, self._context
        return {
            "host": context.host,
            "cluster": self.name,
            "prefix": context.keys.prefix,
            "contract": context.contract.as_mapping(),
            "endpoints": [],
            "pid": os.getpid(),
            "pid_namespace": None,
            **self._place,
            "version": context.version,
            "mode": "shadow" if context.is_shadow else "enforce",
            **self._session_document(),
            "last_failure": member.last_failure or None,
            "endpoint": self._endpoint(),
            "ready": self._agent.ready.is_set(),
            "guests": [self._guest_document(resident) for resident in self._agent.residents] if with_guests else None,
        }

    def _session_document(self) -> dict[str, Any]:
        """In shadow mode the agent answers before it has one."""
        member, context = self._agent.member, self._context
        if not member.has_joined:
            return {"session": None, "phase": "joining", "seconds_to_stop": None}
        return {
            "session": member.session.ref.session,
            "phase": member.phase,
            "seconds_to_stop": round(member.session.stop_at(context.timing) - context.clock.now(), 3),
        }

    def _guest_document(self, resident: Resident, /) -> dict[str, Any]:
        holding = self._agent.ledger.holding(resident.uuid)
        stored = holding.stored if holding is not None else None
        return {
            "domain": domain_document(resident.owner.domain),
            "pid": resident.owner.pid,
            "gone": resident.gone,
            "arrives": resident.arrives,
            "state": stored.record.state if stored else None,
            "token": stored.token if stored else None,
            "resources": [resource_document(item) for item in stored.record.resources] if stored else [],
        }
