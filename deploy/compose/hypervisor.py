"""What a management program does with etcdlock's agent: start guests, end them, and move them to other hosts.

The smallest one that is whole. Guests are real processes, their disks are files that all hosts share, and a guest that
migrates goes on with its memory. What it keeps to is what docs/API.md asks of it: nothing runs before a yes, an
answer that was lost is asked for again and never taken for a no, and the vCPUs stand before a lock is prepared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast
from uuid import NAMESPACE_DNS, UUID, uuid5

from etcdlock.api.client import AgentClient
from etcdlock.errors import EtcdlockError, HeldElsewhere, NotClaimed, OutcomeUnknown, SessionLost, Unreachable
from etcdlock.model import DomainId, Mode, Owner, Resource

Answer = dict[str, Any]
Ask = Callable[[Answer], Answer]
"""Another host's hypervisor: a request, its answer. Raises `OSError` when that was lost."""

DISKS = Path("/san")
AGAIN_SECONDS = 0.5
SETTLE_SECONDS = 60.0
PATIENCE_SECONDS = 30.0


class Machine:
    """A guest's process on this host, and its monitor."""

    def __init__(self, name: str, *, host: str) -> None:
        self.domain = DomainId(uuid_of(name), name)
        self.disk = DISKS / f"{name}.img"
        self.disk.touch()
        guest = Path(__file__).with_name("guest.py")
        self.process = subprocess.Popen(
            [sys.executable, str(guest), str(self.disk), host], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def owner(self) -> Owner:
        """As the agent is told of it."""
        return Owner(self.domain, self.process.pid)

    @property
    def disks(self) -> tuple[Resource, ...]:
        """What it needs."""
        return (Resource("", "", Mode.EXCLUSIVE, str(self.disk)),)

    def tell(self, do: str, **more: int) -> int:
        """Its memory after that. Raises `OSError` if it has ended."""
        commands, answers = cast("IO[bytes]", self.process.stdin), cast("IO[bytes]", self.process.stdout)
        commands.write(json.dumps({"do": do, **more}).encode() + b"\n")
        commands.flush()
        answer = answers.readline()
        if not answer:
            raise OSError("the guest has ended")
        return int(json.loads(answer)["memory"])

    def end(self) -> None:
        """Switched off."""
        self.process.kill()
        self.process.wait()


class Hypervisor:
    """The guests of one host."""

    def __init__(self, *, host: str, agent: AgentClient) -> None:
        self._host = host
        self._agent = agent
        self._machines: dict[str, Machine] = {}
        self._one_at_a_time = threading.RLock()

    def machines(self) -> dict[str, Machine]:
        """Those that live; what was stopped for a lost session has ended by itself."""
        with self._one_at_a_time:
            for name in [name for name, machine in self._machines.items() if machine.process.poll() is not None]:
                del self._machines[name]
            return dict(self._machines)

    def list(self) -> Answer:
        """Guests of this host, and how much they have written."""
        lines = [f"{name}: {machine.tell('look')} records" for name, machine in self.machines().items()]
        return {"said": "\n".join(lines) or "no guest runs here"}

    def start(self, name: str, *, wait_seconds: float = 0.0) -> Answer:
        """Switch a guest on; wait for locks that others hold for so long."""
        with self._one_at_a_time:
            if name in self.machines():
                return {"said": f"{name} runs here already"}
            until = time.monotonic() + wait_seconds
            machine = Machine(name, host=self._host)
            try:
                lock = self._acquired(machine, until=until)
                machine.tell("run", token=lock["token"])
            except BaseException:
                machine.end()
                raise
            self._machines[name] = machine
        waited = time.monotonic() - until + wait_seconds
        after = f" after {waited:.1f} s" if wait_seconds else ""
        return {"said": f"{name} runs on {self._host} (token {lock['token']}){after}", "seconds": waited}

    def stop(self, name: str) -> Answer:
        """Switch a guest off and give its locks back."""
        with self._one_at_a_time:
            machine = self._find(name)
            machine.end()
            settled(lambda: self._agent.release(machine.domain.uuid))
            del self._machines[name]
        return {"said": f"{name} is off"}

    def _find(self, name: str) -> Machine:
        found = self.machines().get(name)
        if found is None:
            raise EtcdlockError(f"{name} does not run on {self._host}", hint="etcdlock status tells where it does")
        return found

    def _acquired(self, machine: Machine, /, *, until: float) -> Answer:
        while True:
            try:
                return settled(lambda: self._agent.acquire(machine.owner, machine.disks))
            except HeldElsewhere:
                if time.monotonic() >= until:
                    raise
                time.sleep(AGAIN_SECONDS)

    # --- migration: the source -------------------------------------------------------------------------------------

    def migrate(self, name: str, *, ask: Ask) -> Answer:
        """Move a guest, with its memory, to the host that `ask` asks."""
        with self._one_at_a_time:
            machine = self._find(name)
            found = ask({"do": "incoming", "name": name})
            if "said" not in found:
                return found
            began = time.monotonic()
            memory = machine.tell("stop")
            try:
                run = settled(lambda: self._agent.prepare(machine.domain.uuid))["run"]
                found = ask({"do": "switch over", "name": name, "memory": memory, "run": run})
            except (OSError, ValueError) as error:
                found = {"error": f"the destination's answer was lost: {error}"}
            except EtcdlockError as error:
                found = refusal(error)
            if not self._went(machine):
                return {"error": f"{name} runs on here: {found.get('error', 'the destination did not claim it')}"}
            seconds = time.monotonic() - began
            machine.end()
            del self._machines[name]
        moved = f"{name} moved with its memory of {memory} records, stopped for {seconds * 1000:.0f} ms"
        return {"said": f"{moved}\n{found.get('said', '')}", "seconds": seconds}

    def _went(self, machine: Machine, /) -> bool:
        """Whether the destination has the lock. It, and not what the destination said, decides who runs the guest."""
        try:
            settled(lambda: self._agent.complete(machine.domain.uuid))
        except NotClaimed:
            settled(lambda: self._agent.cancel(machine.domain.uuid))
            machine.tell("run")
            return False
        return True

    # --- migration: the destination --------------------------------------------------------------------------------

    def incoming(self, name: str) -> Answer:
        """A process that can take the guest in."""
        with self._one_at_a_time:
            if name in self.machines():
                raise EtcdlockError(f"{name} runs on {self._host} already")
            self._machines[name] = Machine(name, host=self._host)
        return {"said": "send its memory"}

    def switch_over(self, name: str, *, memory: int, run: str) -> Answer:
        """Claim the lock and go on with the guest; whatever goes wrong ends the process, and the lock goes back."""
        with self._one_at_a_time:
            machine = self._find(name)
            uuid = machine.domain.uuid
            try:
                settled(lambda: self._agent.incoming(machine.owner, machine.disks, run=run))
                lock = settled(lambda: self._agent.incoming_complete(uuid))
                machine.tell("run", token=lock["token"], memory=memory)
            except BaseException:
                machine.end()
                del self._machines[name]
                raise
        return {"said": f"{name} runs on {self._host} (token {lock['token']})"}


def settled(call: Callable[[], Answer], /) -> Answer:
    """What came of it, asked for again while nobody knows; the guest stands still meanwhile."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            return call()
        except (OutcomeUnknown, Unreachable, SessionLost):
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_SECONDS)


def refusal(error: EtcdlockError, /) -> Answer:
    """As it is told to whoever asked."""
    held = isinstance(error, HeldElsewhere)
    return {"error": f"{error}{'; ' + error.hint if error.hint else ''}", "held elsewhere": held}


def uuid_of(name: str, /) -> UUID:
    """The same on every host."""
    return uuid5(NAMESPACE_DNS, f"{name}.{os.environ['ETCDLOCK_CLUSTER']}.etcdlock")
