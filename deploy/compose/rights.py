"""Gives each host of the trial cluster its user in etcd; asked for again while etcd's members still find each other."""

from __future__ import annotations

import subprocess
import sys
import time

COMMAND = ("etcdlock", "init-cluster", "--certs", "/authority")
ASK_AGAIN = (101, 102)
"""etcd is away, or did not say whether it was done: doing it twice does no harm."""
PATIENCE_SECONDS = 90.0

until = time.monotonic() + PATIENCE_SECONDS
while (status := subprocess.run(COMMAND, check=False).returncode) in ASK_AGAIN and time.monotonic() < until:
    time.sleep(0.5)
sys.exit(status)
