"""The script that gives virtlockd's place to etcdlock and back, on a copy of a host's files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy/libvirt"
SCRIPT = DEPLOY / "etcdlock-libvirt"
UNITS = Path("etc/systemd/system")
VENDOR_UNITS = Path("lib/systemd/system")
CONF = Path("etc/libvirt/qemu.conf")

Seen = dict[str, tuple[int, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with Debian's libvirt, its virtlockd enabled, that is not running."""
    root = tmp_path / "host"
    (root / UNITS / "sockets.target.wants").mkdir(parents=True)
    (root / VENDOR_UNITS).mkdir(parents=True)
    for unit in ("virtlockd.socket", "virtlockd-admin.socket"):
        vendor = root / VENDOR_UNITS / unit
        vendor.write_text("[Socket]\nListenStream=/run/x\n[Install]\nWantedBy=sockets.target\n", encoding="ascii")
        (root / UNITS / "sockets.target.wants" / unit).symlink_to(f"/{VENDOR_UNITS / unit}")
    (root / VENDOR_UNITS / "virtlockd.service").write_text("[Service]\nExecStart=/bin/true\n", encoding="ascii")
    (root / CONF).parent.mkdir(parents=True)
    write(root, '# comment\nuser = "root"\n\n#lock_manager = "lockd"\n\nmax_queued = 0\n')
    return root


def write(root: Path, conf: str) -> None:
    (root / CONF).write_text(conf, encoding="ascii")
    (root / CONF).chmod(0o600)


def conf(root: Path) -> str:
    return (root / CONF).read_text(encoding="ascii")


def run(action: str, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, action, "--root", root, *more], capture_output=True, text=True, check=False, timeout=30
    )


def switch(action: str, root: Path) -> str:
    done = run(action, root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(root: Path) -> Seen:
    """Every file and link, with its mode and content."""
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(root)): (path.lstat().st_mode, content(path)) for path in files}


def content(path: Path) -> str:
    return f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes().hex()


@pytest.mark.parametrize(
    "before",
    [
        '# comment\n#lock_manager = "lockd"\nmax_queued = 0\n',
        'lock_manager = "sanlock"\nuser = "root"\n',
        '  lock_manager="sanlock"   # ours\nuser = "root"\nlock_manager = "nop"\n',
        'lock_manager = "lockd"\n',
        'user = "root"',
        "",
    ],
    ids=["not set", "sanlock", "set twice", "lockd already", "no end of line", "empty"],
)
def test_there_and_back_leaves_every_file_as_it_was(root: Path, before: str) -> None:
    write(root, before)
    at_first = seen(root)
    switch("enable", root)
    assert 'lock_manager = "lockd"' in conf(root).splitlines()
    assert '"sanlock"' not in "".join(line for line in conf(root).splitlines() if not line.startswith("#"))
    assert seen(root) != at_first
    switch("disable", root)
    assert seen(root) == at_first


def test_libvirts_own_configuration_is_put_back_to_the_byte(root: Path) -> None:
    shipped = Path("/") / CONF
    if not shipped.exists():
        pytest.skip("needs libvirt's own qemu.conf")
    shutil.copy(shipped, root / CONF)
    at_first = seen(root)
    switch("enable", root)
    switch("disable", root)
    assert seen(root) == at_first


def test_what_is_changed_meanwhile_stays_and_only_the_lock_manager_goes_back(root: Path) -> None:
    write(root, 'lock_manager = "sanlock"\nuser = "root"\n')
    switch("enable", root)
    write(root, conf(root).replace('user = "root"', 'user = "qemu"'))
    switch("disable", root)
    assert conf(root) == 'lock_manager = "sanlock"\nuser = "qemu"\n'


def test_enabled_twice_is_enabled_once(root: Path) -> None:
    at_first = seen(root)
    switch("enable", root)
    once = seen(root)
    assert "already" in switch("enable", root)
    assert seen(root) == once
    switch("disable", root)
    switch("disable", root)
    assert seen(root) == at_first


def test_no_other_setting_and_no_comment_is_touched(root: Path) -> None:
    before = conf(root).splitlines()
    switch("enable", root)
    after = conf(root).splitlines()
    assert [line for line in after if line in before] == before
    assert (root / CONF).stat().st_mode & 0o777 == 0o600


def test_systemd_finds_the_agent_under_virtlockds_names_which_libvirtd_requires(root: Path) -> None:
    switch("enable", root)
    for suffix in ("service", "socket"):
        assert (root / UNITS / f"virtlockd.{suffix}").readlink() == Path("/") / UNITS / f"etcdlock-agent.{suffix}"
    assert (root / UNITS / "virtlockd-admin.socket").readlink() == Path("/dev/null")


def test_an_admin_socket_that_was_masked_before_stays_masked(root: Path) -> None:
    (root / UNITS / "virtlockd-admin.socket").symlink_to("/dev/null")
    switch("enable", root)
    switch("disable", root)
    assert (root / UNITS / "virtlockd-admin.socket").is_symlink()


def test_a_host_whose_virtlockd_has_been_changed_by_hand_is_refused_untouched(root: Path) -> None:
    override = root / UNITS / "virtlockd.service.d"
    override.mkdir()
    (override / "more.conf").write_text("[Service]\nExecStart=/bin/true\n", encoding="ascii")
    at_first = seen(root)
    refused = run("enable", root)
    assert refused.returncode == 1
    assert str(override) in refused.stderr
    assert seen(root) == at_first


def test_a_host_without_libvirt_is_refused(root: Path) -> None:
    (root / CONF).unlink()
    refused = run("enable", root)
    assert refused.returncode == 1
    assert "install libvirt" in refused.stderr


def test_status_says_who_has_the_place(root: Path) -> None:
    before = run("status", root)
    assert (before.returncode, "virtlockd's place: virtlockd" in before.stdout) == (3, True)
    switch("enable", root)
    after = run("status", root)
    assert (after.returncode, "virtlockd's place: etcdlock" in after.stdout) == (0, True)


@pytest.mark.parametrize("flags", [("--attach",), ("--force-with-running-guests",), ("--what",)])
def test_a_flag_that_means_nothing_here_is_refused(root: Path, flags: tuple[str, ...]) -> None:
    assert run("enable", root, *flags).returncode in (1, 2)
