"""Which members etcd itself says it has, for people who look for a fault.

Asked over a connection of its own, without a user: an etcd that shows its members only to users says nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio

from etcdlock.adapters import stubs as etcd3_stubs
from etcdlock.adapters.etcd_options import EtcdOptions, read_credentials


@dataclass(frozen=True, slots=True)
class Member:
    """One member of etcd's own cluster; `name` is empty for one that was added and never started."""

    id: int
    name: str
    client_urls: tuple[str, ...]


async def list_members(options: EtcdOptions, /, *, endpoint: str) -> tuple[Member, ...] | None:
    """The members as one endpoint names them; None where it does not tell."""
    stubs, credentials = etcd3_stubs.load(), read_credentials(options)
    settings = (("grpc.enable_http_proxy", 0),)
    channel = (
        grpc.aio.secure_channel(endpoint, credentials, options=settings)
        if credentials
        else grpc.aio.insecure_channel(endpoint, options=settings)
    )
    async with channel:
        try:
            call = stubs.services.ClusterStub(channel).MemberList
            answer = await call(stubs.messages.MemberListRequest(), timeout=options.try_timeout_seconds)
        except grpc.aio.AioRpcError:
            return None
    return tuple(Member(found.ID, found.name, tuple(found.clientURLs)) for found in answer.members)
