"""Refusals in words: what is held, by whom, where, since when, and what to do or how long to wait; pure."""

from __future__ import annotations

from datetime import datetime

from etcdlock.identity import escaped
from etcdlock.model import Blocker, LockState, Proof
from etcdlock.timing import Timing


def describe_blockers(blockers: tuple[Blocker, ...], /, *, timing: Timing, needs: str = "silence") -> str:
    """One line for each blocker; `needs` is the cluster's rule `takeover_needs`."""
    return "\n".join(describe_blocker(blocker, timing=timing, needs=needs) for blocker in blockers)


def describe_blocker(blocker: Blocker, /, *, timing: Timing, needs: str = "silence") -> str:
    """As in `disk /san/vm1 is held by domain vm1 on host a since 12:03:00 (token 7); host a is alive: …`.

    Names are other people's text and are shown escaped.
    """
    domain = escaped(str(blocker.domain))
    what = f"domain {domain}" if blocker.resource is None else f"disk {escaped(str(blocker.resource))}"
    if blocker.owner is None:
        uuid = f" ({blocker.domain.uuid})" if blocker.domain.name else ""
        return (
            f"{what} is held by domain {domain}{uuid}, which has no record that lists it: "
            "the records disagree, and nobody takes it for free; see 'etcdlock doctor'"
        )
    holder = "" if blocker.resource is None else f" by domain {domain}"
    parked = "suspended there, " if blocker.state is LockState.PARKED else ""
    return (
        f"{what} is held{holder} on host {escaped(blocker.owner.host)} since {_time(blocker.since)} "
        f"({parked}token {blocker.token}); {_advice(blocker, timing, needs)}"
    )


def _advice(blocker: Blocker, timing: Timing, needs: str) -> str:
    host = escaped(blocker.owner.host) if blocker.owner else ""
    if blocker.alive:
        return f"host {host} is alive: stop or migrate {escaped(blocker.domain.name) or 'it'} there"
    if blocker.proof is not None:
        return f"host {host} is proven dead ({blocker.proof}): it can be taken over now"
    if needs != "silence":
        return f"host {host} is silent: it can be taken over once a fence agent or 'etcdlock break {host}' proves it"
    return (
        f"host {host} is silent: it can be taken over {timing.hold_off_seconds:g} s after that was first seen "
        f"(wait with --wait {timing.takeover_seconds:.0f}), or at once after 'etcdlock break {host}' "
        "if you know it is off"
    )


def describe_proof(proof: Proof, /) -> str:
    """What a proof says happened."""
    return {
        Proof.SILENCE: "its session's key was missing for the whole hold-off",
        Proof.REBOOT: "the same machine came back with another boot id",
        Proof.LEFT: "its session ended in order",
        Proof.FENCE_AGENT: "a fence agent confirmed that it is off",
        Proof.OPERATOR: "an operator confirmed that it is off",
    }[proof]


def _time(since: str | None) -> str:
    """The time of day, with the date in front unless it is today's by the holder's own zone."""
    if since is None:
        return "an unknown time"
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        return escaped(since)
    return f"{at:%H:%M:%S}" if at.date() == datetime.now(at.tzinfo).date() else f"{at:%Y-%m-%d %H:%M:%S}"
