"""Paths as text: one form for all spellings, and the names that rest on the text alone.

A path is bytes without NUL. Bytes that are not UTF-8 travel as surrogate escapes, the way `sys.argv` and
`os.fsdecode` give them; digests are made over the bytes. `..` is refused, not resolved: behind a symbolic link the
text does not tell where it leads.
"""

from __future__ import annotations

import hashlib
from typing import Final

from etcdlock.errors import InvalidInput
from etcdlock.identity.words import DiskIdentity, ResourceName, escaped

PATH_LOCKSPACE: Final = "path"
MD5_LOCKSPACE: Final = "__LIBVIRT__DISKS__"

# PATH_MAX is 4096 and counts the final NUL.
_PATH_MAX_BYTES: Final = 4095


def normal_path(path: str, /) -> str:
    """The absolute path with single slashes and without `.`; raises `InvalidInput` for what names no file safely."""
    if "\0" in path:
        raise InvalidInput(f"the path '{escaped(path)}' contains a NUL character, which no file name can")
    if not path.startswith("/"):
        raise InvalidInput(
            f"the path '{escaped(path)}' is not absolute",
            hint="write it from the root of the file system; relative paths mean another file on every host",
        )
    if len(path_bytes(path)) > _PATH_MAX_BYTES:
        raise InvalidInput(f"the path '{escaped(path[:40])}…' is longer than {_PATH_MAX_BYTES} bytes")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidInput(
            f"the path '{escaped(path)}' contains '..', which symbolic links can lead anywhere",
            hint="write the path that `realpath` prints",
        )
    return "/" + "/".join(parts)


def path_bytes(path: str, /) -> bytes:
    """The bytes that the kernel would see."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the path '{escaped(path)}' contains half of a surrogate pair, not a byte") from error


def identify_path(path: str, /, *, rule: DiskIdentity) -> ResourceName:
    """The name of a file, block device or folder.

    Under `MD5` it is what libvirt's sanlock plug-in calls the same path. That plug-in hashes every spelling as it
    stands; here the normal form is hashed, or `/a//b` and `/a/b` would be two disks.
    """
    if rule is DiskIdentity.AUTO:
        raise RuntimeError("a path's text does not tell what is there")
    normal = normal_path(path)
    if rule is DiskIdentity.PATH:
        return ResourceName(PATH_LOCKSPACE, normal)
    digest = hashlib.md5(path_bytes(normal), usedforsecurity=False).hexdigest()
    return ResourceName(MD5_LOCKSPACE, digest)


def check_local_folder(folder: str, /) -> str:
    """Its normal form. Raises `InvalidInput` for one that cannot be meant."""
    normal = normal_path(folder)
    if normal == "/":
        raise InvalidInput("'/' cannot be a folder that every host has for itself: no disk would be shared any more")
    return normal


def lies_below(path: str, folder: str) -> bool:
    """By components: `/a/bc` does not lie below `/a/b`."""
    return path.startswith(f"{folder}/")
