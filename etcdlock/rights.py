"""Who is who in etcd: the names of a cluster's users; pure.

    <cluster>/host/<host id>       a host
    <cluster>/operator/<name>      somebody who may break
    <cluster>/reader/<name>        somebody who may look

A user's name is also its certificate's common name, so every part can be told apart and taken away alone. Cluster and
name are one segment each, as in keys: no name reaches into another's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from etcdlock.keyspace import Keyspace, segment

ADMINISTRATOR: Final = "root"
"""etcd's own name for who may do everything, as a user and as a role."""


class Part(StrEnum):
    """What somebody is to the cluster."""

    HOST = "host"
    OPERATOR = "operator"
    READER = "reader"


def user_name(keys: Keyspace, part: Part, name: str, /) -> str:
    """Who this is in etcd, and in its certificate."""
    return f"{segment(keys.cluster)}/{part}/{segment(name)}"
