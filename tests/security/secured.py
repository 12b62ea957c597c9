"""A real etcd that asks for certificates and keeps roles, as the two commands set it up, and those who come to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.adapters.etcd import EtcdOptions, EtcdStore
from etcdlock.cli.enrolment import Enrolment, enrol
from etcdlock.cli.issuing import Asked, make
from etcdlock.config import load
from etcdlock.keyspace import Keyspace
from tests.cli.hosts import Cluster, Done
from tests.contract.etcds import with_store

R = TypeVar("R")
Etcds = Callable[[str], EmbeddedEtcd]

CHEAP = "--bcrypt-cost=4"
"""So that making users takes no time."""
NOTHING = Path("/dev/null")
BLUE = Keyspace(cluster="blue")
EVERYBODY = Asked(members=("etcd",), hosts=("a", "b"), fleets=("nodes",), operators=("alice",), readers=("grafana",))


@dataclass(frozen=True, slots=True)
class Pki:
    """A folder of certificates."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, asked: Asked = EVERYBODY, /) -> Pki:
        make(folder, asked, keys=BLUE)
        return cls(folder)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def etcd_arguments(self) -> tuple[str, ...]:
        """What a member is started with."""
        return (
            f"--cert-file={self.file('members/etcd.pem')}",
            f"--key-file={self.file('members/etcd.key')}",
            f"--trusted-ca-file={self.file('ca.pem')}",
            "--client-cert-auth",
            CHEAP,
        )

    def settings(self, who: str, *, of: Pki | None = None) -> dict[str, str]:
        """Variables by which a command comes as `who`, with nothing if that is empty; `of` another folder."""
        own = of or self
        settings = {"ETCDLOCK_CA_FILE": self.file("ca.pem")}
        if who:
            settings |= {"ETCDLOCK_CERT_FILE": own.file(f"{who}.pem"), "ETCDLOCK_KEY_FILE": own.file(f"{who}.key")}
        return settings

    def options(self, endpoint: str, who: str) -> EtcdOptions:
        return EtcdOptions(
            endpoints=(endpoint,),
            ca_file=self.file("ca.pem"),
            cert_file=self.file(f"{who}.pem"),
            key_file=self.file(f"{who}.key"),
        )


@dataclass(slots=True)
class SecureCluster(Cluster):
    """The cluster `blue` in such an etcd; looked at and cleared by etcd's administrator."""

    pki: Pki = field(kw_only=True)

    def with_store(self, use: Callable[[EtcdStore], Awaitable[R]], /) -> R:
        return self.as_who("root", use)

    def as_who(self, who: str, use: Callable[[EtcdStore], Awaitable[R]], /) -> R:
        """As somebody of the folder."""
        return with_store(self.pki.options(self.endpoint, who), use)

    def do_as(self, who: str, *arguments: str, host: str = "a", **settings: str) -> Done:
        """A command by somebody of the folder."""
        return self.do(*arguments, host=host, **self.pki.settings(who) | settings)


def init_cluster(endpoint: str, asked: Enrolment, /, *, cluster: str = "blue", **settings: str) -> dict[str, Any]:
    """What the command does, in this process."""
    environment = {"ETCDLOCK_ENDPOINTS": endpoint, "ETCDLOCK_CLUSTER": cluster, **settings}
    return asyncio.run(enrol(load(file=NOTHING, environment=environment), asked))
