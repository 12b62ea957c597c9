"""Says by its exit code whether this container's agent answers and takes requests: 0, else 1 and why not.

An etcd that is away is no fault of the agent's: that is told by `etcdlock_seconds_to_stop` and its alert.
"""

import sys

from etcdlock.api.client import AgentClient
from etcdlock.config import load
from etcdlock.errors import EtcdlockError


def main() -> None:
    """Ask at the socket that the settings name."""
    try:
        agent = AgentClient(load().api_path, timeout_seconds=4).agent(with_guests=False)
    except EtcdlockError as error:
        sys.exit(str(error))
    if not agent["ready"]:
        sys.exit("the agent is starting or stopping")


main()
