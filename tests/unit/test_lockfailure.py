"""What a domain's XML chooses for the day its locks are lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from etcdlock.cli.wanted import chosen_action
from etcdlock.config import Settings
from etcdlock.errors import InvalidDomainXml, InvalidInput
from etcdlock.escalation import Action
from etcdlock.lockfailure import NAMESPACE, Choice, read_choice


def domain(inner: str = "") -> str:
    return f"<domain type='kvm'><name>vm</name>{inner}</domain>"


def ours(word: str) -> str:
    return f"<metadata><e:on-session-lost xmlns:e='{NAMESPACE}'> {word} </e:on-session-lost></metadata>"


@pytest.mark.parametrize(
    ("inner", "action"),
    [
        ("", None),
        ("<on_lockfailure></on_lockfailure>", None),
        ("<on_lockfailure>poweroff</on_lockfailure>", Action.KILL),
        ("<on_lockfailure>pause</on_lockfailure>", Action.FREEZE),
        (ours("command"), Action.COMMAND),
        ("<on_lockfailure>poweroff</on_lockfailure>" + ours("freeze"), Action.FREEZE),
    ],
)
def test_each_word_has_its_meaning_and_ours_counts_first(inner: str, action: Action | None) -> None:
    assert read_choice(domain(inner), source="vm.xml") == Choice(action)


def test_a_guest_that_is_to_start_again_is_killed_and_its_owner_told() -> None:
    choice = read_choice(domain("<on_lockfailure>restart</on_lockfailure>"), source="vm.xml")
    assert choice.action is Action.KILL
    assert "start it again" in choice.warning


@pytest.mark.parametrize("inner", ["<on_lockfailure>ignore</on_lockfailure>", ours("ignore")])
def test_a_guest_that_is_to_run_on_without_locks_is_refused(inner: str) -> None:
    with pytest.raises(InvalidDomainXml, match="ignore"):
        read_choice(domain(inner), source="vm.xml")


def test_the_option_counts_before_the_xml_and_that_before_the_setting(tmp_path: Path) -> None:
    file, settings = tmp_path / "vm.xml", Settings(on_session_lost=Action.FREEZE)
    file.write_text(domain("<on_lockfailure>poweroff</on_lockfailure>"), encoding="ascii")
    assert chosen_action(settings, file=file, given=Action.FREEZE) is Action.FREEZE
    assert chosen_action(settings, file=file, given=None) is Action.KILL
    file.write_text(domain(), encoding="ascii")
    assert chosen_action(settings, file=file, given=None) is Action.FREEZE
    assert chosen_action(Settings(), file=None, given=None) is Action.KILL


def test_the_xml_counts_before_the_cluster_and_so_does_the_host(tmp_path: Path) -> None:
    file, cluster = tmp_path / "vm.xml", Settings(cluster_on_session_lost=Action.FREEZE)
    file.write_text(domain(), encoding="ascii")
    assert chosen_action(cluster, file=file, given=None) is Action.FREEZE
    host = cluster.model_copy(update={"on_session_lost": Action.KILL})
    assert chosen_action(host, file=file, given=None) is Action.KILL
    file.write_text(domain("<on_lockfailure>poweroff</on_lockfailure>"), encoding="ascii")
    assert chosen_action(cluster, file=file, given=None) is Action.KILL


def test_a_command_that_nobody_has_named_cannot_be_chosen() -> None:
    with pytest.raises(InvalidInput, match="no command is known"):
        chosen_action(Settings(), file=None, given=Action.COMMAND)
