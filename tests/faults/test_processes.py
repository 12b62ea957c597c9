"""Guests as real processes: nothing runs behind a closed gate, and a guest is gone only when all of it is."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from etcdlock.adapters.processes import LocalGuest, LocalGuests
from etcdlock.errors import GuestNotStarted
from etcdlock.guard import table
from etcdlock.ports import ExitStatus
from tests.faults.guarding import DAEMON, DEADLINE_SECONDS, WITH_PACKAGE, carrying, comes_true, lives, run

STORM = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
generation = 0
while generation < 3000:
    if os.fork():
        if generation % 2: os._exit(0)
        os.pause() if hasattr(os, "pause") else signal.pause()
    os.setsid()
    generation += 1
signal.pause()
"""
"""Each process leaves another one behind, in a session of its own."""


async def start(*command: str, **environment: str) -> LocalGuest:
    return await LocalGuests().start(command, environment=environment)


async def written(file: Path) -> int:
    """The number in the file, once it is there."""
    assert await asyncio.to_thread(comes_true, file.exists)
    return int(await asyncio.to_thread(file.read_text, encoding="ascii"))


def descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


def is_inheritable(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_a_guest_whose_gate_stays_shut_never_runs(tmp_path: Path) -> None:
    async def scenario() -> ExitStatus:
        guest = await start("touch", str(tmp_path / "ran"))
        guest.kill()
        return await guest.gone()

    assert run(scenario()).signal == signal.SIGKILL
    assert not (tmp_path / "ran").exists()


def test_a_guest_whose_parent_dies_before_the_gate_opens_never_runs(tmp_path: Path) -> None:
    program = (
        "import asyncio, os\n"
        "from etcdlock.adapters.processes import LocalGuests\n"
        f"guest = asyncio.run(LocalGuests().start(['touch', {str(tmp_path / 'ran')!r}], environment={{}}))\n"
        "print(guest.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=WITH_PACKAGE) as parent:
        output, _ = parent.communicate(timeout=DEADLINE_SECONDS)      # ends when the guest has closed its copy of it
    assert output.strip().isdigit()
    assert parent.returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("token", "parent"), [(b"12", os.getpid), (b"12\n", os.getppid)], ids=["half a token", "another's child"]
)
def test_half_a_token_and_a_token_of_a_parent_that_died_open_nothing(
    token: bytes, parent: Callable[[], int], tmp_path: Path
) -> None:
    gate = Path(table.__file__).with_name("gate.py")
    reading, writing = os.pipe()
    os.write(writing, token)
    os.close(writing)
    command = [sys.executable, "-I", "-S", str(gate), str(reading), str(parent())]
    command += ["/bin/touch", "--", "touch", str(tmp_path / "ran")]
    assert subprocess.run(command, pass_fds=(reading,), check=False, timeout=DEADLINE_SECONDS).returncode == 125
    os.close(reading)
    assert not (tmp_path / "ran").exists()


def test_the_command_sees_its_token_and_the_environment_it_was_given(tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    async def scenario() -> int:
        script = f"tr '\\0' '\\n' </proc/$$/environ >{seen}"
        guest = await start("sh", "-c", script, ETCDLOCK_SESSION="abc", LC_ALL="", ODD="\udcff=\n")
        guest.open_gate(token=4711)
        assert await guest.gone() == ExitStatus(0)
        return guest.pid

    pid = run(scenario())
    text = os.fsdecode(seen.read_bytes())
    lines = set(text.split("\n"))
    assert {"ETCDLOCK_TOKEN=4711", "ETCDLOCK_SESSION=abc", "ODD=\udcff="} <= lines
    assert any(line.startswith(f"ETCDLOCK_GUEST={pid}:") for line in lines)
    assert ("LC_CTYPE" in os.environ) == any(line.startswith("LC_CTYPE=") for line in lines)


def test_pid_and_start_time_name_the_command_as_they_named_the_gate(tmp_path: Path) -> None:
    async def scenario() -> tuple[LocalGuest, str]:
        guest = await start("sh", "-c", f"cat /proc/$$/stat >{tmp_path}/stat")
        guest.open_gate(token=1)
        await guest.gone()
        return guest, (tmp_path / "stat").read_text(encoding="ascii")

    guest, line = run(scenario())
    assert table.parse(line.encode()).name == table.Name(guest.pid, guest.pid_start)


def test_signals_that_the_interpreter_ignores_are_back_to_their_defaults(tmp_path: Path) -> None:
    async def scenario() -> None:
        guest = await start("sh", "-c", f"grep SigIgn /proc/self/status >{tmp_path}/ignored")
        guest.open_gate(token=1)
        await guest.gone()

    run(scenario())
    ignored = int((tmp_path / "ignored").read_text(encoding="ascii").split()[1], 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        assert not ignored & 1 << (number - 1)


def test_exit_codes_and_signals_are_told_apart() -> None:
    async def status(script: str) -> ExitStatus:
        guest = await start("sh", "-c", script)
        guest.open_gate(token=1)
        return await guest.gone()

    assert run(status("exit 7")) == ExitStatus(7)
    assert run(status("kill -TERM $$")) == ExitStatus(143, signal.SIGTERM)


def test_the_status_is_known_though_whoever_started_us_ignored_its_children() -> None:
    program = (
        "import asyncio, signal\n"
        "from etcdlock.adapters.processes import LocalGuests\n"
        "async def main():\n"
        "    guest = await LocalGuests().start(['sh', '-c', 'exit 7'], environment={})\n"
        "    guest.open_gate(token=1)\n"
        "    print((await guest.gone()).code)\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.check_output(command, env=WITH_PACKAGE, text=True, timeout=DEADLINE_SECONDS)
    assert output == "7\n"


def test_a_command_that_cannot_run_is_found_before_anything_is_started(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program", encoding="utf-8")
    for command, missing in (
        ("etcdlock-no-such-command", True),
        (str(tmp_path / "absent"), True),
        (str(plain), False),
        (str(tmp_path), False),
    ):
        with pytest.raises(GuestNotStarted) as refusal:
            run(start(command))
        assert refusal.value.missing is missing, command
    with pytest.raises(GuestNotStarted):
        run(start("sh", "-c", "a\0b"))


def test_a_command_that_breaks_behind_the_gate_exits_like_a_shells(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    broken.chmod(0o755)
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"\x7fELF nonsense")
    nonsense.chmod(0o755)

    async def status(path: Path) -> ExitStatus:
        guest = await start(str(path))
        guest.open_gate(token=1)
        return await guest.gone()

    assert run(status(broken)) == ExitStatus(127)
    assert run(status(nonsense)) == ExitStatus(126)


def test_a_daemon_that_the_guest_leaves_behind_is_still_the_guest(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def scenario() -> ExitStatus:
        guest = await start(sys.executable, "-c", DAEMON, str(tmp_path / "pid"), str(fifo), "end")
        guest.open_gate(token=1)
        daemon = await written(tmp_path / "pid")
        gone = asyncio.create_task(guest.gone())
        done, _ = await asyncio.wait({gone}, timeout=0.3)
        assert not done
        assert lives(daemon)
        fifo.write_text("end", encoding="ascii")
        return await gone

    assert run(scenario()) == ExitStatus(3)


def test_kill_reaches_the_daemon_and_what_ignores_every_other_signal(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def scenario() -> int:
        script = f"trap '' TERM INT HUP; {sys.executable} -c \"$DAEMON\" {tmp_path}/pid {fifo} end; kill -STOP $$"
        guest = await start("sh", "-c", script, DAEMON=DAEMON)
        guest.open_gate(token=1)
        daemon = await written(tmp_path / "pid")
        guest.signal(signal.SIGTERM)
        assert lives(daemon)
        assert lives(guest.pid)
        guest.kill()
        assert (await guest.gone()).signal == signal.SIGKILL
        assert await guest.gone() == await guest.gone()
        return daemon

    assert not lives(run(scenario()))


def children() -> set[table.Name]:
    return {process.name for process in table.read_table() if process.parent == os.getpid() and process.alive}


def test_a_storm_of_forks_is_put_down() -> None:
    before = children()

    async def scenario() -> None:
        guest = await start(sys.executable, "-c", STORM)
        guest.open_gate(token=1)
        mark = f"{guest.pid}:{guest.pid_start}"
        assert await asyncio.to_thread(comes_true, lambda: len(carrying(mark)) >= 10)
        guest.kill()
        await guest.gone()

    run(scenario())
    assert children() <= before, "what the storm left behind was adopted by us"


def bystander() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_a_child_that_is_spared_is_no_part_of_the_guest() -> None:
    async def scenario() -> None:
        guests = LocalGuests()
        before = bystander()
        guest = await guests.start(["sleep", "60"], environment={})
        await asyncio.sleep(0.05)       # a few ticks of the clock by which the kernel counts start times
        since = bystander()
        guests.spare(since.pid)
        try:
            guest.open_gate(token=1)
            guest.kill()
            await guest.gone()
            assert before.poll() is None
            assert since.poll() is None
        finally:
            for process in (before, since):
                process.kill()
                process.wait()

    run(scenario())


def test_a_signal_is_for_the_process_that_was_named_not_for_who_has_its_pid() -> None:
    with bystander() as process:
        now = table.look_up(process.pid)
        assert now is not None
        table.send(table.Name(process.pid, now.name.start - 1), number=signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        table.send(now.name, number=signal.SIGKILL)
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL


def test_a_second_guest_is_refused_while_the_first_lives_and_not_afterwards() -> None:
    async def scenario() -> None:
        guests = LocalGuests()
        first = await guests.start(["sleep", "60"], environment={})
        with pytest.raises(GuestNotStarted):
            await guests.start(["true"], environment={})
        first.kill()
        await first.gone()
        second = await guests.start(["true"], environment={})
        second.open_gate(token=1)
        assert await second.gone() == ExitStatus(0)

    run(scenario())


def test_a_descriptor_given_to_us_for_the_guest_is_passed_on_and_no_other(tmp_path: Path) -> None:
    others = {descriptor for descriptor in descriptors() if is_inheritable(descriptor)}
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)

    async def scenario() -> None:
        script = f"import os; os.write({writing}, ' '.join(os.listdir('/proc/self/fd')).encode())"
        guest = await start(sys.executable, "-c", script)
        guest.open_gate(token=1)
        await guest.gone()

    run(scenario())
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as stream:
        found = set(stream.read().split())
    listing = 1
    assert {"0", "1", "2", str(writing)} <= found
    assert len(found) == len(others | {0, 1, 2, writing}) + listing


def test_on_a_terminal_the_guest_reads_from_it_and_we_get_it_back() -> None:
    program = (
        "import asyncio, os\n"
        "from etcdlock.adapters.processes import LocalGuests\n"
        "async def main():\n"
        "    guest = await LocalGuests().start(['sh', '-c', 'read line; echo got $line; exit 5'], environment={})\n"
        "    guest.open_gate(token=1)\n"
        "    status = await guest.gone()\n"
        "    print('status', status.code, 'ours', os.tcgetpgrp(0) == os.getpgrp(), flush=True)\n"
        "asyncio.run(main())\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", program], WITH_PACKAGE)  # noqa: S606 - no shell is wanted
    os.write(terminal, b"word\n")
    output = b""
    while b"ours" not in output or not output.endswith(b"\n"):
        output += os.read(terminal, 1024)
    os.close(terminal)
    os.waitpid(child, 0)
    assert b"got word" in output
    assert b"status 5 ours True" in output
