"""Backing chains read beside the event loop, within the bounds of `agent.bounded`."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from etcdlock.agent.bounded import WITHIN_SECONDS, Bounded
from etcdlock.identity import Chain, Link, Read, read_chain
from etcdlock.journal import note


class Chains:
    """What lies below images. Nothing is remembered: a chain may be another the next time."""

    def __init__(self, read: Read, /, *, within_seconds: float = WITHIN_SECONDS) -> None:
        self._looks = Bounded[Link, Chain](
            lambda links: tuple(read_chain(link, read=read) for link in links),
            shown=lambda link: link.path,
            within_seconds=within_seconds,
        )

    async def below(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """Of each; all or an error: `NotIdentified`, also where there was no answer in time. Warnings are logged."""
        wanted = tuple(dict.fromkeys(links))
        found = dict(zip(wanted, await self._looks.ask(wanted), strict=True)) if wanted else {}
        for link, chain in found.items():
            for warning in chain.warnings:
                note("chain_ends", level=logging.WARNING, path=link.path, warning=warning)
        return found

    def below_now(self, links: Iterable[Link], /) -> dict[Link, Chain]:
        """The same for a program that has nothing else to do meanwhile. Warnings are the caller's to tell."""
        wanted = tuple(dict.fromkeys(links))
        return dict(zip(wanted, self._looks.ask_now(wanted), strict=True)) if wanted else {}
