"""One host of the demo as a process that holds everything of it, so that its power can be pulled.

    python -m etcdlock.demo.machine COMMAND...

It runs COMMAND and adopts whatever that leaves behind. The end of its own input is the power loss: SIGKILL to every
process under it, until none is left. As the input ends with the demo too, however that ends, nothing outlives the
demo. SIGTERM is passed on to COMMAND. It ends with COMMAND's status, or 128 + the signal that killed it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from types import FrameType
from typing import Final

from etcdlock.guard import table

_PR_SET_CHILD_SUBREAPER: Final = 36


def main(command: list[str]) -> int:
    """Run it; its exit status."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses us a host's orphans")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - to run it is what we are for

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    try:
        has_ended = _ends_before_power_loss(child)
        status = child.wait() if has_ended else -signal.SIGKILL
    finally:
        _kill_everything()
    return status if status >= 0 else 128 - status


def _ends_before_power_loss(child: subprocess.Popen[bytes]) -> bool:
    """Wait for the first of both."""
    pidfd = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(0, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll()]
    os.close(pidfd)
    return 0 not in ready


def _kill_everything() -> None:
    """Whoever is born while we look is an orphan of somebody whose end we wait for, and found by the next look."""
    me = table.look_up(os.getpid())
    if me is None:
        raise FileNotFoundError("/proc/self/stat")
    while True:
        for process in table.family(table.read_table(), leader=me.name):
            if process.name != me.name:
                table.send(process.name, number=signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
