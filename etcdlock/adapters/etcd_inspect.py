"""What each endpoint of etcd says of itself, for people who look for a fault.

All endpoints are asked at once and each answers for itself; the answers are not of one instant.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from etcdlock.adapters.etcd_call import Caller, Metadata
from etcdlock.adapters.etcd_channel import EndpointFailed, Link
from etcdlock.adapters.stubs import Stubs
from etcdlock.errors import EtcdlockError, Refused


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One endpoint. `error` says why it could not be reached; then the rest is empty.

    `alarms` are those of this member, for instance NOSPACE; None where etcd does not show them to this user.
    """

    endpoint: str
    reachable: bool
    error: str = ""
    version: str = ""
    member_id: int = 0
    is_leader: bool = False
    db_size_bytes: int = 0
    latency_seconds: float = 0.0
    alarms: tuple[str, ...] | None = None


async def inspect(endpoints: tuple[str, ...], /, *, caller: Caller, stubs: Stubs) -> tuple[EndpointReport, ...]:
    return tuple(await asyncio.gather(*(_report(endpoint, caller=caller, stubs=stubs) for endpoint in endpoints)))


async def _report(endpoint: str, *, caller: Caller, stubs: Stubs) -> EndpointReport:
    async def ask_status(link: Link, metadata: Metadata, timeout_seconds: float) -> tuple[Any, float]:
        sent_at = time.perf_counter()
        request = stubs.messages.StatusRequest()
        status = await link.maintenance.Status(request, timeout=timeout_seconds, metadata=metadata)
        return status, time.perf_counter() - sent_at

    try:
        status, latency_seconds = await caller.call_at(endpoint, send=ask_status, once=False)
        alarms = await _alarms(endpoint, member_id=status.header.member_id, caller=caller, stubs=stubs)
    except (EndpointFailed, EtcdlockError) as error:
        return EndpointReport(endpoint, reachable=False, error=str(error))
    return EndpointReport(
        endpoint,
        reachable=True,
        version=status.version,
        member_id=status.header.member_id,
        is_leader=status.leader == status.header.member_id,
        db_size_bytes=status.dbSize,
        latency_seconds=latency_seconds,
        alarms=alarms,
    )


async def _alarms(endpoint: str, *, member_id: int, caller: Caller, stubs: Stubs) -> tuple[str, ...] | None:
    messages = stubs.messages

    async def ask_alarms(link: Link, metadata: Metadata, timeout_seconds: float) -> Any:
        request = messages.AlarmRequest(action="GET")
        return await link.maintenance.Alarm(request, timeout=timeout_seconds, metadata=metadata)

    try:
        response = await caller.call_at(endpoint, send=ask_alarms, once=False)
    except Refused:
        return None
    return tuple(messages.AlarmType.Name(item.alarm) for item in response.alarms if item.memberID == member_id)
