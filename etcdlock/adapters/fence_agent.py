"""Runs a fence agent by the convention of ClusterLabs' `fence-agents`: a program that switches a host off.

It gets its options as lines `key=value` on standard input, `action=off` and `action=status` among them. Its exit code
answers: to `status` 0 is on and 2 is off; anything else says nothing.

Guaranteed: nothing of the options is in its command line, its environment, or a log; secrets are read from their files
for each call, and struck out of what it prints before anybody sees that. A call that takes too long is killed with all
that it has started, and says nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from etcdlock.errors import NotConfirmedOff
from etcdlock.ports import Power, PowerSwitch

ON, OFF = 0, 2
"""Exit codes of `status`."""
LONGEST_OUTPUT = 300
STRUCK_OUT = "****"
NAMING = ("plug", "port", "ip", "ipaddr", "ip_address")
"""Options that tell one switch from another, for people."""
OURS = "ETCDLOCK_"
REAPED_WITHIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class FenceAgent(PowerSwitch):
    """`program` is its path; `secrets` names for each secret option the file that holds it."""

    program: str
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 60.0

    @property
    def label(self) -> str:
        """As in `fence_ipmilan (ip 10.0.1.7)`."""
        named = [f"{name} {self.options[name]}" for name in NAMING if name in self.options]
        program = Path(self.program).name
        return f"{program} ({', '.join(named)})" if named else program

    async def off(self) -> None:
        """Raises `NotConfirmedOff` unless it says that this was done."""
        code, said = await self._call("off")
        if code != 0:
            raise NotConfirmedOff(f"{self.label}: off: exit code {code}{_after(said)}")

    async def state(self) -> tuple[Power, str]:
        """What its `status` says."""
        try:
            code, said = await self._call("status")
        except NotConfirmedOff as error:
            return Power.UNKNOWN, str(error)
        power = {ON: Power.ON, OFF: Power.OFF}.get(code, Power.UNKNOWN)
        return power, "" if power is not Power.UNKNOWN else f"status: exit code {code}{_after(said)}"

    async def _call(self, action: str, /) -> tuple[int, str]:
        """Exit code, and the end of what it has printed. Raises `NotConfirmedOff` if it gives none in time."""
        secrets = await asyncio.to_thread(self._read_secrets)
        lines = "".join(f"{name}={value}\n" for name, value in {**self.options, **secrets, "action": action}.items())
        try:
            process = await asyncio.create_subprocess_exec(
                self.program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
                start_new_session=True,
            )
        except OSError as error:
            raise NotConfirmedOff(f"{self.program}: {error.strerror}", hint="see the table [fence]") from error
        try:
            async with asyncio.timeout(self.timeout_seconds):
                printed, _ = await process.communicate(lines.encode())
        except TimeoutError:
            raise NotConfirmedOff(f"{self.label}: {action}: no answer in {self.timeout_seconds:g} s") from None
        finally:
            await _end(process)
        return process.returncode if process.returncode is not None else -1, _cleaned(printed, secrets)

    def _read_secrets(self) -> dict[str, str]:
        try:
            return {name: Path(file).read_text(encoding="utf-8").rstrip("\r\n") for name, file in self.secrets.items()}
        except (OSError, UnicodeDecodeError) as error:
            raise NotConfirmedOff(f"{self.label}: a secret cannot be read: {error}") from error


async def _end(process: asyncio.subprocess.Process, /) -> None:
    """With all that it has started, if it has not ended: then its number is nobody else's."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(REAPED_WITHIN_SECONDS):
            await process.wait()


def _cleaned(printed: bytes, secrets: Mapping[str, str], /) -> str:
    """The last of it on one line, without secrets."""
    text = printed.decode(errors="replace")
    for secret in sorted(filter(None, secrets.values()), key=len, reverse=True):
        text = text.replace(secret, STRUCK_OUT)
    return " ".join(text.split())[-LONGEST_OUTPUT:]


def _after(said: str) -> str:
    return f", {said}" if said else ""
