"""From the command line's words to what is to be locked: a domain and its resources."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from etcdlock.errors import InvalidInput

if TYPE_CHECKING:
    from etcdlock.config import Settings
    from etcdlock.domainxml import DomainXml
    from etcdlock.escalation import Action
    from etcdlock.identity import DiskArgument, Named, ResourceName
    from etcdlock.model import DomainId, Resource

LONGEST_NAME_BYTES = 255


def read_wanted(
    settings: Settings, /, *, file: Path | None, uuid: str | None, name: str, disks: Sequence[str]
) -> tuple[DomainId, tuple[Resource, ...]]:
    """The domain and its resources, by this cluster's rules. Raises `InvalidInput`."""
    from etcdlock.identity import distinct, with_readonly_rule

    domain, xml = _domain(settings, file, uuid=uuid, name=name)
    wanted = [named for group in all_named(settings, () if xml is None else (xml,), disks) for named in group]
    if not wanted and file is None and uuid is None:
        raise InvalidInput("there is nothing to lock", hint="give --domain FILE.xml, --domain-uuid UUID or --disk PATH")
    return domain, with_readonly_rule(distinct(wanted), rule=settings.readonly_disks)


def all_named(
    settings: Settings, xmls: Sequence[DomainXml], disks: Sequence[str], /
) -> tuple[tuple[Named, ...], ...]:
    """What each XML needs, and last the disks of the command line; repetitions included. Raises `InvalidInput`."""
    from etcdlock.domainxml import named_of, paths_of
    from etcdlock.identity import parse_disk_argument

    given = [_Given(argument, parse_disk_argument(argument)) for argument in disks]
    opened = [*given, *_below(settings, given)]
    paths = (*(path for xml in xmls for path in paths_of(xml)), *(one.path for one in opened))
    names = names_of(settings, paths)
    of_xmls = (named_of(xml, identify=names.__getitem__) for xml in xmls)
    return (*of_xmls, tuple(one.named(names[one.path]) for one in opened))


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
    settings: Settings, file: Path | None, /, *, uuid: str | None, name: str
) -> tuple[DomainId, DomainXml | None]:
    from etcdlock.model import DomainId

    if file is None:
        return DomainId(_uuid(uuid), printable_name(name)), None
    if uuid is not None or name:
        raise InvalidInput("--domain already says UUID and name", hint="leave out --domain-uuid and --name")
    parsed = read_file(settings, file)
    return parsed.domain, parsed


def read_file(settings: Settings, file: Path, /) -> DomainXml:
    """A --domain that is a file; its warnings are told. Raises as `read_xml`."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"--domain {_shown(str(file))}: {error.strerror}") from error
    parsed = read_xml(settings, text, source=str(file))
    for warning in parsed.warnings:
        print(f"etcdlock: {_shown(str(file))}: warning: {warning}", file=sys.stderr)
    return parsed


def read_xml(settings: Settings, text: bytes, /, *, source: str) -> DomainXml:
    """A domain XML, with the backing chains of its disks where the cluster locks them.

    Raises `InvalidDomainXml`, and `NotIdentified` for a chain that cannot be told.
    """
    from etcdlock.domainxml import parse_domain

    return whole(settings, parse_domain(text, source=source, chains=settings.backing_chain != "none"))


def whole(settings: Settings, parsed: DomainXml, /) -> DomainXml:
    """With what only the images tell of its chains."""
    from etcdlock.domainxml import chains_of, with_chains
    from etcdlock.wiring import chains

    reader = chains(settings)
    if reader is None:
        return parsed
    found = with_chains(parsed, chain=reader.below_now(chains_of(parsed)).__getitem__)
    return replace(found, warnings=(*parsed.warnings, *found.warnings))


@dataclass(frozen=True, slots=True)
class _Given:
    """A --disk; `below` is the path of an image below it."""

    argument: str
    disk: DiskArgument
    below: str = ""

    @property
    def path(self) -> str:
        return self.below or str(Path.cwd() / self.disk.path)

    def named(self, name: ResourceName, /) -> Named:
        from etcdlock.identity import Named, layer_mode
        from etcdlock.model import Resource

        called, mode = f"--disk {_shown(self.argument)}", self.disk.mode
        if not self.below:
            return Named(called, Resource(name.lockspace, name.name, mode, self.path), disk=called)
        lower = Resource(name.lockspace, name.name, layer_mode(mode), self.path)
        return Named(f"{called} (backing '{_shown(self.below)}')", lower, disk=called, is_backing=True)


def _below(settings: Settings, given: Sequence[_Given], /) -> Iterator[_Given]:
    """All images below those that are said to be able to have some."""
    from etcdlock.identity import QCOW2, Link
    from etcdlock.wiring import chains

    reader = chains(settings)
    if reader is None:
        return
    upper = [(one, Link(one.path)) for one in given if one.disk.image_format == QCOW2]
    found = reader.below_now(link for _, link in upper)
    for one, link in upper:
        for warning in found[link].warnings:
            print(f"etcdlock: --disk {_shown(one.argument)}: warning: {warning}", file=sys.stderr)
        yield from (_Given(one.argument, one.disk, path) for path in found[link].layers)


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


def printable_name(text: str, /) -> str:
    """A --name. Raises `InvalidInput`."""
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


def _shown(text: str) -> str:
    from etcdlock.identity import escaped

    return escaped(text)
