"""Why a lock was not taken or given up, as libvirt is told; pure.

Guaranteed: one line of bounded length, since virsh prints it behind `error:` and libvirtd into its log. What to do
next is kept where the rest is too long.
"""

from __future__ import annotations

from etcdlock.errors import EtcdlockError, HeldElsewhere, NotLocked, NotTheOwner
from etcdlock.identity import escaped
from etcdlock.libvirt import remote_error
from etcdlock.libvirt.remote_error import ELLIPSIS, RemoteError
from etcdlock.model import Blocker, Owner, Resource

LONGEST_REASON = 1000
"""Characters; three blockers with long names. Whoever is refused a hundred disks learns of the first few."""
LONGEST_NAME = 200
"""Characters of a name in a command that a person would type again."""


def refusal(error: EtcdlockError, /, *, name: str, owner: Owner) -> RemoteError:
    """The error of libvirt's that says the same; `name` is what the caller called the resource."""
    match error:
        case HeldElsewhere():
            return remote_error.held_by_another(explain(error))
        case NotLocked():
            return remote_error.not_locked(name)
        case NotTheOwner():
            return remote_error.not_the_owner(owner.pid)
        case _:
            return remote_error.could_not_be_done(explain(error))


def explain(error: EtcdlockError, /) -> str:
    """The error and what to do about it, on one line."""
    why, hint = _on_one_line(str(error)), _on_one_line(_next_step(error))
    tail = f"; {_cut(hint, LONGEST_REASON // 2)}" if hint else ""
    return _cut(why or type(error).__name__, LONGEST_REASON - len(tail)) + tail


def _next_step(error: EtcdlockError) -> str:
    """A blocker without an owner says itself what to do: the records disagree."""
    if error.hint or not isinstance(error, HeldElsewhere) or error.blockers[0].owner is None:
        return error.hint
    return f"see 'etcdlock {_inquiry(error.blockers[0])}'"


def _inquiry(blocker: Blocker) -> str:
    """The command that tells more of it, if it can be typed; what is known by no path is asked for by its holder."""
    path = blocker.resource.path if blocker.resource is not None else ""
    name = escaped(path or str(blocker.domain))
    if len(name) > LONGEST_NAME:
        return "status"
    return f"inquire --disk {name}" if path else f"inquire {name}"


def not_in_time(resource: Resource, /, *, seconds: float) -> RemoteError:
    """The door has stopped waiting."""
    return remote_error.could_not_be_done(
        f"no lock on {_cut(escaped(str(resource)), LONGEST_REASON // 2)} within {seconds:g} s: "
        "etcd does not answer, or a takeover takes its time; see 'etcdlock doctor'"
    )


def fault(error: BaseException, /) -> RemoteError:
    """An exception that nobody expected."""
    return remote_error.could_not_be_done(
        f"a fault in etcdlock itself, {type(error).__name__}; its log has the rest"
    )


def stopping() -> RemoteError:
    """The door is being closed and takes nothing new."""
    return remote_error.could_not_be_done("etcdlock is being stopped on this host; try again when it is back")


def _on_one_line(text: str) -> str:
    return escaped("; ".join(line.strip() for line in text.splitlines() if line.strip()))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - len(ELLIPSIS)] + ELLIPSIS
