"""A system that is a Python interpreter, the guard and a few kernel modules: packed as an initramfs, for a small VM.

Nothing of it is made for the purpose but its first process: the interpreter, its libraries and the guard are this very
machine's, the kernel and its modules Debian's.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import etcdlock

BOOT, MODULES = Path("/boot"), Path("/lib/modules")
DRIVERS = ("i6300esb", "softdog")
_INIT = Path(__file__).with_name("init.py")
_PACKAGE = Path(etcdlock.__file__).parent
_PYTHON = Path(os.path.realpath(sys.executable))
_LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
import runpy, etcdlock.guard.__main__
with open(sys.argv[2]) as stream: compile(stream.read(), sys.argv[2], "exec")
import ctypes, os, pathlib, signal, socket, struct, time, traceback, select
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None) or "")
    print(getattr(module, "__cached__", None) or "")
print(os.__file__)
import encodings.ascii, encodings.latin_1, encodings.utf_8
"""


def kernel_with_drivers() -> tuple[Path, Path] | None:
    """A kernel of this machine's and the folder of its modules, if it has drivers for the watchdogs that QEMU knows."""
    for folder in sorted(MODULES.glob("*"), reverse=True):
        image = BOOT / f"vmlinuz-{folder.name}"
        if image.exists() and all(_module(folder, name) for name in DRIVERS):
            return image, folder
    return None


def unpack_kernel(image: Path, /) -> bytes:
    """The kernel itself, which QEMU starts as it is: unpacking it in an emulated machine would take longest of all."""
    packed = image.read_bytes()
    for magic, unpack in ((b"\xfd7zXZ\x00", lzma.LZMADecompressor().decompress), (b"\x1f\x8b\x08", gzip_unpack)):
        begins = packed.find(magic)
        if begins >= 0:
            return unpack(packed[begins:])
    return packed       # packed in another way: QEMU starts that, too


def gzip_unpack(packed: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(packed)


def pack(modules: Path, /) -> bytes:
    """The initramfs: a cpio archive, not compressed."""
    drivers = [module for name in DRIVERS for module in _with_needs(modules, name)]
    wanted = {*_interpreter(), *_guard(), *(modules / driver for driver in drivers)}
    files = {path: path.read_bytes() for path in wanted}
    listed = "\n".join(f"{_stem(driver)} {modules / driver}" for driver in dict.fromkeys(drivers))
    shebang = f"#!{_PYTHON} -sPS\n".encode()
    files |= {Path("/init"): shebang + _INIT.read_bytes(), Path("/drivers"): listed.encode()}
    files[Path("/package")] = str(_PACKAGE.parent).encode()
    return _cpio(files)


def _interpreter() -> Iterator[Path]:
    """The files that it has open, or loaded, when the guard is all that it runs."""
    command = [str(_PYTHON), "-sPS", "-c", _LOADED, str(_PACKAGE.parent), str(_INIT)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    named = {Path(line) for line in told if line.startswith("/")}
    folder = Path(os.path.realpath(os.__file__)).parent
    named |= {folder / "encodings" / f"{name}.py" for name in ("__init__", "aliases", "ascii", "latin_1", "utf_8")}
    named |= {_PYTHON, folder / "os.py", *(folder / "lib-dynload").glob("*fcntl*")}
    found = {path for path in named if path.is_file()}
    yield from found
    for path in found:
        if path == _PYTHON or path.suffix == ".so":
            yield from _libraries(path)


def _libraries(path: Path) -> Iterator[Path]:
    told = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    yield from (Path(name) for name in re.findall(r"(?:=> )?(/\S+) \(0x", told))


def _guard() -> Iterator[Path]:
    yield from (_PACKAGE / "guard").glob("*.py")
    yield _PACKAGE / "escalation.py"


def _module(folder: Path, name: str) -> str | None:
    """Its path below the folder, as modules.dep has it."""
    return next((path for path in _needs(folder) if _stem(path) == name), None)


def _with_needs(folder: Path, name: str) -> list[str]:
    """What must be loaded, in order."""
    needs = _needs(folder)
    path = next(path for path in needs if _stem(path) == name)
    return [*reversed(needs[path]), path]


def _needs(folder: Path) -> dict[str, list[str]]:
    try:
        lines = (folder / "modules.dep").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {path: needs.split() for path, _, needs in (line.partition(":") for line in lines)}


def _stem(path: str) -> str:
    return Path(path).name.partition(".")[0]


def _cpio(files: dict[Path, bytes]) -> bytes:
    """The "new ASCII" format, with every folder on the way."""
    folders = {parent for path in files for parent in path.parents if parent != Path("/")}
    folders |= {Path(name) for name in ("/proc", "/sys", "/dev")}
    entries = [(folder, stat.S_IFDIR | 0o755, b"") for folder in sorted(folders)]
    entries += [(Path("/dev/console"), stat.S_IFCHR | 0o600, b"")]     # else the first process has no output
    entries += [(path, stat.S_IFREG | 0o755, content) for path, content in files.items()]
    packed = (_entry(number, path, mode, content) for number, (path, mode, content) in enumerate(entries, 1))
    return b"".join((*packed, _entry(0, Path("/TRAILER!!!"), 0, b"")))


def _entry(number: int, path: Path, mode: int, content: bytes) -> bytes:
    name = os.fsencode(str(path).lstrip("/")) + b"\0"
    device = (5, 1) if stat.S_ISCHR(mode) else (0, 0)
    fields: Iterable[int] = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
