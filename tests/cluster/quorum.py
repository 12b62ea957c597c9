"""The three members of etcd together, and what an operator does with them, past everything of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

import grpc

from etcdlock.adapters import stubs
from tests.cluster.member import Member
from tests.cluster.network import Network
from tests.libvirt.waiting import wait_until

_T = TypeVar("_T")

MEMBERS: Final = ("etcd1", "etcd2", "etcd3")
_CALL_SECONDS: Final = 3.0
_READY_SECONDS: Final = 40.0
_ATTEMPT_EVERY_SECONDS: Final = 0.2
_FILLER: Final = "/filler"
_FILLER_BYTES: Final = 2**20


class Quorum:
    """Members that run. `binary` is the etcd to run."""

    def __init__(self, network: Network, *, binary: str, folder: Path) -> None:
        peers = {name: network.address(name) for name in MEMBERS}
        self._messages, self._services = stubs.load().messages, stubs.load().services
        with ExitStack() as undo:
            self.members: dict[str, Member] = {}
            for name in MEMBERS:
                member = Member(name, binary=binary, network=network, peers=peers, folder=folder)
                undo.callback(member.close)
                self.members[name] = member
            for member in self.members.values():
                member.start()
            self.wait_until_healthy()
            self._undo = undo.pop_all()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of all members, for clients."""
        return tuple(member.endpoint for member in self.members.values())

    def close(self) -> None:
        """All of it is gone on return."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is so ------------------------------------------------------------------------------------------------

    def leader(self) -> str:
        """The name of the leader. Waits until there is one that a majority knows."""
        found: list[str] = []
        wait_until(lambda: self._found_leader(found), what="etcd has a leader", within_seconds=_READY_SECONDS)
        return found[-1]

    def followers(self) -> list[str]:
        """The names of the others."""
        leader = self.leader()
        return [name for name in self.members if name != leader]

    def wait_until_healthy(self) -> None:
        """Every member knows the leader and has caught up enough to answer reads of its own."""
        for member in self.members.values():
            wait_until(
                lambda endpoint=member.endpoint: self._answers(endpoint),  # type: ignore[misc]
                what=f"{member.name} is healthy",
                within_seconds=_READY_SECONDS,
            )

    # --- what is done ----------------------------------------------------------------------------------------------

    def move_leader(self) -> str:
        """To another member, whose name it returns; one that has just come back may not be able to take it at once."""
        return self._insist(self._move_leader)

    def remove(self, name: str, /) -> None:
        """Out of the cluster, with its data, as a machine that has burnt."""
        self.members[name].kill()
        witness = next(each for each in self.members if each != name)
        self._insist(lambda: self._call(witness, "Cluster", "MemberRemove", ID=self._ids()[name]))
        self.members[name].wipe()

    def add(self, name: str, /) -> None:
        """Into the cluster, with nothing. It has what the others have on return, and no more room than they use."""
        witness = next(each for each in self.members if each != name)
        member = self.members[name]
        self._insist(lambda: self._call(witness, "Cluster", "MemberAdd", peerURLs=[member.peer_url]))
        member.start(joins=True)
        self.wait_until_healthy()
        self._insist(lambda: self._call(name, "Maintenance", "Defragment"))

    def fill(self) -> None:
        """Until etcd says that it has no space any more."""
        value = bytes(_FILLER_BYTES)
        with suppress(grpc.RpcError):
            while True:
                key = f"{_FILLER}/{uuid4()}".encode()
                self._call(self.leader(), "KV", "Put", "PutRequest", key=key, value=value)

    def drain(self) -> None:
        """As an operator does then: delete, compact, defragment, disarm."""
        first, last = f"{_FILLER}/".encode(), f"{_FILLER}0".encode()
        self._insist(lambda: self._call(self.leader(), "KV", "DeleteRange", key=first, range_end=last))
        revision = self._insist(lambda: self._call(self.leader(), "KV", "Range", key=b"/").header.revision)
        with suppress(grpc.RpcError):       # done before, with the answer lost
            self._call(self.leader(), "KV", "Compact", "CompactionRequest", revision=revision, physical=True)
        for name in self.members:
            self._insist(lambda each=name: self._call(each, "Maintenance", "Defragment"))  # type: ignore[misc]
        for alarm in self._insist(lambda: self._alarms(action="GET").alarms):
            self._insist(
                lambda each=alarm: self._alarms(action="DEACTIVATE", memberID=each.memberID, alarm=each.alarm)  # type: ignore[misc]
            )

    def revoke_under(self, prefix: str, /) -> None:
        """The leases of all keys under a prefix."""
        last = f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}".encode()
        found = self._insist(lambda: self._call(self.leader(), "KV", "Range", key=prefix.encode(), range_end=last))
        for item in found.kvs:
            with suppress(grpc.RpcError):       # it has run out meanwhile
                self._call(self.leader(), "Lease", "LeaseRevoke", ID=item.lease)

    def heal(self) -> None:
        """Every member runs and is well."""
        for member in self.members.values():
            member.heal()
        self.wait_until_healthy()

    # --- parts -----------------------------------------------------------------------------------------------------

    def _move_leader(self) -> str:
        before, target = self.leader(), self.followers()[0]
        self._call(before, "Maintenance", "MoveLeader", targetID=self._ids()[target])
        return target

    def _found_leader(self, found: list[str]) -> bool:
        votes: dict[int, int] = {}
        ids: dict[int, str] = {}
        for name in self.members:
            with suppress(grpc.RpcError):
                status = self._call(name, "Maintenance", "Status", seconds=0.5)
                ids[status.header.member_id] = name
                votes[status.leader] = votes.get(status.leader, 0) + 1
        found.extend(ids[each] for each, count in votes.items() if count * 2 > len(self.members) and each in ids)
        return bool(found)

    def _answers(self, endpoint: str) -> bool:
        name = next(member.name for member in self.members.values() if member.endpoint == endpoint)
        with suppress(grpc.RpcError):
            self._call(name, "KV", "Range", key=b"/", seconds=1.0)
            return True
        return False

    def _ids(self) -> dict[str, int]:
        listed: Any = self._insist(lambda: self._call(self.leader(), "Cluster", "MemberList"))
        by_url = {url: each.ID for each in listed.members for url in each.peerURLs}
        return {name: by_url[member.peer_url] for name, member in self.members.items() if member.peer_url in by_url}

    def _alarms(self, *, action: str, **fields: Any) -> Any:
        number = self._messages.AlarmRequest.AlarmAction.Value(action)
        return self._call(self.leader(), "Maintenance", "Alarm", action=number, **fields)

    def _insist(self, call: Callable[[], _T]) -> _T:
        """What is refused for the moment, as in an election or while members find each other, is asked again."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                return call()
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ATTEMPT_EVERY_SECONDS)

    def _call(
        self,
        name: str,
        service: str,
        method: str,
        request: str = "",
        *,
        seconds: float = _CALL_SECONDS,
        **fields: object,
    ) -> Any:
        """One call to one member. Raises `grpc.RpcError`."""
        message = getattr(self._messages, request or f"{method}Request")(**fields)
        with grpc.insecure_channel(self.members[name].endpoint) as channel:
            return getattr(getattr(self._services, f"{service}Stub")(channel), method)(message, timeout=seconds)
