"""What a domain's XML says is to be done with its guest when its locks are lost.

`<on_lockfailure>` is libvirt's own word; an element `on-session-lost` of our namespace in `<metadata>` says more, and
counts before it. `poweroff` is a kill and `pause` a freeze. `restart` is a kill: nobody but whoever manages the guest
can say where it may start again. `ignore` would let two hosts write one disk, and is refused.

The text must have been read by `domainxml` before, which refuses hostile XML.
"""

from __future__ import annotations

from dataclasses import dataclass

from defusedxml.ElementTree import fromstring

from etcdlock.errors import InvalidDomainXml
from etcdlock.escalation import Action

NAMESPACE = "https://etcdlock.org/domain/1"
_OURS = f"metadata/{{{NAMESPACE}}}on-session-lost"
_MEANT = {"poweroff": Action.KILL, "restart": Action.KILL, "pause": Action.FREEZE}


@dataclass(frozen=True, slots=True)
class Choice:
    """The domain's own choice, None if it makes none, and what a person should know about it."""

    action: Action | None
    warning: str = ""


def read_choice(text: bytes | str, /, *, source: str) -> Choice:
    """What the domain's XML says. Raises `InvalidDomainXml` for what may not be."""
    root = fromstring(text)
    ours, theirs = root.find(_OURS), root.find("on_lockfailure")
    if ours is not None:
        return Choice(_action((ours.text or "").strip(), source=source))
    if theirs is None or not (word := (theirs.text or "").strip()):
        return Choice(None)
    if word not in _MEANT:
        raise InvalidDomainXml(
            f"{source}: <on_lockfailure>{word}</on_lockfailure> cannot be kept: a guest without locks must not run on",
            hint="use poweroff or pause",
        )
    warning = "<on_lockfailure>restart: the guest is killed; start it again once it has its locks"
    return Choice(_MEANT[word], warning if word == "restart" else "")


def _action(word: str, *, source: str) -> Action:
    try:
        return Action(word)
    except ValueError:
        known = ", ".join(Action)
        raise InvalidDomainXml(f"{source}: on-session-lost is {word!r}: it must be one of {known}") from None
