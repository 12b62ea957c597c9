"""An ordinary user of a lab's host, with a libvirt of their own, qemu:///session, and an agent in virtlockd's place."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence

from tests.libvirt.guest import Guest
from tests.libvirt.host import REPOSITORY
from tests.libvirt.lab import SharedDisk
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.machine import Program
from tests.libvirt.waiting import wait_until

UID = 1000
RUNTIME = f"/run/user/{UID}"
HOME = f"{RUNTIME}/home"
LOCK_SOCKET = f"{RUNTIME}/libvirt/virtlockd-sock"

_REACHABLE = {
    f"{RUNTIME}-python": sys.base_prefix,
    f"{RUNTIME}-packages": sysconfig.get_path("purelib"),
    f"{RUNTIME}-code": str(REPOSITORY),
}
"""Where the user finds what may lie in a folder that is root's alone."""
_PYTHON = f"{RUNTIME}-python/bin/python3"
_AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--")
_QEMU_CONF = 'lock_manager = "lockd"\nsecurity_driver = "none"\nstdio_handler = "file"\nremember_owner = 0\n'


class User:
    """The user UID on a host. `environment` is what the user's etcdlock is told."""

    def __init__(self, host: LibvirtHost, *, environment: Mapping[str, str]) -> None:
        self._host = host
        self._environment = {
            **environment,
            "HOME": HOME,
            "XDG_RUNTIME_DIR": RUNTIME,
            "XDG_CONFIG_HOME": f"{HOME}/.config",
            "XDG_CACHE_HOME": f"{HOME}/.cache",
            "LD_LIBRARY_PATH": f"{RUNTIME}-python/lib",  # Python's own library, where it has one
            "PYTHONPATH": os.pathsep.join((f"{RUNTIME}-code", f"{RUNTIME}-packages")),
        }
        for place, folder in _REACHABLE.items():
            self._as_root("mkdir", "--parents", place)
            self._as_root("mount", "--bind", folder, place)
        conf = f"{HOME}/.config/libvirt"
        self._as_root("install", "--directory", f"--owner={UID}", f"--group={UID}", "--mode=700", RUNTIME)
        self._as_user("mkdir", "--parents", conf)
        self._as_user("tee", f"{conf}/qemu.conf", stdin=_QEMU_CONF)

    def leave(self) -> None:
        """Nothing of the user is left on the host."""
        self._run(["pkill", "--uid", str(UID), "--signal", "KILL"])
        wait_until(lambda: self._run(["pgrep", "--uid", str(UID)]).returncode == 1, what="nothing of the user runs")
        for place in _REACHABLE:
            self._as_root("umount", place)
        self._as_root("rm", "--recursive", RUNTIME)

    def may_write(self, disk: SharedDisk, /) -> None:
        """Let the user have the disk on this host."""
        self._as_root("chown", str(UID), disk.path)

    def start_agent(self) -> Program:
        """The user's own agent; it serves on return."""
        agent = self._host.start_program(
            [*_AS_USER, _PYTHON, "-m", "etcdlock", "agent", "--log-level", "info"],
            env=self._environment,
            name="user-agent",
        )
        self._host.wait_until_accepts(LOCK_SOCKET, program=agent)
        return agent

    def virsh(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run virsh as the user, which starts the user's libvirtd; with `check` it must succeed."""
        done = self._run([*_AS_USER, "virsh", "--connect", "qemu:///session", *arguments])
        assert not check or done.returncode == 0, f"virsh {' '.join(arguments)}: {done.stderr}"
        return done

    def start(self, guest: Guest, /) -> subprocess.CompletedProcess[str]:
        """Define it and try to start it."""
        self._as_user("tee", f"{HOME}/{guest.name}.xml", stdin=guest.emulated_xml)
        self.virsh("define", f"{HOME}/{guest.name}.xml")
        return self.virsh("start", guest.name, check=False)

    def state(self, guest: Guest, /) -> str:
        """libvirt's word for it."""
        return self.virsh("domstate", guest.name).stdout.strip()

    def listener(self) -> str:
        """The name of the program that listens on virtlockd's socket of this user, empty if none does."""
        listening = self._run(["ss", "--listening", "--unix", "--processes", "--no-header"]).stdout.splitlines()
        here = [line for line in listening if f" {LOCK_SOCKET} " in line]
        return here[0].partition('users:(("')[2].partition('"')[0] if here else ""

    def _as_user(self, *command: str, stdin: str = "") -> None:
        self._as_root(*_AS_USER, *command, stdin=stdin)

    def _as_root(self, *command: str, stdin: str = "") -> None:
        done = self._run(command, stdin=stdin)
        assert done.returncode == 0, done.stderr

    def _run(self, command: Sequence[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self._host.run(command, env=self._environment, stdin=stdin)
