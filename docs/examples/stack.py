"""A small management stack that embeds etcdlock's driver: see docs/EXAMPLE.md.

    python stack.py FOLDER CONFIG HYPERVISOR...

Reads a command a line, as a JSON list, and answers a line. What it must know after a restart is in FOLDER; the locks
are not: they are asked for. HYPERVISOR is what a guest is started with; in a real stack, QEMU with the guest's disks.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from etcdlock.driver import Capability, DomainId, EtcdlockError, Loaded, LockManager, load
from etcdlock.errors import NotLocked


@dataclass
class Guest:
    """What is written down of a guest. `pid` and its start tell its process from a later one of that number."""

    uuid: str
    disks: list[str]
    arrives: bool = False
    pid: int = 0
    pid_start: int = 0
    lock: LockManager = field(init=False, repr=False)


class Stack:
    """The guests of one host."""

    def __init__(self, driver: Loaded, folder: Path, hypervisor: list[str]) -> None:
        self._driver = driver
        self._file = folder / "guests.json"
        self._hypervisor = hypervisor
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._guests: dict[str, Guest] = {}
        if self._file.exists():
            for name, written in json.loads(self._file.read_text()).items():
                self._find_again(name, Guest(**written))
            self._write_down()

    def _find_again(self, name: str, guest: Guest) -> None:
        """After a restart: the locks say which guests are still this host's."""
        try:
            guest.lock = LockManager.attach(self._driver, DomainId(UUID(guest.uuid), name))
        except NotLocked:
            _end(guest)  # it has ended, or migrated away, or was to arrive and never got its locks
            return
        guest.pid = guest.lock.guest_pid()
        guest.pid_start = _start_of(guest.pid)
        self._guests[name] = guest

    # --- a guest's life --------------------------------------------------------------------------------------------

    def start(self, name: str, *disks: str) -> str:
        guest = Guest(str(uuid4()), list(disks))
        guest.lock = LockManager(self._driver, DomainId(UUID(guest.uuid), name))
        self._run(name, guest)
        return guest.uuid

    def plug(self, name: str, disk: str) -> None:
        """Lock first, then QMP's device_add."""
        self._guests[name].lock.acquire_resource(disk)
        self._guests[name].disks.append(disk)
        self._write_down()

    def unplug(self, name: str, disk: str) -> None:
        """After QMP's DEVICE_DELETED."""
        self._guests[name].lock.release_resource(disk)
        self._guests[name].disks.remove(disk)
        self._write_down()

    def stop(self, name: str) -> None:
        guest = self._guests[name]
        self._end(guest)
        guest.lock.release()
        self._forget(name)

    def pids(self) -> dict[str, int]:
        return {name: guest.pid for name, guest in self._guests.items()}

    # --- migration, on the source ----------------------------------------------------------------------------------

    def send(self, name: str, host: str) -> dict[str, Any]:
        """The ticket, which goes to the destination; then QMP's migrate."""
        guest = self._guests[name]
        return {"uuid": guest.uuid, "ticket": guest.lock.prepare_migrate(host), "disks": guest.disks}

    def switch(self, name: str) -> None:
        """The vCPUs stop (QMP's stop, or pause-before-switchover); from here on the destination may claim."""
        os.kill(self._guests[name].pid, signal.SIGSTOP)
        self._guests[name].lock.suspend()

    def depart(self, name: str) -> None:
        """The destination has it."""
        self._guests[name].lock.complete_migrate()
        self.stop(name)

    def stay(self, name: str) -> None:
        """It did not work out: only after a yes do the vCPUs go on (QMP's cont)."""
        self._guests[name].lock.cancel_migrate()
        os.kill(self._guests[name].pid, signal.SIGCONT)

    # --- migration, on the destination -----------------------------------------------------------------------------

    def receive(self, name: str, said: dict[str, Any]) -> None:
        """What `send` has said: a guest with -incoming, and without locks."""
        guest = Guest(said["uuid"], said["disks"], arrives=True)
        domain = DomainId(UUID(guest.uuid), name)
        guest.lock = LockManager.incoming(self._driver, domain, ticket=said["ticket"])
        self._run(name, guest)

    def arrive(self, name: str) -> None:
        """The memory is there: only after a yes QMP's cont. A stack that was started anew says `acquire`."""
        guest = self._guests[name]
        if guest.pid in self._children:
            guest.lock.complete_migrate()
        else:
            guest.lock.acquire()
        guest.arrives = False
        self._write_down()

    def refuse(self, name: str) -> None:
        """It does not arrive; then the source may `stay`."""
        guest = self._guests[name]
        guest.lock.cancel_migrate()
        self._end(guest)
        self._forget(name)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _run(self, name: str, guest: Guest) -> None:
        """Written down before it runs: a guest is never there without anybody who knows of it."""
        for disk in guest.disks:
            guest.lock.register(disk)
        self._guests[name] = guest
        self._write_down()
        try:
            process = guest.lock.start(self._hypervisor, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except EtcdlockError:
            self._forget(name)
            raise
        self._children[process.pid] = process
        guest.pid, guest.pid_start = process.pid, _start_of(process.pid)
        self._write_down()

    def _end(self, guest: Guest) -> None:
        _end(guest)
        child = self._children.pop(guest.pid, None)
        if child is not None:
            child.wait()

    def _forget(self, name: str) -> None:
        del self._guests[name]
        self._write_down()

    def _write_down(self) -> None:
        kept = ("uuid", "disks", "arrives", "pid", "pid_start")
        text = {name: {word: getattr(guest, word) for word in kept} for name, guest in self._guests.items()}
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(text))
        new.replace(self._file)


def _end(guest: Guest) -> None:
    """Kill it and wait, if it is still that process."""
    if not guest.pid or _start_of(guest.pid) != guest.pid_start:
        return
    handle = os.pidfd_open(guest.pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll()
    finally:
        os.close(handle)


def _start_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def main(folder: str, config: str, *hypervisor: str) -> None:
    """Until the end of its input. Guests run on."""
    needs = {Capability.HOTPLUG, Capability.MIGRATION, Capability.ATTACH, Capability.STOPPING}
    with load(require=needs, config=Path(config)) as driver:
        stack = Stack(driver, Path(folder), list(hypervisor))
        print("ready", flush=True)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            try:
                answer = {"done": getattr(stack, command)(*arguments)}
            except EtcdlockError as error:
                answer = {"error": type(error).__name__, "words": str(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
