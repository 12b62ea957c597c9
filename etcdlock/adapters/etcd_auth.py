"""etcd's users and roles, as its administrator sees and changes them.

Each call is one RPC. A change whose answer is lost raises `OutcomeUnknown`; looking again tells what was done. Nothing
here is ever taken away or overwritten.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from etcdlock.adapters.etcd_call import Caller, Metadata
from etcdlock.adapters.etcd_channel import Link
from etcdlock.adapters.etcd_convert import bounds, key_bytes, key_text
from etcdlock.adapters.etcd_errors import Meaning, meaning_of
from etcdlock.adapters.etcd_options import EtcdOptions
from etcdlock.adapters.stubs import load
from etcdlock.ports import KeyRange

Entry = tuple[str, str, str]
"""A role's first key, the end of its range or nothing, and etcd's name for the right."""


class AuthDesk:
    """etcd's side of users and roles."""

    def __init__(self, options: EtcdOptions, /) -> None:
        self._stubs = load()
        self._messages: Any = self._stubs.messages
        self._caller = Caller(options, stubs=self._stubs)

    async def close(self) -> None:
        await self._caller.ring.close()

    async def is_on(self) -> bool:
        """Whether etcd asks who somebody is: found out by an answer to somebody whom it cannot know."""
        request = self._messages.AuthenticateRequest(name=secrets.token_hex(), password=secrets.token_hex())

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> bool:
            del metadata
            try:
                await link.auth.Authenticate(request, timeout=timeout_seconds)
            except grpc.aio.AioRpcError as error:
                meaning = meaning_of(link.answer(error))
                if meaning not in (Meaning.AUTH_DISABLED, Meaning.DENIED):
                    raise
                return meaning is Meaning.DENIED
            return True

        return await self._caller.call(send, once=False)

    async def roles(self) -> dict[str, frozenset[Entry]]:
        """Every role with its rights."""
        listed = await self._ask("RoleList")
        return {name: await self._role(name) for name in listed.roles}

    async def users(self) -> dict[str, frozenset[str]]:
        """Every user with its roles."""
        listed = await self._ask("UserList")
        return {name: frozenset((await self._ask("UserGet", name=name)).roles) for name in listed.users}

    async def add_role(self, name: str, /) -> None:
        await self._change("RoleAdd", name=name)

    async def grant(self, role: str, /, *, first: str, end: str, right: str) -> None:
        perm = {"key": key_bytes(first), "range_end": key_bytes(end), "permType": right}
        await self._change("RoleGrantPermission", name=role, perm=perm)

    async def add_user(self, name: str, /, *, password: str) -> None:
        await self._change("UserAdd", name=name, password=password)

    async def give_role(self, user: str, /, *, role: str) -> None:
        await self._change("UserGrantRole", user=user, role=role)

    async def enable(self) -> None:
        """From here on etcd asks everybody who they are."""
        await self._change("AuthEnable")

    async def count(self, where: KeyRange, /) -> int:
        """How many keys there are."""
        request = self._messages.RangeRequest(**bounds(where), count_only=True)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> int:
            return int((await link.kv.Range(request, timeout=timeout_seconds, metadata=metadata)).count)

        return await self._caller.call(send, once=False)

    async def _role(self, name: str) -> frozenset[Entry]:
        granted = (await self._ask("RoleGet", role=name)).perm
        return frozenset(
            (key_text(one.key), key_text(one.range_end), type(one).Type.Name(one.permType)) for one in granted
        )

    async def _ask(self, method: str, **fields: Any) -> Any:
        return await self._call(method, once=False, **fields)

    async def _change(self, method: str, **fields: Any) -> None:
        await self._call(method, once=True, **fields)

    async def _call(self, method: str, *, once: bool, **fields: Any) -> Any:
        name = method if method.startswith("Auth") else f"Auth{method}"
        request = getattr(self._messages, f"{name}Request")(**fields)

        async def send(link: Link, metadata: Metadata, timeout_seconds: float) -> Any:
            return await getattr(link.auth, method)(request, timeout=timeout_seconds, metadata=metadata)

        return await self._caller.call(send, once=once)


@asynccontextmanager
async def auth_desk(options: EtcdOptions, /) -> AsyncIterator[AuthDesk]:
    """Opened, and closed at the end."""
    desk = AuthDesk(options)
    try:
        yield desk
    finally:
        await desk.close()
