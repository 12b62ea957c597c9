"""What `doctor` makes of this host's guests, agent and libvirt beside the locks in etcd; pure.

The host is looked at before etcd, and whether its guests still live after it, so that one which starts or ends in
between is not told of. One that moves just then may be, for no reason; who looks again sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from etcdlock.cli.diagnosis import Finding, Severity
from etcdlock.cli.host_facts import HostFacts, SeenGuest
from etcdlock.guard.table import Name
from etcdlock.identity import escaped, with_wholes
from etcdlock.model import LockState, Mode, StoredDomain
from etcdlock.survey import Survey

LOCKD = "lockd"
VIRTLOCKD = "virtlockd"


def diagnose_host(facts: HostFacts, survey: Survey | None, /, *, gone: frozenset[Name]) -> tuple[Finding, ...]:
    """Every finding, the worst first. Without a survey only what needs none. `gone` are processes that have ended."""
    facts = replace(facts, guests=tuple(guest for guest in facts.guests if guest.process not in gone))
    of_locks = (*_of_guests(facts, survey), *_of_gone(facts, survey, gone)) if survey is not None else ()
    of_host = (*_of_unread(facts), *_of_agent(facts), *_of_libvirt(facts), *_of_sockets(facts))
    return (*_of_shadow(facts), *of_locks, *of_host)


def locked_processes(survey: Survey, /, *, hosts: frozenset[str], boot: str) -> frozenset[Name]:
    """The guests' processes that locks of this host and boot name."""
    return frozenset(_process(stored) for stored in _locks_here(survey, hosts=hosts, boot=boot))


# --- guests and their locks ----------------------------------------------------------------------------------------


def _of_guests(facts: HostFacts, survey: Survey, /) -> Iterator[Finding]:
    for guest in facts.guests:
        lock = survey.lock_of(guest.domain.uuid)
        if lock is None:
            yield _without_lock(guest, agent=facts.agent)
        elif lock.stored.record.owner.host not in facts.hosts:
            yield from _elsewhere(guest, lock.stored)
        elif _process(lock.stored) != guest.process:
            yield _of_another_process(guest, lock.stored)
        elif guest.vcpus_run and lock.stored.record.state is LockState.PARKED:
            yield _runs_parked(guest)
        yield from _disks_elsewhere(guest, facts, survey)


def _without_lock(guest: SeenGuest, /, *, agent: int) -> Finding:
    name = _shown(guest)
    attach = f"attach it: etcdlock attach {name}"
    what = "runs" if guest.vcpus_run else "stands still"
    return Finding(
        _severity(guest),
        f"guest {name} {what} and holds no lock: another host may start it, or write its disks",
        evidence=f"{guest.source} names process {guest.process.pid}; etcd has no lock of domain {guest.domain.uuid}",
        remedy=attach if agent else f"start the agent, then {attach}",
    )


def _elsewhere(guest: SeenGuest, stored: StoredDomain, /) -> Iterator[Finding]:
    record = stored.record
    if not guest.vcpus_run:
        yield Finding(
            Severity.NOTE,
            f"guest {_shown(guest)} has a process here and stands still; host {record.owner.host} holds its lock",
            evidence=f"{guest.source}; session {record.owner} in etcd",
            remedy="nothing while it migrates; else destroy the process here",
        )
        return
    yield Finding(
        Severity.FAULT,
        f"guest {_shown(guest)} RUNS HERE and host {record.owner.host} HOLDS ITS LOCK: two hosts may write its disks",
        evidence=f"{guest.source} names its process {guest.process.pid}; etcd has it {record.state} by {record.owner}",
        remedy=f"find out at once where it may run; if on {record.owner.host}: virsh destroy {_shown(guest)} here",
    )


def _of_another_process(guest: SeenGuest, stored: StoredDomain, /) -> Finding:
    record = stored.record
    return Finding(
        Severity.FAULT,
        f"guest {_shown(guest)} is not the process that its lock was taken for: nothing would stop it in time",
        evidence=f"{guest.source} names process {guest.process}, the lock {record.pid}:{record.pid_start}",
        remedy="once the agent has given the old lock back, attach it: etcdlock attach " + _shown(guest),
    )


def _runs_parked(guest: SeenGuest, /) -> Finding:
    return Finding(
        Severity.FAULT,
        f"guest {_shown(guest)} runs though its lock is parked: another host may claim it",
        evidence=f"{guest.source} says that it runs, etcd that its vCPUs are stopped",
        remedy=f"virsh suspend {_shown(guest)}, then virsh resume {_shown(guest)}, which asks for the lock",
    )


def _disks_elsewhere(guest: SeenGuest, facts: HostFacts, survey: Survey, /) -> Iterator[Finding]:
    """Disks that another domain holds, where not both share them."""
    wanted = {(one.lockspace, one.name): one for one in with_wholes(guest.resources)}
    for lock in survey.locks:
        record = lock.stored.record
        if record.domain.uuid == guest.domain.uuid:
            continue
        for held in record.resources:
            ours = wanted.get((held.lockspace, held.name))
            if ours is None or Mode.EXCLUSIVE not in (ours.mode, held.mode):
                continue
            where = "this host" if record.owner.host in facts.hosts else f"host {record.owner.host}"
            yield Finding(
                _severity(guest),
                f"disk {escaped(str(ours))} of guest {_shown(guest)}, which has a process here, is LOCKED BY ANOTHER: "
                f"domain {escaped(str(record.domain))} on {where}",
                evidence=f"{guest.source}; session {record.owner} in etcd, since {record.since}",
                remedy="stop one of the two at once; if both have run, check the disk before it is used again",
            )


