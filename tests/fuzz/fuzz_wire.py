"""Coverage-guided fuzzing of the wire protocol: `python -m tests.fuzz.fuzz_wire SECONDS [FOLDER]`.

It runs for that long, leaves nothing behind, and exits non-zero with the input that broke a rule of `wire_properties`
or took more than 512 MB. It starts from one message of every kind; with a FOLDER, from what is in there, and there it
leaves what it has learned and found.
"""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

atheris: Any = importlib.import_module("atheris")  # ships no types

with atheris.instrument_imports(include=["etcdlock.libvirt"]):
    from etcdlock.libvirt import remote_error
    from etcdlock.libvirt.packet import Header, PacketType, Status
    from etcdlock.libvirt.procedure import (
        AcquireFlags,
        AcquireResource,
        CreateLockspace,
        CreateResource,
        DeleteResource,
        NewLockspace,
        Register,
        ReleaseResource,
        Request,
        Restrict,
    )
    from etcdlock.libvirt.wire import PROGRAM, VERSION, encode_call, encode_done, encode_error
    from tests.fuzz.wire_properties import check_conversation

CUTS = struct.Struct(">HH")
MEMORY_LIMIT_MB = 512
FINDING = "finding-"
LONGEST_INPUT_BYTES = 2048
REQUESTS: tuple[Request, ...] = (
    Register(UUID(int=1), "vm", 1, 4711),
    Restrict(),
    NewLockspace("/locks"),
    CreateResource("/locks", "disk"),
    DeleteResource("/locks", "disk"),
    AcquireResource("", "/san/disk", AcquireFlags.SHARED | AcquireFlags.AUTOCREATE),
    ReleaseResource("", "/san/disk"),
    CreateLockspace("/locks"),
)


def one_input(data: bytes) -> None:
    """The first bytes say where the rest is cut."""
    if len(data) >= CUTS.size:
        check_conversation(data[CUTS.size :], cuts=CUTS.unpack_from(data))


def seeds() -> list[bytes]:
    """One message of every kind, and all calls in one conversation."""
    to = Header(PROGRAM, VERSION, 6, PacketType.CALL, 1, Status.OK)
    calls = [encode_call(request, serial=serial) for serial, request in enumerate(REQUESTS)]
    return [*calls, b"".join(calls), encode_done(to), encode_error(to, remote_error.not_locked("/san/disk"))]


def fuzz(folder: Path, *, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT_BYTES}",
        "-len_control=0",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-artifact_prefix={folder}/{FINDING}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one_input)
    atheris.Fuzz()


def fuzz_and_clean_up(*, seconds: int) -> int:
    """The exit status of a run in a folder of its own, which is removed; a finding is printed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-wire-") as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(CUTS.pack(5, 40) + seed)
        status = subprocess.call([sys.executable, "-m", "tests.fuzz.fuzz_wire", str(seconds), folder])
        for finding in Path(folder).glob(f"{FINDING}*"):
            print(f"to see it again: one_input(bytes.fromhex('{finding.read_bytes().hex()}'))")
    return status


if __name__ == "__main__":
    if len(sys.argv) > 2:
        fuzz(Path(sys.argv[2]), seconds=int(sys.argv[1]))
    else:
        sys.exit(fuzz_and_clean_up(seconds=int(sys.argv[1])))
