"""A migration that goes on beside the test, so that something can happen in its midst."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.libvirt.guest import Guest
from tests.libvirt.libvirt_host import LibvirtHost
from tests.libvirt.waiting import wait_until

Moved = Future[subprocess.CompletedProcess[str]]


@contextmanager
def migrating(source: LibvirtHost, guest: Guest, /, *options: str, to: LibvirtHost) -> Iterator[Moved]:
    """Inside, it has begun: QEMU waits for the guest on the destination. It has ended on return."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        moved = beside.submit(source.migrate, guest, *options, to=to)
        wait_until(lambda: _awaits(guest, on=to) or moved.done(), what=f"{guest.name} is awaited on {to.name}")
        assert not moved.done(), moved.result().stderr
        yield moved


def _awaits(guest: Guest, *, on: LibvirtHost) -> bool:
    """Whether the process has become QEMU; before that it is libvirt's, and still to be announced to the agent."""
    pid = on.qemu_pid(guest.name)
    if pid is None:
        return False
    try:
        return b"-incoming" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
