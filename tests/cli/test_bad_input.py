"""What somebody mistypes, or sends in bad faith: each is exit code 2 and a sentence that names it; etcd is never asked.

The commands run in this process: none of them gets as far as to need one of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from etcdlock.cli.app import run_command_line
from tests.cli.hosts import Cluster, Done

COMMAND = ("--", "echo", "never")
UUID = "11111111-2222-3333-4444-555555555555"
BOMB = '<!DOCTYPE d [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]><domain><name>&b;</name></domain>'
OUTSIDE = '<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>'
TWICE = f"""<domain><name>vm1</name><uuid>{UUID}</uuid><devices>
<disk type='file' device='disk'><source file='/san/x'/><target dev='vda'/></disk>
<disk type='file' device='disk'><source file='/san//x'/><target dev='vdb'/></disk></devices></domain>"""

FILES = {
    "half.xml": "<domain><name>",
    "bomb.xml": BOMB,
    "outside.xml": OUTSIDE,
    "twice.xml": TWICE,
    "nameless.xml": f"<domain><uuid>{UUID}</uuid></domain>",
    "typo.toml": "clustr = 'blue'",
    "timing.toml": "[timing]\nhold_of_seconds = 3",
    "unsafe.toml": "[timing]\nhold_off_seconds = 3",
    "half.toml": "cluster = ",
    "ca.toml": "ca_file = 'none.pem'",
}

CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "a UUID that is none": (("run", "--domain-uuid", "xyz", *COMMAND), "--domain-uuid 'xyz' is not a UUID"),
    "a placeholder": (("run", "--domain-uuid", "0" * 32, *COMMAND), "is a placeholder"),
    "a name with a bell": (("run", "--name", "a\ab", "--disk", "/x", *COMMAND), "cannot be printed"),
    "nothing to lock": (("run", *COMMAND), "nothing to lock"),
    "no command": (("run", "--disk", "/x"), "Missing argument"),
    "a negative wait": (("run", "--wait", "-1", "--disk", "/x", *COMMAND), "--wait -1: give a number of seconds"),
    "a wait that is no number": (("run", "--wait", "nan", "--disk", "/x", *COMMAND), "--wait nan: give a number"),
    "a disk twice": (("run", "--disk", "/x", "--disk", "//x", *COMMAND), "are the same resource"),
    "a mode that is none": (("run", "--disk", "/x:ro", *COMMAND), "'ro' is not a mode"),
    "a path with ..": (("run", "--disk", "/a/../x", *COMMAND), "'..'"),
    "a path too long": (("run", "--disk", "/" + "x" * 5000, *COMMAND), "longer than 4095 bytes"),
    "XML that is cut off": (("run", "--domain", "half.xml", *COMMAND), "not well-formed XML"),
    "an entity bomb": (("run", "--domain", "bomb.xml", *COMMAND), "contains a DTD or entities"),
    "an external entity": (("inquire", "--domain", "outside.xml"), "contains a DTD or entities"),
    "XML with a disk twice": (("run", "--domain", "twice.xml", *COMMAND), "disk vda (exclusive) and disk vdb"),
    "XML without a name": (("run", "--domain", "nameless.xml", *COMMAND), "has no <name>"),
    "XML that is not there": (("run", "--domain", "none.xml", *COMMAND), "--domain none.xml: No such file"),
    "XML and a UUID": (("run", "--domain", "twice.xml", "--domain-uuid", UUID, *COMMAND), "already says UUID and name"),
    "a setting that is none": (("status", "--config", "typo.toml"), "did you mean 'cluster'?"),
    "a timing that is none": (("status", "--config", "timing.toml"), "did you mean 'hold_off_seconds'?"),
    "a timing that is not safe": (("status", "--config", "unsafe.toml"), "timing refused: "),
    "a file that is no TOML": (("status", "--config", "half.toml"), "half.toml: "),
    "a folder that is no file": (("status", "--config", "."), ".: it cannot be read: Is a directory"),
    "a CA that is not there": (("status", "--config", "ca.toml"), "none.pem cannot be read: No such file or directory"),
    "a file that is not there": (("status", "--config", "none.toml"), "none.toml: no such file"),
    "an endpoint that is none": (("status", "--endpoint", "http://x:1"), "is not host:port"),
    "a command that is none": (("statsu",), "Did you mean 'status'?"),
    "an option that is none": (("run", "--diks", "/x", *COMMAND), "--disk"),
    "nothing to reserve": (("reserve", *COMMAND), "nothing to reserve"),
    "a reservation of nothing that is locked": (("reserve", "--disk", "/x:readonly", *COMMAND), "nothing to reserve"),
    "a reservation of no domain": (("reserve", "--domain", ":readonly", *COMMAND), "names no domain"),
    "a reservation of a domain that is not there": (("reserve", "--domain", "nobody", *COMMAND), "no domain 'nobody'"),
    "a reservation by a file that is not there": (("reserve", "--domain", "none.xml", *COMMAND), "none.xml: No such"),
    "a reservation with a bell": (("reserve", "--name", "a\ab", "--disk", "/x", *COMMAND), "cannot be printed"),
    "a reservation that opens a disk twice": (("reserve", "--domain", "twice.xml", *COMMAND), "vdb of vm1 (exclusive)"),
    "an address that is none": (("certs", "pki", "--member", "e1=10.0.0.311"), "'10.0.0.311' is no IP address"),
    "two questions": (("inquire", "vm1", "--disk", "/x"), "ask about one thing"),
    "no question": (("inquire",), "ask about one thing"),
}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files; an etcd that was asked would give 101."""
    for name, text in FILES.items():
        tmp_path.joinpath(name).write_text(text, encoding="utf-8")
    for name, value in Cluster("127.0.0.1:1", "nowhere", tmp_path).environment("a", {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def do(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Done:
    """Run a command line here."""
    monkeypatch.setattr(sys, "argv", ["etcdlock", *words])
    status = run_command_line()
    captured = capsys.readouterr()
    return Done(status, captured.out, captured.err)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_and_nothing_was_attempted(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    words, says = CASES[case]
    done = do(words, monkeypatch, capsys)
    assert (done.status, done.out) == (2, "")
    assert says in " ".join(done.err.split())


def test_with_json_a_mistake_is_a_document_too(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = do(("run", "--json", "--domain-uuid", "xyz", *COMMAND), monkeypatch, capsys)
    document = done.document()
    assert (done.status, document["error"]) == (2, "InvalidInput")
    assert document["hint"] == "`virsh domuuid` prints it"


def test_an_agent_that_cannot_have_its_run_folder_says_that_and_no_more(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETCDLOCK_RUN_FOLDER", "/dev/null/run")
    done = do(("agent",), monkeypatch, capsys)
    assert (done.status, done.err) == (2, "etcdlock: run_folder: /dev/null/run/agent.lock: Not a directory\n")
