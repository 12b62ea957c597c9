"""Every error of ours as an answer: its status, what it says of what was done, and that it comes back as itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from etcdlock import errors
from etcdlock.api.answers import TABLE, Outcome, answer_to, error_in
from etcdlock.api.behind import Domains
from etcdlock.errors import EtcdlockError, HeldElsewhere
from etcdlock.model import Blocker, LockState, Proof, SessionRef, StoredDomain
from tests.api.serving import ApiHost, Serving, serving
from tests.promises.world import disk, domain

VM, A = domain(0x1234), disk("a")
WHOLE = Blocker(VM, A, SessionRef("bob", "agent-1"), LockState.PARKED, "2026-01-01T00:00:00", 7, False, Proof.LEFT)
BARE = Blocker(VM, None)


def every_class() -> list[type[EtcdlockError]]:
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, EtcdlockError)]


def made(kind: type[EtcdlockError]) -> EtcdlockError:
    if issubclass(kind, HeldElsewhere):
        return kind("no", blockers=(WHOLE, BARE), revision=5, hint="wait")
    if issubclass(kind, errors.CorruptRecord):
        return kind("no", key="/some/key", hint="wait")
    if issubclass(kind, errors.GuestNotStarted):
        return kind("no", missing=False, hint="wait")
    return kind("no", hint="wait")


class Refusing:
    """Raises what it is told to, whatever it is asked."""

    def __init__(self) -> None:
        self.error: Exception = EtcdlockError("none yet")

    async def unpark(self, _uuid: UUID, /) -> StoredDomain:
        raise self.error


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiHost, Refusing]]:
    behind = Refusing()
    with serving(Path(tmp_path_factory.mktemp("api"))) as hosts:
        yield hosts.host("alice", domains=cast("Domains", behind)), behind


@pytest.mark.parametrize("kind", every_class())
def test_every_error_comes_back_as_itself_with_all_that_it_says(
    refusing: tuple[ApiHost, Refusing], kind: type[EtcdlockError]
) -> None:
    host, behind = refusing
    behind.error = made(kind)
    with pytest.raises(EtcdlockError) as raised:
        host.client.unpark(VM.uuid)
    told = raised.value
    assert type(told) is (errors.OutcomeUnknown if kind is EtcdlockError else kind)
    assert (str(told), told.hint) == ("no", "wait")
    assert getattr(told, "blockers", None) == getattr(behind.error, "blockers", None)
    assert getattr(told, "revision", None) == getattr(behind.error, "revision", None)
    assert getattr(told, "key", None) == getattr(behind.error, "key", None)


def test_a_fault_of_the_agent_is_no_refusal(refusing: tuple[ApiHost, Refusing]) -> None:
    host, behind = refusing
    behind.error = ZeroDivisionError("secret")
    with pytest.raises(errors.OutcomeUnknown, match="a fault") as raised:
        host.client.unpark(VM.uuid)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", every_class())
def test_a_status_says_no_only_where_it_is_known_that_nothing_was_done(kind: type[EtcdlockError]) -> None:
    status, body = answer_to(made(kind))
    assert set(body) >= {"error", "message", "hint", "blockers", "outcome"}
    says_no = 400 <= status < 500
    assert says_no <= (body["outcome"] in (Outcome.INVALID, Outcome.REFUSED))
    if issubclass(kind, errors.OutcomeUnknown) or kind is EtcdlockError:
        assert (status, body["outcome"]) in {(504, "unknown"), (500, "unknown")}


EXPECTED = {
    "HeldElsewhere": 409, "Superseded": 409, "NotLocked": 404, "NoSuchGuest": 404, "InvalidInput": 422,
    "TooManyOperations": 422, "Unreachable": 503, "OutcomeUnknown": 504, "SessionLost": 503, "GuardLost": 503,
    "NotPermitted": 403, "AccessDenied": 502, "CorruptRecord": 502, "NotClaimed": 409, "SessionAlive": 409,
    "NotReady": 503,
}  # fmt: skip


@pytest.mark.parametrize(("name", "status"), EXPECTED.items())
def test_the_statuses_that_programs_go_by_do_not_change(name: str, status: int) -> None:
    assert answer_to(made(getattr(errors, name)))[0] == status


def test_no_line_of_the_table_hides_one_below_it() -> None:
    kinds = [kind for kind, _, _ in TABLE]
    assert [later for at, later in enumerate(kinds) for earlier in kinds[:at] if issubclass(later, earlier)] == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": "Newer", "outcome": "refused", "message": "m"}, errors.Refused),
        ({"error": "Newer", "outcome": "unheard of", "message": "m"}, errors.OutcomeUnknown),
        ({"error": "TYPE_CHECKING", "outcome": "lost", "message": "m"}, errors.SessionLost),
    ],
)
def test_an_error_that_a_later_agent_knows_is_still_understood(body: dict[str, Any], kind: type) -> None:
    assert type(error_in(body)) is kind


@pytest.mark.parametrize(
    "sent",
    [
        {"pid": 0, "resources": []},
        {"pid": 1, "resources": [{"path": "relative"}]},
        {"pid": 1, "resources": [{"lockspace": "x"}]},
        {"pid": 1, "resources": [{"path": "/a"}, {"path": "/a"}]},
        {"pid": 1, "resources": [{"path": "/a", "mode": "sideways"}]},
        {"pid": 1, "resources": [{"path": "/a\0"}]},
        {"pid": 1, "ressources": []},
        {"pid": 1, "resources": [{"path": "/a"}] * 1001},
        [],
    ],
)
def test_a_request_that_is_wrong_is_refused_before_anything_is_asked_for(hosts: Serving, sent: Any) -> None:
    host = hosts.host("alice")
    with pytest.raises(errors.InvalidInput):
        host.client._call("POST", f"/v1/domains/{VM.uuid}/acquire", sent)  # noqa: SLF001 - what the client never sends
    assert host.hypervisor.record(VM) is None


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("PUT", "/v1/status"), ("GET", "/docs")])
def test_what_does_not_exist_is_said_in_the_same_words(hosts: Serving, method: str, path: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"Not Found|Method Not Allowed"):
        hosts.host("alice").client._call(method, path)  # noqa: SLF001 - as above
