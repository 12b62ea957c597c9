"""Parts of several themes: a guest with whoever runs it, and what goes right again."""

from __future__ import annotations

from etcdlock.model import Resource
from tests.promises.world import domain
from tests.simulation.cluster import Machine
from tests.simulation.drama import Drama
from tests.simulation.party import Party


class Owner:
    """Whatever runs a guest: an agent's host or a program of its own, to be hurt alike."""

    def __init__(self, program: Machine | Party) -> None:
        self.kill = program.kill_program if isinstance(program, Machine) else program.kill
        self.stop = program.stop_program if isinstance(program, Machine) else program.stop


async def some_owner(d: Drama, machine: Machine, *disks: Resource, number: int = 1) -> Owner:
    """A guest runs, under the host's agent or under a program of its own."""
    if d.maybe(0.6):
        await machine.start(domain(number), *disks)
        return Owner(machine)
    party = d.solo(machine, number, *disks, wait=0.0, action=machine.action)
    await d.cluster.until_runs(party)
    return Owner(party)


def recover(d: Drama) -> None:
    """Some of what went wrong goes right again."""
    d.mend()
    d.go_on()
    for machine in d.machines:
        d.bring_up(machine)
