"""A host whose agent and guard can do nothing any more is reset by its watchdog, in time; and no other host ever is.

Real ones: the guard, Debian's kernel and its drivers, softdog among them, QEMU's i6300esb. The reset is seen from
outside, over QMP.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.watchdog.init import BUDGET_SECONDS, PROVEN_SECONDS, WATCHDOG_SECONDS
from tests.watchdog.initramfs import kernel_with_drivers, pack, unpack_kernel
from tests.watchdog.machine import Machine, Seen

pytestmark = pytest.mark.timeout(400)       # three machines boot, emulated
SLACK_SECONDS = 0.5
"""The VM tells its time every 0.2 s; what QEMU reports, happened by the next time at the latest."""
RESET = {"i6300esb": "WATCHDOG", "softdog": "RESET"}
"""What QEMU reports: its own device fires, or a kernel resets its machine."""
SCENARIOS = (
    ("i6300esb", "agent_and_guard_hang"),
    ("i6300esb", "the_guest_does_not_die"),
    ("softdog", "agent_and_guard_hang"),
)
Course = dict[str, Seen]


def course(stack: ExitStack, kernel: Path, initramfs: Path, driver: str, scenario: str) -> Course:
    """What happened first, of each kind, up to the reset."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wd")))
    with Machine(kernel, initramfs, folder, driver=driver, scenario=scenario) as machine:
        machine.until(RESET[driver])
        found: Course = {}
        for seen in machine.seen:
            found.setdefault(seen.what.partition(" ")[0], seen)
            found.setdefault(seen.what, seen)
        return found


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Course]]:
    """All scenarios, each in a VM of its own, at once."""
    found = kernel_with_drivers()
    if found is None or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs QEMU and a Debian kernel with the drivers i6300esb and softdog: make system-deps")
    kernel, modules = found
    folder = tmp_path_factory.mktemp("system")
    initramfs, unpacked = folder / "initramfs", folder / "vmlinux"
    initramfs.write_bytes(pack(modules))
    unpacked.write_bytes(unpack_kernel(kernel))
    with ExitStack() as stack, ThreadPoolExecutor(len(SCENARIOS)) as pool:
        runs = {each: pool.submit(course, stack, unpacked, initramfs, *each) for each in SCENARIOS}
        yield {each: run.result() for each, run in runs.items()}


@pytest.mark.parametrize("driver", sorted(RESET))
def test_a_host_whose_agent_and_guard_hang_is_reset_within_its_watchdogs_timeout_and_not_while_proofs_arrive(
    courses: dict[tuple[str, str], Course], driver: str
) -> None:
    on = courses[driver, "agent_and_guard_hang"]
    assert on["outlived-an-orderly-end"].at_seconds - on["closed"].at_seconds > 2 * WATCHDOG_SECONDS
    proving, hanging, reset = on["proving"], on["hanging"], on[RESET[driver]]
    assert f"watchdog open {WATCHDOG_SECONDS}.0" in on
    assert hanging.at_seconds - proving.at_seconds > PROVEN_SECONDS - SLACK_SECONDS
    assert 0.0 < reset.at_seconds - hanging.at_seconds < WATCHDOG_SECONDS + SLACK_SECONDS


def test_a_host_whose_guest_does_not_die_is_fed_until_a_reset_would_come_too_late_and_is_reset_within_the_budget(
    courses: dict[tuple[str, str], Course],
) -> None:
    on = courses["i6300esb", "the_guest_does_not_die"]
    silent, reset = on["silent"], on["WATCHDOG"]
    assert on["event striking"].at_seconds < on["event stuck"].at_seconds < reset.at_seconds
    fed_until = BUDGET_SECONDS - 2 * WATCHDOG_SECONDS - 0.5
    assert fed_until - SLACK_SECONDS < reset.at_seconds - silent.at_seconds < BUDGET_SECONDS - 0.5
