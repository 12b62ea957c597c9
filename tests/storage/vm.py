"""A machine of its own, with a kernel that has what this one may lack: the device mapper, md, NVMe, NFS.

It boots Debian's kernel, emulated, since nested KVM does not boot it everywhere. It sees this machine's files as its
own, read-only: so the very code and the very programs that are here run there, as root, on disks that QEMU makes up.
What it writes is in memory.

Guaranteed: nothing of it is left when `run` returns, however that ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
BUSYBOX = Path("/bin/busybox")
BOOT_SECONDS = 400.0
"""Far more than it takes on a machine that has nothing else to do."""
MODULES = ("virtio_pci", "virtiofs", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "loop", "af_packet")
BEGIN, END = "---8<--- begin", "---8<--- end"

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod /lib/$module || echo "insmod $module failed"; done
mkdir -p /root
mount -t virtiofs -o ro host /root || poweroff -f
for dir in proc sys dev; do mount --move /$dir /root/$dir; done
for dir in run mnt srv var/lib media; do mount -t tmpfs tmpfs /root/$dir; done
mkdir -p /root/run/lock /root/dev/shm; mount -t tmpfs tmpfs /root/dev/shm
ip link set lo up
cat /script > /root/run/script
echo; echo "{BEGIN}"
export TMPDIR=/run HOME=/run PYTHONDONTWRITEBYTECODE=1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chroot /root /bin/bash /run/script 2>&1
echo; echo "{END}"
poweroff -f
"""


def kernel() -> tuple[Path, Path] | None:
    """A kernel and its modules."""
    for image in sorted(Path("/boot").glob("vmlinuz-*"), reverse=True):
        modules = Path("/lib/modules", image.name.removeprefix("vmlinuz-"))
        if (modules / "modules.dep").exists():
            return image, modules
    return None


def needed() -> None:
    """Skip where a machine cannot be made."""
    there = os.geteuid() == 0 and kernel() is not None
    programs = all(shutil.which(name) for name in ("qemu-system-x86_64", "lvm", "mdadm", "exportfs"))
    if not (there and programs and VIRTIOFSD.exists() and BUSYBOX.exists()):
        pytest.skip("needs root, a kernel in /boot, QEMU, busybox, LVM, md and NFS: make system-deps")


def run(script: str, folder: Path, /, *, devices: Sequence[str]) -> str:
    """What the script prints in a machine that has these devices."""
    found = kernel()
    assert found is not None
    image, modules = found
    (folder / "initrd").write_bytes(_initrd(script, modules))
    socket = folder / "fs"
    with (folder / "virtiofsd.log").open("wb") as log:
        server = subprocess.Popen(
            (str(VIRTIOFSD), f"--socket-path={socket}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"),
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        return _boot(image, folder, socket, devices=devices)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _boot(image: Path, folder: Path, socket: Path, /, *, devices: Sequence[str]) -> str:
    command = (
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-serial", f"file:{folder}/console",
        "-machine", "pc,accel=tcg,memory-backend=memory", "-m", "768", "-smp", "2",
        "-object", "memory-backend-memfd,id=memory,size=768M,share=on",
        "-chardev", f"socket,id=files,path={socket}", "-device", "vhost-user-fs-pci,chardev=files,tag=host",
        "-kernel", str(image), "-initrd", str(folder / "initrd"),
        "-append", "console=ttyS0 quiet panic=-1 loglevel=3 mitigations=off",
        *devices,
    )  # fmt: skip
    told = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_SECONDS, check=False
    )
    text = (folder / "console").read_text(errors="replace").replace("\r\n", "\n")
    answer = re.search(rf"^{BEGIN}\n(.*?)\n{END}", text, re.DOTALL | re.MULTILINE)
    assert answer is not None, f"{text}\n{told.stderr.decode()}"
    return answer[1]


# --- the initial file system ---------------------------------------------------------------------------------------


def _initrd(script: str, modules: Path) -> bytes:
    order = _with_needs(MODULES, modules)
    files = {
        "init": (0o100755, INIT.encode()),
        "script": (0o100644, script.encode()),
        "modules": (0o100644, "\n".join(path.name for path in order).encode()),
        "bin/busybox": (0o100755, BUSYBOX.read_bytes()),
        **{f"lib/{path.name}": (0o100644, path.read_bytes()) for path in order},
    }
    folders = dict.fromkeys(("bin", "lib", "proc", "sys", "dev"), (16877, b""))
    console = _entry("dev/console", 0o020600, b"", device=(5, 1))
    entries = [_entry(name, mode, body) for name, (mode, body) in {**folders, **files}.items()]
    return b"".join((*entries, console, _entry("TRAILER!!!", 0, b"")))


def _with_needs(names: Sequence[str], modules: Path) -> list[Path]:
    """Their files, each after those that it needs; what is built into the kernel is in none."""
    lines = (line.partition(":") for line in (modules / "modules.dep").read_text().splitlines())
    needs = {path: rest.split() for path, _, rest in lines}
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in names:
        path = by_name.get(name)
        if path is not None:
            order += [one for one in (*reversed(needs[path]), path) if one not in order]
    return [modules / path for path in order]


def _entry(name: str, mode: int, body: bytes, *, device: tuple[int, int] = (0, 0)) -> bytes:
    """A file in a cpio archive (newc)."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return _padded(head) + _padded(body)


def _padded(block: bytes) -> bytes:
    return block + bytes(-len(block) % 4)


if __name__ == "__main__":
    print(run(sys.stdin.read(), Path(sys.argv[1]), devices=sys.argv[2:]))
