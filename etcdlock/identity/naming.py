"""How a host names paths: by the cluster's rule, and with `auto` by what it finds there.

`Naming` is pure but for the `look` that it is handed, which under `auto` reaches out to disks and may take as long as
they do: whoever must not wait calls it elsewhere (`agent.namer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from etcdlock.diskfacts import Kind, Place
from etcdlock.errors import InvalidInput, NotIdentified
from etcdlock.identity.files import identify_place
from etcdlock.identity.paths import PATH_LOCKSPACE, identify_path, lies_below, normal_path
from etcdlock.identity.words import DiskIdentity, Identified, ResourceName
from etcdlock.model import Resource

Look = Callable[[Sequence[str]], Sequence[Place]]
"""What is at these paths, one for each. Never raises for what it finds."""

RULES_VERSION: Final = 1
"""Part of the cluster's contract: hosts whose rules of `auto` give other names must not share a cluster."""

_HOSTS_LOCKSPACE: Final = "host/"
BOOTS_LOCKSPACE: Final = "local/"


@dataclass(frozen=True, slots=True)
class Naming:
    """`local_folders` are the same on every host, absolute, and what lies below them is another file on each.

    Under `auto`, `boot` is this boot's id, and `unidentified` what becomes of a disk that no rule knows: `refuse` or
    `path`.
    """

    rule: DiskIdentity = DiskIdentity.PATH
    host: str = ""
    local_folders: tuple[str, ...] = ()
    boot: str = ""
    look: Look | None = None
    unidentified: str = "refuse"

    @property
    def looks(self) -> bool:
        """Whether a name depends on what is found, and finding it may take long."""
        return self.rule is DiskIdentity.AUTO

    def __call__(self, path: str, /) -> ResourceName:
        """The name of a file, block device or folder. Raises `InvalidInput`, and under `auto` `NotIdentified`."""
        return self.identified((path,))[0].name

    def identified(self, paths: Sequence[str], /) -> tuple[Identified, ...]:
        """Every path's name, and how it came about."""
        normal = [normal_path(path) for path in paths]
        if not self.looks:
            return tuple(map(self._by_text, normal))
        if self.look is None or not self.boot:
            raise RuntimeError("the rule 'auto' needs somebody who looks, and the id of this boot")
        return tuple(map(self._by_place, self.look(normal)))

    def _by_text(self, normal: str) -> Identified:
        if any(lies_below(normal, normal_path(folder)) for folder in self.local_folders):
            return Identified(ResourceName(local_lockspace(self.host), normal), "local folder")
        return Identified(identify_path(normal, rule=self.rule), str(self.rule))

    def _by_place(self, place: Place) -> Identified:
        try:
            return identify_place(place, here=BOOTS_LOCKSPACE + self.boot)
        except NotIdentified as error:
            if self.unidentified != "path" or place.kind is Kind.ABSENT:
                raise
            warning = f"locked by its path, which must be the same disk on every host: {error}"
            return Identified(ResourceName(PATH_LOCKSPACE, place.path), "path", (f"{place.kind}",), warning)


def check_no_local_folders(rule: str, folders: Sequence[str], /) -> None:
    """Raises `InvalidInput` where the folders would mean nothing."""
    if folders and rule == DiskIdentity.AUTO:
        raise InvalidInput(
            "local_folders have no meaning with disk_identity = 'auto', which tells own files from shared ones",
            hint="leave local_folders out; or, for a cluster that has them, set disk_identity = 'path'",
        )


def local_lockspace(host: str, /) -> str:
    """In which the files below `local_folders` are named; no path and no protocol is called so."""
    return _HOSTS_LOCKSPACE + host


def stays_behind(resource: Resource, /, *, host: str, boot: str = "") -> bool:
    """Whether it is another host's own file, which does not come along when its guest migrates to `host`."""
    here = (local_lockspace(host), BOOTS_LOCKSPACE + boot)
    return resource.lockspace.startswith((_HOSTS_LOCKSPACE, BOOTS_LOCKSPACE)) and resource.lockspace not in here
