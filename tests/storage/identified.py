"""What disks are called on this machine, as JSON: for where starting the whole command line takes long."""

from __future__ import annotations

import json
import sys

from etcdlock.adapters.places import Places
from etcdlock.errors import EtcdlockError
from etcdlock.identity import DiskIdentity, Naming


def main(paths: list[str], /) -> None:
    naming = Naming(DiskIdentity.AUTO, boot="boot", look=Places())
    for path in paths:
        try:
            (found,) = naming.identified((path,))
        except EtcdlockError as error:
            print(json.dumps({"name": None, "warning": "", "error": str(error)}))
        else:
            print(json.dumps({"name": str(found.name), "warning": found.warning, "error": ""}))


if __name__ == "__main__":
    main(sys.argv[1:])
