"""From the command line's words to what is to be locked: a domain and its resources."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.domainxml import DomainXml
    from etcdlock.escalation import Action
    from etcdlock.identity import Named, ResourceName
    from etcdlock.model import DomainId, Mode, Resource

LONGEST_NAME_BYTES = 255


def read_wanted(
    settings: Settings, /, *, file: Path | None, uuid: str | None, name: str, disks: Sequence[str]
) -> tuple[DomainId, tuple[Resource, ...]]:
    """The domain and its resources, by this cluster's rules. Raises `InvalidInput`."""
    from etcdlock.domainxml import named_of, paths_of
    from etcdlock.identity import distinct, parse_disk_argument, with_readonly_rule

    domain, xml = _domain(file, uuid=uuid, name=name)
    given = [(argument, parse_disk_argument(argument)) for argument in disks]
    paths = [str(Path.cwd() / disk.path) for _, disk in given]
    names = names_of(settings, (*(paths_of(xml) if xml is not None else ()), *paths))
    wanted = named_of(xml, identify=names.__getitem__) if xml is not None else ()
    wanted += tuple(
        _disk(argument, disk.mode, path=path, name=names[path])
        for (argument, disk), path in zip(given, paths, strict=True)
    )
    if not wanted and file is None and uuid is None:
        raise InvalidInput("there is nothing to lock", hint="give --domain FILE.xml, --domain-uuid UUID or --disk PATH")
    return domain, with_readonly_rule(distinct(wanted), rule=settings.readonly_disks)


def chosen_action(settings: Settings, /, *, file: Path | None, given: Action | None) -> Action:
    """What is done first when the session is lost: as the option, the domain's XML, or else the setting says.

    Raises `InvalidInput`. The file has been read before.
    """
    from etcdlock.escalation import Action
    from etcdlock.lockfailure import read_choice

    action = given
    if action is None and file is not None:
        choice = read_choice(file.read_bytes(), source=_shown(str(file)))
        if choice.warning:
            print(f"etcdlock: {_shown(str(file))}: warning: {choice.warning}", file=sys.stderr)
        action = choice.action
    if action is Action.COMMAND and not settings.on_session_lost_command:
        raise InvalidInput("no command is known for it", hint="set on_session_lost_command, or choose kill or freeze")
    return settings.lost_action if action is None else action


def described(resource: Resource, /) -> str:
    """A resource, with its mode where that is not the usual one."""
    from etcdlock.model import Mode

    return str(resource) if resource.mode is Mode.EXCLUSIVE else f"{resource} ({resource.mode})"


def seconds(value: float, /, *, option: str) -> float:
    """A span of time as an option gives it. Raises `InvalidInput` for one that cannot be waited."""
    if not (math.isfinite(value) and value >= 0):
        raise InvalidInput(f"{option} {value:g}: give a number of seconds, 0 or more")
    return value


def _domain(
    file: Path | None, /, *, uuid: str | None, name: str
) -> tuple[DomainId, DomainXml | None]:
    from etcdlock.domainxml import parse_domain
    from etcdlock.model import DomainId

    if file is None:
        return DomainId(_uuid(uuid), _name(name)), None
    if uuid is not None or name:
        raise InvalidInput("--domain already says UUID and name", hint="leave out --domain-uuid and --name")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"--domain {_shown(str(file))}: {error.strerror}") from error
    parsed = parse_domain(text, source=str(file))
    for warning in parsed.warnings:
        print(f"etcdlock: {_shown(str(file))}: warning: {warning}", file=sys.stderr)
    return parsed.domain, parsed


def _uuid(text: str | None, /) -> UUID:
    """The domain's UUID; where none is given, one of its own: then only its disks can collide with anything."""
    if text is None:
        return uuid4()
    try:
        uuid = UUID(text)
    except ValueError:
        raise InvalidInput(f"--domain-uuid '{_shown(text)}' is not a UUID", hint="`virsh domuuid` prints it") from None
    if len(set(uuid.bytes)) < 2:  # all zeros or all ones: many definitions have it, and two guests would be one
        raise InvalidInput(f"--domain-uuid {uuid} is a placeholder", hint="`virsh domuuid` prints the real one")
    return uuid


def _name(text: str, /) -> str:
    if not text.isprintable() or len(text.encode("utf-8", "surrogateescape")) > LONGEST_NAME_BYTES:
        raise InvalidInput(
            f"--name '{_shown(text[:80])}' has characters that cannot be printed or is longer than "
            f"{LONGEST_NAME_BYTES} bytes"
        )
    return text


def names_of(settings: Settings, paths: Sequence[str], /) -> dict[str, ResourceName]:
    """The name of each path by this cluster's rule; what a name rests on, if that is little, is told.

    Raises `InvalidInput` and `NotIdentified`.
    """
    from etcdlock.wiring import namer

    found = namer(settings).identified(paths)
    for path, one in dict(zip(paths, found, strict=True)).items():
        if one.warning:
            print(f"etcdlock: {_shown(path)}: warning: {_shown(one.warning)}", file=sys.stderr)
    return {path: one.name for path, one in zip(paths, found, strict=True)}


def _disk(argument: str, mode: Mode, /, *, path: str, name: ResourceName) -> Named:
    from etcdlock.identity import Named
    from etcdlock.model import Resource

    return Named(f"--disk {_shown(argument)}", Resource(name.lockspace, name.name, mode, path))


def _shown(text: str) -> str:
    from etcdlock.identity import escaped

    return escaped(text)
