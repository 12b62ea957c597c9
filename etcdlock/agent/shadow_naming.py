"""Names of disks in shadow mode: what could not be named, and so not be locked, is told of and named by its path.

So too for what lies below an image and cannot be read: then nothing is taken to lie there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from etcdlock.agent.chains import Chains
from etcdlock.agent.findings import Findings
from etcdlock.agent.namer import Namer
from etcdlock.errors import NotIdentified
from etcdlock.identity import Chain, DiskIdentity, Link, Naming, ResourceName, identify_path


class ShadowNamer(Namer):
    """As any, for whoever locks; `findings` hears of what has no name."""

    def __init__(self, naming: Naming, /, *, findings: Findings) -> None:
        super().__init__(naming)
        self._findings = findings

    async def names(self, paths: Sequence[str], /) -> dict[str, ResourceName]:
        """Raises `InvalidInput` alone."""
        try:
            return await super().names(paths)
        except NotIdentified:
            return {path: await self._one(path) for path in dict.fromkeys(paths)}

    async def _one(self, path: str, /) -> ResourceName:
        try:
            return (await super().names((path,)))[path]
        except NotIdentified as error:
            self._findings.unnamed(path, error)
            return identify_path(path, rule=DiskIdentity.PATH)


class ShadowChains(Chains):
    """Before the real ones."""

    def __init__(self, chains: Chains, /, *, findings: Findings) -> None:
        self._chains = chains
        self._findings = findings

    async def below(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """What can be read of each."""
        found: dict[Link, Chain] = {}
        for link in dict.fromkeys(links):
            try:
                found |= await self._chains.below((link,))
            except NotIdentified as error:
                self._findings.unnamed(link.path, error)
                found[link] = Chain()
        return found
