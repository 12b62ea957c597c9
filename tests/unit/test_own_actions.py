"""What libvirt's guests want done first at a lost session, by their own XML."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from etcdlock.agent.custody import Custody
from etcdlock.agent.resuming import Departed
from etcdlock.cli.own_actions import OwnActions
from etcdlock.errors import InvalidDomainXml
from etcdlock.escalation import KILLED, Action, Charge
from etcdlock.model import DomainId, DomainRecord, LockState, Machine, SessionRef
from etcdlock.ports import Guest
from etcdlock.testing import FakeClock, FakeGuard
from etcdlock.testing.virtual import run_virtual

VM = DomainId(UUID("4dea22b3-1d52-48f3-a516-782e98ab3fa0"), "vm1")
OURS = "<metadata><e:on-session-lost xmlns:e='https://etcdlock.org/domain/1'>{}</e:on-session-lost></metadata>"
RECORD = DomainRecord(
    domain=VM, owner=SessionRef("a", "s"), machine=Machine("b", "m"), state=LockState.HELD, pid=4242, pid_start=1,
    resources=(), request="r", token=1, since="now",
)  # fmt: skip


def guest() -> Departed:
    """Who it is, is all that counts here."""
    return Departed(4242, 1)


def says(folder: Path, words: str, *, pid: int = 4242, uuid: object = VM.uuid) -> None:
    (folder / "vm1.xml").write_text(
        f"<domstatus state='running' pid='{pid}'><domain type='kvm'><name>vm1</name><uuid>{uuid}</uuid>{words}"
        "<devices/></domain></domstatus>",
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("", None),
        ("<on_lockfailure>poweroff</on_lockfailure>", Action.KILL),
        ("<on_lockfailure>pause</on_lockfailure>", Action.FREEZE),
        (OURS.format("freeze"), Action.FREEZE),
        (f"{OURS.format('command')}<on_lockfailure>pause</on_lockfailure>", Action.COMMAND),
    ],
)
def test_a_guests_own_choice_is_what_its_xml_says(tmp_path: Path, words: str, action: Action | None) -> None:
    says(tmp_path, words)
    assert OwnActions(tmp_path, has_command=True).of(guest(), VM) is action


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("<on_lockfailure>ignore</on_lockfailure>", "must not run on"),
        (OURS.format("command"), "this host knows none"),
        (OURS.format("nothing"), "must be one of"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused(tmp_path: Path, words: str, reason: str) -> None:
    says(tmp_path, words)
    with pytest.raises(InvalidDomainXml, match=reason):
        OwnActions(tmp_path, has_command=False).of(guest(), VM)


def test_another_process_or_domain_of_that_name_has_no_say_and_one_not_written_yet_is_asked_again(
    tmp_path: Path,
) -> None:
    choices = OwnActions(tmp_path, has_command=True)
    assert choices.of(guest(), VM) is None
    says(tmp_path, OURS.format("freeze"), pid=7)
    assert choices.of(guest(), VM) is None
    says(tmp_path, OURS.format("freeze"), uuid="00000000-1d52-48f3-a516-782e98ab3fa0")
    assert choices.of(guest(), VM) is None
    says(tmp_path, OURS.format("freeze"))
    assert choices.of(guest(), VM) is Action.FREEZE


def test_what_a_guest_wanted_when_it_was_first_asked_holds_for_as_long_as_it_runs(tmp_path: Path) -> None:
    choices, running = OwnActions(tmp_path, has_command=True), guest()
    says(tmp_path, OURS.format("freeze"))
    assert choices.of(running, VM) is Action.FREEZE
    says(tmp_path, OURS.format("kill"))
    assert choices.of(running, VM) is Action.FREEZE


class Recorder(FakeGuard):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(FakeClock(), stop_after_seconds=18.0)
        self.charges: list[Charge] = []
        self.let_go_on = 0

    async def arm(self, guest: Guest, /, *, session: str, charge: Charge = KILLED) -> None:  # noqa: ARG002
        self.charges.append(charge)

    async def go_on(self, guest: Guest, /) -> None:  # noqa: ARG002
        self.let_go_on += 1


@pytest.mark.parametrize(("own", "armed"), [(None, Action.KILL), (Action.FREEZE, Action.FREEZE)])
def test_a_guest_is_armed_with_its_own_choice_before_the_hosts(own: Action | None, armed: Action) -> None:
    async def scenario() -> list[Action]:
        guard = Recorder()
        await Custody(guard, action=Action.KILL, own=lambda _guest, _domain: own).arm(guest(), RECORD, session="s")
        guard.kill()
        return [charge.action for charge in guard.charges]

    assert run_virtual(scenario()) == [armed]


def test_a_guest_that_its_own_choice_may_have_frozen_goes_on_once_the_earlier_agents_guard_has_ended() -> None:
    async def scenario() -> int:
        guard = Recorder()
        custody = Custody(guard, action=Action.KILL, own=lambda _guest, _domain: Action.FREEZE)
        custody.inherit(guest(), RECORD)
        await custody.earlier_guards_ended()
        guard.kill()
        return guard.let_go_on

    assert run_virtual(scenario()) == 1