def _of_gone(facts: HostFacts, survey: Survey, gone: frozenset[Name], /) -> Iterator[Finding]:
    for stored in _locks_here(survey, hosts=facts.hosts, boot=facts.boot):
        if _process(stored) not in gone:
            continue
        record = stored.record
        yield Finding(
            Severity.NOTE,
            f"domain {escaped(str(record.domain))} is locked by this host and its guest is gone",
            evidence=f"the lock names process {_process(stored)}, which does not live; session {record.owner}",
            remedy=_give_back(facts.agent),
        )


def _give_back(agent: int, /) -> str:
    if agent:
        return "nothing: the agent gives it back once etcd answers"
    return "start the agent: it gives it back; without one others may take it over after the hold-off"


# --- what serves them ----------------------------------------------------------------------------------------------


def _of_unread(facts: HostFacts, /) -> Iterator[Finding]:
    for text in facts.unread:
        yield Finding(
            Severity.NOTE,
            f"a guest of libvirt's was not looked at: {escaped(text)}",
            evidence="its status file cannot be read, or one of its disks not be found out about",
            remedy="run doctor as root; if that does not help, compare 'virsh list' with 'etcdlock status' by hand",
        )


def _of_shadow(facts: HostFacts, /) -> Iterator[Finding]:
    if facts.is_shadow:
        yield Finding(
            Severity.FAULT,
            "this host is in shadow mode: nothing is refused, nothing is stopped, NO GUEST IS PROTECTED",
            evidence="mode is 'shadow' in the settings",
            remedy="'etcdlock shadow' tells what would have been refused or stopped; mode = \"enforce\" ends the trial",
        )


def _of_agent(facts: HostFacts, /) -> Iterator[Finding]:
    if facts.agent or not (facts.guests or facts.lock_manager == LOCKD):
        return
    guests = len(facts.guests)
    why = f"{guests} guest(s) of libvirt's run" if guests else "libvirt is told to ask it for every lock"
    yield Finding(
        Severity.FAULT,
        f"no agent runs on this host, and {why}",
        evidence="nobody holds the lock on agent.lock in run_folder",
        remedy="systemctl start etcdlock-agent; guests with locks are stopped at their deadline otherwise",
    )


def _of_libvirt(facts: HostFacts, /) -> Iterator[Finding]:
    if facts.lock_manager == LOCKD and facts.locks_chains:
        yield Finding(
            Severity.NOTE,
            "guests that libvirt starts do not lock the images below their disks, though backing_chain is 'shared'",
            evidence=f"{facts.conf or 'qemu.conf'} says {LOCKD!r}: libvirt's lock manager is shown the disks alone",
            remedy="write no template that such guests run on; programs that use the API or the driver do lock it",
        )
    if facts.lock_manager == LOCKD or not (facts.agent or facts.guests):
        return
    if facts.conf is None and not facts.guests:
        return  # no libvirt here: the agent serves others
    said = f"says {facts.lock_manager!r}" if facts.lock_manager else "does not say"
    yield Finding(
        Severity.FAULT,
        "libvirt does not ask the agent for locks: its guests start without any",
        evidence=f"{facts.conf or 'qemu.conf'} {said} lock_manager",
        remedy='set lock_manager = "lockd" there and restart libvirtd (virtqemud); then attach what runs',
    )


def _of_sockets(facts: HostFacts, /) -> Iterator[Finding]:
    if VIRTLOCKD in facts.locks.listeners:
        yield Finding(
            Severity.FAULT,
            "stock virtlockd answers libvirt: its locks are unknown to other hosts",
            evidence=f"virtlockd listens on {facts.locks.path}",
            remedy="etcdlock-libvirt enable. Never stop virtlockd while guests run: on SIGTERM it kills them",
        )
    if not facts.agent:
        return
    for socket, who in ((facts.locks, "libvirt"), (facts.api, "programs")):
        if not socket.listened:
            yield Finding(
                Severity.FAULT,
                f"the agent cannot be asked by {who}",
                evidence=f"process {facts.agent} is the agent, and nobody listens on {socket.path}",
                remedy="look again if it has just been started; else its log says why: etcd may be away",
            )


# --- parts ---------------------------------------------------------------------------------------------------------


def _locks_here(survey: Survey, /, *, hosts: frozenset[str], boot: str) -> Iterator[StoredDomain]:
    for lock in survey.locks:
        record = lock.stored.record
        if record.owner.host in hosts and record.machine.boot == boot and record.pid:
            yield lock.stored


def _severity(guest: SeenGuest, /) -> Severity:
    """One that stands still writes nothing, but for what was under way."""
    return Severity.FAULT if guest.vcpus_run else Severity.NOTE


def _process(stored: StoredDomain, /) -> Name:
    return Name(stored.record.pid, stored.record.pid_start)


def _shown(guest: SeenGuest, /) -> str:
    return escaped(guest.domain.name)
