"""A client of the agent's API for programs of this host: one call, one connection, one answer. Standard library only.

Guaranteed: a refusal comes back as the error that it was there, with everything that is in the way. Where an answer to
a change was lost it is `OutcomeUnknown`: the same call, repeated, is a success if it was done. `Unreachable` says that
nothing was sent, or that only a look was lost; `NoAgent`, that nobody listens.

It waits, and so belongs in no event loop. Documents come back as docs/API.md describes them.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from etcdlock.api.answers import error_in
from etcdlock.documents import Document
from etcdlock.errors import NoAgent, NotPermitted, OutcomeUnknown, Unreachable
from etcdlock.escalation import Action
from etcdlock.model import Mode, Owner, Resource
from etcdlock.ports import KeyValue, Snapshot

DEFAULT_SOCKET = "/run/etcdlock/agent.sock"
NOBODY = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)
"""What the kernel says where nobody listens; anything else may be an agent that does not get round to it."""
_OK = 200


class AgentClient:
    """`timeout_seconds` should be longer than the agent's own bound (`acquire_seconds`, 10 s)."""

    def __init__(self, path: str = DEFAULT_SOCKET, /, *, timeout_seconds: float = 30.0) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds

    # --- locks -----------------------------------------------------------------------------------------------------

    def acquire(
        self, owner: Owner, resources: Iterable[Resource], /, *, on_session_lost: Action | None = None
    ) -> Document:
        """Lock the domain and all of these for a guest that does not run yet, which may choose for itself."""
        choice = {"on_session_lost": on_session_lost} if on_session_lost else {}
        return self._change(owner.domain.uuid, "acquire", _wanted(owner, resources) | choice)

    def attach(self, owner: Owner, resources: Iterable[Resource], /) -> Document:
        """The same for a guest that runs already."""
        return self._change(owner.domain.uuid, "attach", _wanted(owner, resources))

    def release(self, uuid: UUID, /) -> Document:
        """Make sure that all is given back of a guest whose process has ended."""
        return self._change(uuid, "release")

    def park(self, uuid: UUID, /) -> Document:
        """The guest's vCPUs have stopped."""
        return self._change(uuid, "park", {"vcpus_stopped": True})

    def unpark(self, uuid: UUID, /) -> Document:
        """The guest's vCPUs are about to run."""
        return self._change(uuid, "unpark")

    def add(self, uuid: UUID, resource: Resource, /) -> Document:
        """One more resource, before the guest opens it."""
        return self._change(uuid, "resources/add", _resource(resource))

    def remove(self, uuid: UUID, resource: Resource, /) -> Document:
        """One resource less, after the guest has closed it."""
        return self._change(uuid, "resources/remove", _resource(resource))

    def find(self, uuid: UUID, /) -> Document:
        """The domain's lock as it stands, whosever it is; `host` is None if nobody's."""
        return self._call("GET", f"/v1/domains/{uuid}")

    def reserve(
        self, owner: Owner, resources: Iterable[Resource], /, *, domains: Iterable[tuple[str, bool]] = ()
    ) -> HeldConnection:
        """Hold these for a process that is no guest, until what comes back is closed.

        `domains`: of each its XML, and whether it is only read.
        """
        wanted = _wanted(owner, resources) | {"domains": [{"xml": xml, "readonly": only} for xml, only in domains]}
        connection = self._connected()
        try:
            document = connection.begin(f"/v1/reservations/{owner.domain.uuid}", wanted)
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise OutcomeUnknown(f"the agent's answer was lost: {error!r}", hint="the connection has ended") from error
        except BaseException:
            connection.close()
            raise
        return HeldConnection(document, connection)

    # --- migrations ------------------------------------------------------------------------------------------------

    def prepare(self, uuid: UUID, /) -> Document:
        """On the source: the vCPUs have stopped."""
        return self._change(uuid, "migration/prepare", {"vcpus_stopped": True})

    def complete(self, uuid: UUID, /) -> Document:
        """On the source: the destination must have the lock."""
        return self._change(uuid, "migration/complete")

    def cancel(self, uuid: UUID, /) -> Document:
        """On the source: the vCPUs are to run on there."""
        return self._change(uuid, "migration/cancel")

    def incoming(self, owner: Owner, resources: Iterable[Resource], /, *, run: str = "") -> Document:
        """On the destination: claim; `run` as the source's `prepare` has answered."""
        return self._change(owner.domain.uuid, "migration/incoming", _wanted(owner, resources) | {"run": run})

    def incoming_complete(self, uuid: UUID, /) -> Document:
        """On the destination: the vCPUs are about to run."""
        return self._change(uuid, "migration/incoming/complete")

    def incoming_cancel(self, uuid: UUID, /) -> Document:
        """On the destination: give it back to the source."""
        return self._change(uuid, "migration/incoming/cancel")

    # --- looks -----------------------------------------------------------------------------------------------------

    def agent(self, *, with_guests: bool = True) -> Document:
        """The agent itself."""
        return self._call("GET", "/v1/agent" if with_guests else "/v1/agent?guests=false")

    def status(self) -> Document:
        """All hosts and locks."""
        return self._call("GET", "/v1/status")

    def hosts(self) -> Document:
        """The hosts and their sessions."""
        return self._call("GET", "/v1/hosts")

    def inquire_domain(self, domain: str, /) -> Document:
        """Who holds a domain, by its UUID or name."""
        return self._call("GET", f"/v1/inquire?{urlencode({'domain': domain})}")

    def inquire_disk(self, path: str, /, *, mode: Mode = Mode.EXCLUSIVE) -> Document:
        """Who stands in the way of a disk."""
        return self._call("GET", f"/v1/inquire?{urlencode({'disk': path, 'mode': mode})}")

    def why(self, what: str, /) -> Document:
        """What happened to a domain, by its name or UUID, or to a host."""
        return self._call("GET", f"/v1/why?{urlencode({'about': what}, errors='surrogateescape')}")

    def events(self, *, kept: bool = False) -> Iterator[Document]:
        """What happens, as it happens, until the agent ends; with `kept` first what it still keeps. Each has `event`,
        `id`, `at`, `level` and `fields`; of `dropped` only the first and `fields`, with how many are missing.

        Connects at once; `timeout_seconds` must be longer than an agent is quiet, 15 s. Raises `Unreachable` if the
        connection is lost.
        """
        connection = self._connected()
        headers = {"Last-Event-ID": "whichever-is-kept"} if kept else {}
        try:
            connection.request("GET", "/v1/events", headers=headers)
            response = connection.getresponse()
            if response.status != _OK:
                raise error_in(_document(response.read()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise Unreachable(f"the agent's answer was lost: {error!r}", hint="ask again") from error
        return _told(connection, response, skips_first=kept)

    def keys(self) -> Snapshot:
        """The cluster's keys at one revision."""
        document = self._call("GET", "/v1/keys")
        return Snapshot(document["revision"], tuple(_key_value(item) for item in document["found"]))

    def end_of(self, uuid: UUID, /, *, pid: int) -> str:
        """How a guest of this host ended: `by itself`, `stopped` or `not known`."""
        return str(self._call("GET", f"/v1/domains/{uuid}/end?pid={pid}")["end"])

    def declare_dead(self, host: str, /, *, confirmed_by: str, reason: str, session: str = "") -> Document:
        """An operator has verified that the host is off."""
        body = {"confirmed_by": confirmed_by, "reason": reason, "session": session}
        return self._call("POST", f"/v1/hosts/{quote(host, errors='surrogateescape')}/break", body)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _change(self, uuid: UUID, what: str, body: Document | None = None, /) -> Document:
        return self._call("POST", f"/v1/domains/{uuid}/{what}", body)

    def _call(self, method: str, target: str, body: Document | None = None, /) -> Document:
        connection = self._connected()
        try:
            status, found = connection.exchange(method, target, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            lost = Unreachable if method == "GET" else OutcomeUnknown
            raise lost(f"the agent's answer was lost: {error!r}", hint="ask again") from error
        finally:
            connection.close()
        if status != _OK:
            raise error_in(found)
        return found


    def _connected(self) -> _Connection:
        connection = _Connection(self._path, timeout_seconds=self._timeout_seconds)
        try:
            connection.connect()
        except PermissionError as error:
            hint = "root may ask, and members of api_group may look"
            raise NotPermitted(f"{self._path}: {error.strerror}", hint=hint) from error
        except OSError as error:
            kind = NoAgent if isinstance(error, NOBODY) else Unreachable
            reason = f"no agent answers at {self._path}: {error.strerror or error}"
            raise kind(reason, hint="see 'systemctl status etcdlock-agent'") from error
        return connection


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: str, /, *, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise

    def exchange(self, method: str, target: str, body: Document | None, /) -> tuple[int, Document]:
        """Status and document. A server that has heard enough may answer before it has read everything."""
        encoded = None if body is None else json.dumps(body).encode()
        headers = {"connection": "close", **({"content-type": "application/json"} if encoded is not None else {})}
        try:
            self.request(method, target, encoded, headers)
        except (BrokenPipeError, ConnectionResetError):
            response = http.client.HTTPResponse(self.sock, method=method)
            response.begin()
        else:
            response = self.getresponse()
        return response.status, _document(response.read())

    def begin(self, target: str, body: Document, /) -> Document:
        """The first line of an answer that has no end. Raises what the agent says."""
        self.request("POST", target, json.dumps(body).encode(), {"content-type": "application/json"})
        response = self.getresponse()
        if response.status != _OK:
            raise error_in(_document(response.read()))
        self._response = response  # which would close the connection with itself
        return _document(response.readline())


@dataclass(frozen=True, slots=True)
class HeldConnection:
    """A reservation, held for as long as the connection is open; `document` is its lock."""

    document: Document
    _connection: _Connection

    def close(self) -> None:
        """Give it back, also where a fork of this process has the connection, too."""
        if self._connection.sock is not None:
            with suppress(OSError):  # the agent has ended it
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _told(connection: _Connection, response: http.client.HTTPResponse, /, *, skips_first: bool) -> Iterator[Document]:
    """Server-sent events as documents. With `skips_first` the first only says that the place asked for is not known."""
    said: dict[str, str] = {}
    try:
        while line := response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name:
                said[name] = value
                continue
            if "data" in said and not (skips_first and said["event"] == "dropped"):
                yield _event(said)
            skips_first, said = skips_first and "data" not in said, {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"the agent's events were lost: {error!r}", hint="follow them anew") from error
    finally:
        connection.close()


def _event(said: dict[str, str], /) -> Document:
    content = json.loads(said["data"])
    fields = content.get("fields", content)
    return {
        "id": said.get("id"),
        "event": said["event"],
        "at": content.get("at"),
        "level": content.get("level"),
        "fields": fields,
    }


def _document(body: bytes, /) -> Document:
    found: Any = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"not a document: {body[:80]!r}")  # noqa: TRY004 - as for what is not JSON at all
    return found


def _key_value(item: Document, /) -> KeyValue:
    value = base64.b64decode(item["value"])
    return KeyValue(item["key"], value, item["create_revision"], item["mod_revision"], item["lease"])


def _wanted(owner: Owner, resources: Iterable[Resource], /) -> Document:
    return {"name": owner.domain.name, "pid": owner.pid, "resources": [_resource(resource) for resource in resources]}


def _resource(resource: Resource, /) -> Document:
    return {
        "path": resource.path,
        "lockspace": resource.lockspace,
        "name": resource.name,
        "mode": resource.mode,
    }
