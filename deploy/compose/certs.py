"""Makes the certificates of the trial cluster, once, and gives every container its own and no other.

In /authority everything is kept, as `etcdlock certs` makes it. Below /given every member and host has a folder of its
own: ca.pem, cert.pem and cert.key, of which the key is readable by the user alone that its container runs as.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

AUTHORITY, GIVEN = Path("/authority"), Path("/given")
OWNERS = {"members": 64055, "hosts": 0}


def main() -> None:
    """What is there already stays."""
    names = {kind: sorted(folder.name for folder in (GIVEN / kind).iterdir()) for kind in OWNERS}
    if not (AUTHORITY / "ca.pem").exists():
        members = [word for name in names["members"] for word in ("--member", name)]
        hosts = [word for name in names["hosts"] for word in ("--host", name)]
        subprocess.run(["etcdlock", "certs", str(AUTHORITY), "--cluster", "trial", *members, *hosts], check=True)
    for kind, owner in OWNERS.items():
        for name in names[kind]:
            give(AUTHORITY / "ca.pem", GIVEN / kind / name / "ca.pem", owner=owner)
            give(AUTHORITY / kind / f"{name}.pem", GIVEN / kind / name / "cert.pem", owner=owner)
            give(AUTHORITY / kind / f"{name}.key", GIVEN / kind / name / "cert.key", owner=owner)


def give(source: Path, target: Path, *, owner: int) -> None:
    """A copy that only `owner` can read."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as copy:
        copy.write(source.read_bytes())
        os.fchown(descriptor, owner, owner)


if __name__ == "__main__":
    main()
