"""Puts the real adapters behind the ports, for commands and for programs that embed the driver."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import etcdlock
from etcdlock.errors import InvalidSetting, UnsafeEtcd
from etcdlock.journal import note
from etcdlock.model import SessionKind

if TYPE_CHECKING:
    from etcdlock.adapters.credentials import CredentialFile
    from etcdlock.adapters.etcd import EtcdStore
    from etcdlock.adapters.etcd_options import EtcdOptions
    from etcdlock.adapters.flight_record import Places
    from etcdlock.agent.chains import Chains
    from etcdlock.agent.context import Context
    from etcdlock.agent.namer import Namer
    from etcdlock.config import Settings
    from etcdlock.escalation import Action
    from etcdlock.identity import Naming


def etcd_options(settings: Settings, /) -> EtcdOptions:
    """Where etcd is and how it is spoken to."""
    from etcdlock.adapters.etcd_options import EtcdOptions

    return EtcdOptions(
        endpoints=settings.endpoints,
        try_timeout_seconds=settings.timing.try_timeout_seconds,
        ca_file=settings.credential("ca_file"),
        cert_file=settings.credential("cert_file"),
        key_file=settings.credential("key_file"),
        username=settings.username,
        password=settings.password(),
        max_txn_ops=settings.max_txn_ops,
    )


def credential_files(settings: Settings, /) -> tuple[CredentialFile, ...]:
    """The certificates and secrets that the settings name, as they lie there."""
    from etcdlock.adapters.credentials import CERTIFICATES, SECRETS, CredentialFile, look_at

    found = []
    for name in (*CERTIFICATES, *SECRETS):
        given = str(getattr(settings, name))
        try:
            found += [look_at(name, settings.credential(name))] if given else []
        except InvalidSetting as error:
            found.append(CredentialFile(name, given, unread=str(error)))
    return tuple(found)


@contextlib.asynccontextmanager
async def open_store(settings: Settings, /) -> AsyncIterator[EtcdStore]:
    """A connection to the settings' etcd, closed at the end. Nothing is sent yet."""
    from etcdlock.adapters.etcd import EtcdStore

    store = EtcdStore(etcd_options(settings))
    try:
        yield store
    finally:
        await store.close()


def host_id(settings: Settings, /) -> str:
    """Who we are in the cluster."""
    from etcdlock.adapters.machine import default_host_id

    return settings.host_id or default_host_id()


def agent_host_id(settings: Settings, /, *, uid: int) -> str:
    """Who this user's agent is: a user's own is a host of its own, which never goes on with root's session."""
    return host_id(settings) if uid == 0 else f"{host_id(settings)}.user-{uid}"


def record_places(settings: Settings, /) -> Places:
    """Where this host's record is kept; `host_id` must be set as the agent has it."""
    from etcdlock.adapters.flight_record import Places

    return Places(folder=settings.state_folder, rings=settings.run_folder, host=host_id(settings))


def shadow_places(settings: Settings, /) -> Places:
    """Where this host keeps what it would have refused and stopped; `host_id` as above."""
    from etcdlock.adapters.flight_record import Places

    return Places(folder=settings.state_folder, rings="", host=host_id(settings), kind="shadow")


def naming(settings: Settings, /) -> Naming:
    """How paths are named on this host."""
    from etcdlock.identity import DiskIdentity, Naming

    rule = DiskIdentity(settings.disk_identity)
    if rule is not DiskIdentity.AUTO:
        return Naming(rule, host_id(settings), settings.local_folders)
    from etcdlock.adapters.machine import read_machine
    from etcdlock.adapters.places import Places

    boot, unidentified = read_machine().boot, settings.unidentified_disks
    return Naming(rule, host_id(settings), boot=boot, look=Places(), unidentified=unidentified)


def namer(settings: Settings, /) -> Namer:
    """The same, bounded in time."""
    from etcdlock.agent.namer import Namer

    return Namer(naming(settings))


def chains(settings: Settings, /) -> Chains | None:
    """Who tells what lies below an image, where the cluster locks that."""
    if settings.backing_chain == "none":
        return None
    from etcdlock.adapters.images import Images
    from etcdlock.agent.chains import Chains

    return Chains(Images())


def make_context(
    settings: Settings, store: EtcdStore, /, *, kind: SessionKind, on_session_lost: Action | None = None
) -> Context:
    """Who we are on this host, on real clocks."""
    from etcdlock.adapters.clock import BootClock
    from etcdlock.adapters.machine import read_machine, source_address
    from etcdlock.agent.context import Context

    host, _, port = settings.endpoints[0].rpartition(":")
    return Context(
        store=store,
        clock=BootClock(),
        keys=settings.keyspace,
        contract=settings.contract,
        host=host_id(settings),
        machine=read_machine(),
        kind=kind,
        version=etcdlock.__version__,
        on_session_lost=on_session_lost or settings.lost_action,
        is_shadow=settings.is_shadow,
        address=source_address(host.strip("[]"), port=int(port)),
    )


async def check_versions(settings: Settings, store: EtcdStore, /) -> None:
    """Look at the versions that etcd's members state; raises `UnsafeEtcd` for one that loses data.

    What is only worth a warning goes to the log: `etcdlock doctor` tells it to people who ask.
    """
    from etcdlock.etcdversion import Standing, judge_version

    for report in await store.inspect():
        if not report.reachable:
            note("etcd_version_unknown", level=logging.WARNING, endpoint=report.endpoint, error=report.error)
            continue
        verdict = judge_version(report.version)
        if not verdict.text:
            continue
        if verdict.standing is Standing.REFUSE and not settings.allow_unsafe_etcd:
            raise UnsafeEtcd(
                f"{report.endpoint}: {verdict.text}",
                hint="only for a trial: allow_unsafe_etcd = true accepts it all the same",
            )
        note("etcd_version", endpoint=report.endpoint, version=report.version, standing=verdict.standing)
