"""Which processes belong to each guest of this guard, remembered from look to look.

A guest is looked for from the moment it is armed, so that at its end the guard knows its processes although their
parents are dead. Where it has a cgroup for itself (`cgroup`), everything in there is the guest's. Where its leader is a
child of the program that started this guard as a child, too, that program adopts what the guest leaves behind: then all
later children of that program are the guest's, but for this guard.
"""

from __future__ import annotations

import os

from etcdlock.guard import table
from etcdlock.guard.cgroup import Cgroups
from etcdlock.guard.table import Name, Process, Table


class Families:
    """`parent` as in `wire.Equipment`; `myself` is this guard, which is nobody's."""

    def __init__(self, *, parent: int, myself: Name, cgroups: Cgroups) -> None:
        self._parent = parent
        self._spared = frozenset({myself})
        self._cgroups = cgroups
        self._known: dict[Name, frozenset[Name]] = {}
        self._children: set[Name] = set()

    @property
    def of_our_parent(self) -> frozenset[Name]:
        """The guests that the program which has started this guard has started as well."""
        return frozenset(self._children)

    def take_in(self, leader: Name, /) -> None:
        """A guest comes."""
        process = table.look_up(leader.pid)
        self._known[leader] = frozenset()
        if process is not None and process.name == leader and process.parent == self._parent:
            self._children.add(leader)

    def forget(self, leader: Name, /) -> None:
        """It is gone."""
        self._known.pop(leader, None)
        self._cgroups.forget(leader)
        self._children.discard(leader)

    def known(self, leader: Name, /) -> frozenset[Name]:
        """What was recognised at the last look."""
        return self._known.get(leader, frozenset())

    def found(self, leader: Name, members: frozenset[Name], /) -> None:
        """These are the guest's, too."""
        self._known[leader] |= members

    def about_to_be_struck(self, leader: Name, /) -> None:
        """Its leader's own cgroup is seen better before than after."""
        self._cgroups.find(leader, at_last=True)

    def strike_cgroup(self, leader: Name, /) -> None:
        """SIGKILL to its own cgroup, if it has one."""
        self._cgroups.kill(leader, others=self._others(leader))

    def recognise(self, leader: Name, now: Table, /, *, deeply: bool = True) -> list[Process]:
        """Its living processes; remembered for when the leader is gone and the table says less. What is in its cgroup
        alone shows only if it is looked for `deeply`.
        """
        self._cgroups.find(leader)
        found = table.family(
            now, leader=leader, known=self._known[leader], adopter=self._adopter(leader), spared=self._spared
        )
        if deeply:
            found = list({process.name: process for process in (*found, *self._in_cgroup(leader, now))}.values())
        self._known[leader] = frozenset(process.name for process in found)
        return found

    def _in_cgroup(self, leader: Name, now: Table) -> list[Process]:
        members = map(now.at, self._cgroups.members(leader, others=self._others(leader)))
        return [process for process in members if process is not None and process.alive]

    def _others(self, leader: Name) -> list[int]:
        return [name.pid for name in self._known if name != leader]

    def _adopter(self, leader: Name) -> int:
        """Who adopts this guest's orphans, if all that it adopts is this guest's."""
        is_only_child = self._parent > 0 and self._children == {leader}
        return self._parent if is_only_child and os.getppid() == self._parent else 0
