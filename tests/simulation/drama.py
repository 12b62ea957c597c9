"""One schedule: a stage, what goes wrong on it, and the proof that everything can be had again after that.

A theme (`themes`) sets the scene and says when what goes wrong; the actions here are its words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from etcdlock.agent.breaking import declare_dead
from etcdlock.errors import AccessDenied, EtcdlockError
from etcdlock.model import Proof, SessionKind
from etcdlock.ports import Txn
from etcdlock.testing import Fault, Link
from tests.promises.judge import left_behind
from tests.promises.world import KEYS, TIMING, domain
from tests.simulation.cluster import Machine
from tests.simulation.moments import of_kind, writes_locks
from tests.simulation.stage import DISKS, Stage

LOCK_KINDS = ("acquire", "takeover", "claim", "park", "unpark", "rejoin", "add", "change", "release")
HEIR_WAITS_SECONDS = 100.0


class Drama(Stage):
    """Make it inside `run_virtual`."""

    # --- what goes wrong with a host -------------------------------------------------------------------------------

    def kill_program(self) -> None:
        party = self._some_party() if self.maybe(0.3) else None
        if party is not None:
            party.kill()
        else:
            self.pick().kill_program()

    def stop_program(self) -> None:
        party = self._some_party() if self.maybe(0.3) else None
        if party is not None:
            party.stop()
        else:
            self.pick().stop_program()

    def go_on(self) -> None:
        for machine in self.machines:
            machine.go_on()
        for party in self.cluster.parties:
            party.go_on()

    def bring_up(self, machine: Machine | None = None) -> None:
        machine = machine or self.pick()
        if machine.agent is None and not machine.is_off:
            self.begin(machine.bring_up())

    def stop_agent(self) -> None:
        machine = self.pick()
        if machine.agent is not None:
            self.begin(machine.stop_agent())

    def kill_guard(self) -> None:
        party = self._some_party() if self.maybe(0.3) else None
        (party or self.pick()).kill_guard()

    def pause_guard(self) -> None:
        party = self._some_party() if self.maybe(0.3) else None
        (party or self.pick()).pause_guard(self.chance.choice((0.9, 5.0, 30.0)))

    def reset(self, machine: Machine | None = None) -> None:
        if len(self.machines) > 1:
            (machine or self.pick()).reset()

    def boot(self, was: Machine | None = None) -> Machine | None:
        """One that is off comes back, with another boot id."""
        off = [m for m in self.cluster.machines if m.is_off and not self._is_back(m)]
        was = was or (self.chance.choice(off) if off else None)
        if was is None or not was.is_off:
            return None
        self.boots += 1
        again = self.cluster.booted(was, boot=f"boot {self.boots} of {was.host.name}")
        self.begin(again.bring_up())
        return again

    def _is_back(self, was: Machine) -> bool:
        later = self.cluster.machines[self.cluster.machines.index(was) + 1 :]
        return any(machine.host.name == was.host.name for machine in later)

    # --- what goes wrong with etcd and the way there ---------------------------------------------------------------

    def cut(self, machine: Machine | None = None) -> None:
        link = self.chance.choice((Link.CUT, Link.CUT, Link.REFUSED, Link.HUNG))
        (machine or self.pick()).host.store.cut(link)

    def cut_off(self, *machines: Machine) -> None:
        """All of them."""
        for machine in machines:
            self.cut(machine)

    def refuse(self, machine: Machine, what: Callable[[Txn], bool] | None) -> None:
        """etcd says no to these transactions of a host's programs, as when rights were changed; None: to none."""
        parties = (party for party in self.cluster.parties if party.host is machine.host)
        for stall in (machine.stall, *(party.stall for party in parties)):
            stall.refuse = lambda txn: AccessDenied("not now") if what is not None and what(txn) else None

    def mend(self) -> None:
        for machine in self.machines:
            machine.host.store.mend()

    def slow_down(self, machine: Machine | None = None) -> None:
        latest = self.chance.choice((0.05, 0.3, 0.7))
        (machine or self.pick()).host.store.slow_down(lambda: self.chance.uniform(0.0, latest))

    def revoke(self, machine: Machine | None = None) -> None:
        """Wrongly, as a stalled leader does."""
        names = {m.host.name for m in self.machines} if machine is None else {machine.host.name}
        leases = [kept.lease for kept in self.etcd.contents(KEYS.sessions()) if kept.key.split("/")[-2] in names]
        if leases:
            self.etcd.revoke_wrongly(self.chance.choice(leases))

    def revoke_agent(self, machine: Machine) -> None:
        """The very session of a host's agent."""
        for kept in self.etcd.contents(KEYS.sessions(machine.host.name)):
            if f"/{SessionKind.AGENT}-" in kept.key:
                self.etcd.revoke_wrongly(kept.lease)

    def lose(
        self,
        machine: Machine | None = None,
        *kinds: str,
        fault: Fault | None = None,
        count: int = 0,
        late: float | None = None,
    ) -> None:
        fault = fault or self.chance.choice(tuple(Fault))
        late = self.chance.choice((0.01, 1.0, 3.0, 8.0, 40.0)) if late is None else late
        when = of_kind(*kinds) if kinds else lambda _txn: True
        store = (machine or self.pick()).host.store
        store.lose(fault, count=count or self.chance.randint(1, 4), when=when, delay_seconds=late)

    def lose_locks(self) -> None:
        self.lose(None, *LOCK_KINDS)

    def no_space(self) -> None:
        """What changes locks is answered with "no space", and now and then has been applied all the same."""
        for machine in self.machines:
            for _ in range(4):
                fault = Fault.ANSWER if self.maybe(0.25) else Fault.REQUEST
                machine.host.store.lose(fault, when=writes_locks)

    def etcd_lies(self) -> None:
        self.etcd.keep_alives_lie = self.maybe(0.3)
        self.etcd.stale_reads(self.chance.randint(1, 4), revisions=self.chance.choice((1, 2, 10)))
        self.etcd.lose_events(self.chance.randint(0, 3))

    def elect(self) -> None:
        """Another leader: every TTL begins anew, watches end."""
        self.etcd.restart_leases()
        for machine in self.machines:
            machine.host.store.cancel_watches()

    def set_wall(self) -> None:
        self.pick().host.clock.set_wall(self.chance.choice((-3600.0, -20.0, 20.0, 3600.0)))

    # --- what operators do -----------------------------------------------------------------------------------------

    def break_host(self, by: Machine, target: str) -> None:
        """`etcdlock break HOST`, where that is off, or lives: then it must be refused."""
        context = by.host.context(contract=self.cluster.contract, chance=self.cluster.fresh_chance())
        until = context.clock.now() + 5.0
        self.begin(declare_dead(context, target, by="operator", reason="it is off", until=until))

    def declare(self, by: Machine) -> None:
        """As a fence agent does that was told the wrong host: each of these sessions lives at the moment."""
        for kept in self.etcd.contents(KEYS.sessions()):
            host, session = kept.key.split("/")[-2:]
            ref = next(ref for m in self.cluster.hosts for ref in self.cluster.sessions(m) if ref.session == session)
            assert ref.host == host
            self.begin(self.cluster.declare(by.host, ref, proof=Proof.OPERATOR))

    # --- the end ---------------------------------------------------------------------------------------------------

    async def end_of_faults(self) -> None:
        """No more trouble; what is late arrives."""
        self.moments.clear()
        self.etcd.keep_alives_lie = False
        for machine in self.machines:
            self.refuse(machine, None)
        for host in self.cluster.hosts:
            host.clock.set_wall(0.0)
            host.store.lose_no_more()
            host.store.slow_down(lambda: self.chance.uniform(0.0002, 0.002))
            host.store.mend()
        for guard in (g for machine in self.machines for g in machine.guards):
            guard.go_on()
        self.go_on()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await asyncio.gather(*(self._up(machine) for machine in self.machines))

    async def _up(self, machine: Machine) -> None:
        for _ in range(20):
            if machine.agent is not None:
                await asyncio.sleep(0)
                return
            with suppress(EtcdlockError):
                await machine.bring_up()
        raise AssertionError(f"the agent on {machine.host.name} does not come up")

    async def quiet(self) -> list[str]:
        """Guests that run when nothing is wrong any more run on."""
        await asyncio.sleep(41.0)
        running = [vm for vm in self.guests() if vm.runs and not vm.guest.frozen]
        await asyncio.sleep(45.0)
        return [
            f"the guest of {vm.owner} was stopped though nothing was wrong any more" for vm in running if not vm.runs
        ]

    async def final(self) -> list[str]:
        """All guests end; then everything can be had again, and nothing is left."""
        for vm in self.guests():
            vm.guest.end()
        for party in self.cluster.parties:
            for guest in party.guests.started:
                guest.end()
            party.ended.cancel()
        found = [*await self._inherit()]
        await self._until_expired()
        await self._until_empty()
        for machine in self.machines:
            if machine.agent is not None:
                await machine.stop_agent()
        await asyncio.gather(*(party.ended for party in self.cluster.parties), return_exceptions=True)
        return [*found, *(f"{key} is left behind" for key in left_behind(self.cluster))]

    async def _inherit(self) -> Iterable[str]:
        host, found = self.cluster.host("heir"), list[str]()
        for number in (1, 2, 3):
            party = self.cluster.solo(host, domain(number), *DISKS, wait=HEIR_WAITS_SECONDS, life=0.2)
            await asyncio.wait((party.ended,))
            error = party.ended.exception()
            if error is not None or party.ended.result().status.code or not party.ended.result().released:
                found.append(f"domain {number} and all disks cannot be had again: {error or party.ended.result()}")
        return found

    async def _until_expired(self) -> None:
        """The keys of what has died go with their leases."""
        for _ in range(TIMING.ttl_seconds + 2):
            kept = {agent.member.session.ref.session for agent in self._with_agents() if agent.member.has_joined}
            if all(key.key.rpartition("/")[2] in kept for key in self.etcd.contents(KEYS.sessions())):
                return
            await asyncio.sleep(1.0)

    async def _until_empty(self) -> None:
        """Agents settle what is still unknown, and look once a minute for what came back to a guest that had ended."""
        for _ in range(30):
            busy = any(agent.residents or not agent.ledger.holds_nothing for agent in self._with_agents())
            if not self.etcd.contents(KEYS.domains) and not busy:
                return
            await asyncio.sleep(5.0)

    def _with_agents(self) -> list[Any]:
        return [machine.agent for machine in self.machines if machine.agent is not None]
