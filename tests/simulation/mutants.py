"""The safety faults that the simulation must catch, each an edit of the source; the promises are those of docs/SAFETY.md.

Where a promise is kept by two lines of defence, taking away one of them shows nothing; then both go, and the fault is
named for the first.
"""

from __future__ import annotations

from tests.simulation.planting import Edit, Mutant

STOPPED = "Stopped in time"
ONE_OWNER = "One owner"
PROOF = "Proof before takeover"
UNKNOWN = "Unknown is not no"
TOKEN = "A token that grows"  # noqa: S105 - no secret
ALL_OR_NOTHING = "All or nothing"

MUTANTS = (
    # --- what proves a session, and until when ------------------------------------------------------------------------
    Mutant("proof_from_receipt", STOPPED, (
        Edit("agent.member", "            self._session = self.session.proven(sent_at)\n",
             "            self._session = self.session.proven(context.clock.now())\n"),
    ), ("deadline",)),
    Mutant("proof_from_keepalive", STOPPED, (
        Edit("agent.member", "            await self._context.store.keep_alive(session.lease)\n", """\
            at = self._context.clock.now()
            if await self._context.store.keep_alive(session.lease):
                self._session = self.session.proven(at)
                await self._guard.prove(session.ref.session, at=at)
"""),
    ), ("stale_leader",)),
    Mutant("heartbeat_without_compare", STOPPED, (
        Edit("transitions", "        compare=(_joined(keys, session),),\n        success=(Delete(KeyRange(keys.never)),),\n",
             "        compare=(),\n        success=(Delete(KeyRange(keys.never)),),\n"),
    ), ("stale_leader", "operators")),
    Mutant("stop_after_the_whole_hold_off", STOPPED, (
        Edit("timing", "return self.budget_seconds - self._reset_seconds - self.kill_seconds - self.guard_lag_seconds",
             "return self.hold_off_seconds - self._reset_seconds"),
    ), ("deadline",)),
    Mutant("clocks_taken_for_equal", STOPPED, (
        Edit("timing", "return self.hold_off_seconds * (1 - rho) / (1 + rho) - KEPT_BACK_SECONDS",
             "return self.hold_off_seconds * (1 - rho) / (1 + rho)"),
    ), ("deadline",)),
    Mutant("deadline_of_any_session", STOPPED, (
        Edit("agent.enforcer",
             "        self._deadlines = {name: self._deadline_after(instant) for name, instant in self._proven.items()}\n",
             "        latest = self._deadline_after(max(self._proven.values()))\n"
             "        self._deadlines = dict.fromkeys(self._proven, latest)\n"),
        Edit("guard.rules", "    return armed.due or state.proven[armed.session]\n",
             "    return armed.due or max(state.proven.values(), key=lambda due: due.steady_seconds)\n"),
    ), ("stale_leader",)),
    Mutant("armed_before_rejoin_committed", STOPPED, (
        Edit("agent.ledger", "            change = rejoin(context.keys, session, holding.stored, request=context.fresh_id())\n", """\
            change = rejoin(context.keys, session, holding.stored, request=context.fresh_id())
            await self.custody.arm(holding.guest, holding.stored.record, session=session.ref.session)
"""),
    ), ("stale_leader",)),
    Mutant("clock_that_moved_less", STOPPED, (
        Edit("guard.rules", "    return max(now.steady_seconds - due.steady_seconds, now.boot_seconds - due.boot_seconds)\n",
             "    return min(now.steady_seconds - due.steady_seconds, now.boot_seconds - due.boot_seconds)\n"),
    ), ("deadline",)),
    Mutant("wrong_feed_rule", STOPPED, (
        Edit("guard.rules", "    needed = 2 * watchdog_seconds + WATCHDOG_SPARE_SECONDS\n",
             "    needed = watchdog_seconds\n"),
    ), ("watchdog",)),
    Mutant("watchdog_fed_whoever_is_silent", STOPPED, (
        Edit("guard.rules", "if armed.stage is not Stage.FROZEN}\n", "if armed.stage is Stage.RUNNING}\n"),
    ), ("watchdog",)),
    Mutant("watchdog_opened_beside_guests_that_nobody_knows", STOPPED, (
        Edit("agent.kept_guard", "    return bool(guards) and not any(lives and watches for lives, watches in guards)\n",
             "    return False\n"),
    ), ("watchdog",)),
    Mutant("watchdog_fed_by_each_successor", STOPPED, (
        Edit("guard.rules", "    return may_feed(state, watchdog_seconds=state.limits.watchdog_seconds, now=now)\n",
             "    return True\n"),
    ), ("watchdog",)),
    # --- arming and disarming -----------------------------------------------------------------------------------------
    Mutant("armed_after_the_yes", STOPPED, (
        Edit("agent.ledger",
             "        arming = asyncio.ensure_future(self.custody.arm(guest, change.after, session=session.ref.session))\n",
             """\
        async def later() -> None:
            await self._context.clock.sleep(0.5)
            await self.custody.arm(guest, change.after, session=session.ref.session)

        self._late = asyncio.ensure_future(later())
        arming = asyncio.ensure_future(asyncio.sleep(0))
"""),
    ), ("guards",)),
    Mutant("parked_guest_left_alone", STOPPED, (
        Edit("agent.host_ledger", "            self._resting.add(uuid)\n\n    async def park", """\
            self._resting.add(uuid)
            self._disarming = asyncio.ensure_future(self._disarm(self._held[uuid].guest))

    async def park"""),
        Edit("agent.host_ledger", "import logging\n", "import asyncio\nimport logging\n"),
    ), ("unasked",)),
    Mutant("successor_guard_told_nothing", STOPPED, (
        Edit("agent.kept_guard", "                await self._brief(successor, frozen=dead.frozen)\n",
             "                pass\n"),
    ), ("guards",)),
    Mutant("disarmed_before_release_is_known", STOPPED, (
        Edit("agent.requests", "            if not may_have_them and not isinstance(error, OutcomeUnknown | Superseded):\n",
             "            if not isinstance(error, Superseded):\n"),
    ), ("late_acquire",)),
    Mutant("doubt_forgotten_with_the_last_error", STOPPED, (
        Edit("agent.requests", "            may_have_them = self._ledger.is_unsettled(resident.uuid)", "            may_have_them = False"),
    ), ("late_acquire",)),
    Mutant("late_yes", STOPPED, (
        Edit("session", "        return not self.lost and now < self.stop_at(timing)\n", "        return True\n"),
        Edit("agent.host_ledger", "            self._resting.add(uuid)\n\n    async def park", """\
            self._resting.add(uuid)
            self._disarming = asyncio.ensure_future(self._disarm(self._held[uuid].guest))

    async def park"""),
        Edit("agent.host_ledger", "import logging\n", "import asyncio\nimport logging\n"),
        Edit("agent.host_ledger", "            await self.custody.arm(guest, stored.record, session=session)  # is it so still?\n",
             "            del guest, session\n"),
    ), ("stall_before_yes",)),
    Mutant("superseded_guest_lives", ONE_OWNER, (
        Edit("agent.ledger", "        if not await self._stands_still(uuid, holding):\n            holding.guest.kill()\n",
             "        if not await self._stands_still(uuid, holding):\n            holding.guest.go_on()\n"),
    ), ("stolen_disk",)),
    # --- who may take what --------------------------------------------------------------------------------------------
    Mutant("claim_without_compare", ONE_OWNER, (
        Edit("transitions", "    return replace(_rewrite(keys, session, stored, after), source=stored)\n", """\
    change = _rewrite(keys, session, stored, after)
    return replace(change, txn=replace(change.txn, compare=change.txn.compare[:1]), source=stored)
"""),
    ), ("three_claim",)),
    Mutant("claim_of_any_run", ONE_OWNER, (
        Edit("agent.judging", '    elif (found.record.run if found is not None else "") != run:\n', "    elif False:\n"),
    ), ("late_destination",)),
    Mutant("claim_of_what_is_not_parked", ONE_OWNER, (
        Edit("agent.host_ledger", "                if found.record.state is not LockState.PARKED:\n",
             "                if found is None:\n"),
        Edit("transitions", "    if stored.record.state is not LockState.PARKED:\n", "    if stored is None:\n"),
    ), ("three_claim", "late_destination")),
    Mutant("resumed_without_unpark", ONE_OWNER, (
        Edit("agent.host", "            await self.ledger.unpark(uuid, until=until)\n        else:", "            pass\n        else:"),
    ), ("handed_back",)),
    Mutant("run_resumed_unnoticed", ONE_OWNER, (
        Edit("agent.host_ledger", "            if uuid not in self._resting | self._unasked and not is_frozen:\n",
             "            if before.record.state is LockState.HELD:\n"),
    ), ("late_destination",)),
    Mutant("unpark_keeps_the_run", ONE_OWNER, (
        Edit("transitions", "state=LockState.HELD), run=request)\n", "state=LockState.HELD), run=stored.record.run)\n"),
    ), ("late_destination",)),
    Mutant("claim_handed_back_after_the_yes", ONE_OWNER, (
        Edit("agent.host_ledger", "        self._held[uuid] = replace(self._held[uuid], source=None)\n", "        return\n"),
    ), ("handed_back", "switch_over")),
    Mutant("parked_lock_taken_without_proof", PROOF, (
        Edit("takeover", "        return stored.record.owner in self.obituaries\n", """\
        parked = stored.record.state == "parked" and stored.record.owner not in self.living
        return parked or stored.record.owner in self.obituaries
"""),
        Edit("takeover", "    owners = {stored.record.owner for stored in taken_from}\n",
             '    owners = {stored.record.owner for stored in taken_from if stored.record.state != "parked"}\n'),
    ), ("unasked",)),
    Mutant("takeover_without_obituary", PROOF, (
        Edit("takeover", "        return stored.record.owner in self.obituaries\n",
             "        return stored.record.owner not in self.living\n"),
        Edit("takeover", "    owners = {stored.record.owner for stored in taken_from}\n", "    owners = set(taken_from[:0])\n"),
    ), ("deadline", "stolen_disk")),
    Mutant("victims_not_compared", ONE_OWNER, (
        Edit("takeover",
             "            *(unchanged(keys.domain(victim.record.domain.uuid), victim.mod_revision) for victim in victims),\n",
             ""),
    ), ("stolen_disk",)),
    Mutant("victim_keeps_its_record", ALL_OR_NOTHING, (
        Edit("takeover",
             "        *(_without(keys, victim, gone, request=victim_request) for victim, gone in zip(victims, lost, strict=True)),\n",
             ""),
    ), ("stolen_disk",)),
    Mutant("robbed_guest_goes_on", ONE_OWNER, (
        Edit("agent.ledger", "            holding.guest.kill()\n        return bool(record.taken_over)\n", "        return False\n"),
    ), ("stolen_disk",)),
    Mutant("rejoin_without_compare", ONE_OWNER, (
        Edit("transitions", "    return _rewrite(keys, session, stored, _carried(stored, request=request, owner=session.ref))\n", """\
    change = _rewrite(keys, session, stored, _carried(stored, request=request, owner=session.ref))
    return replace(change, txn=replace(change.txn, compare=change.txn.compare[:1]))
"""),
    ), ("stolen_disk",)),
    Mutant("frozen_guest_goes_on_unproven", ONE_OWNER, (
        Edit("agent.ledger", """\
                if holding is not None and holding.stored.record.owner == session.ref and not session.lost:
                    await self.custody.arm""", """\
                if holding is not None:
                    await self.custody.arm"""),
        Edit("agent.ledger", "                await self._carry_one(uuid, until=self._context.clock.now())\n                holding, session",
             "                holding, session"),
        Edit("agent.ledger", "                carrying.create_task(self._carry_in_turn(uuid, until=until))\n",
             "                carrying.create_task(asyncio.sleep(0))\n"),
    ), ("stolen_disk",)),
    Mutant("shared_holders_ignored", ONE_OWNER, (
        Edit("keyspace", '        return KeyRange(holders.key + "exclusive") if resource.mode is Mode.SHARED else holders\n',
             '        return KeyRange(holders.key + "exclusive")\n'),
    ), ("sharing",)),
    Mutant("acquire_without_session", ONE_OWNER, (
        Edit("transitions", "        compare=(own(keys, session), absent(domain), *(absent(where) for where in rivals)),\n",
             "        compare=(absent(domain), *(absent(where) for where in rivals)),\n"),
    ), ("late_acquire",)),
    Mutant("exclusive_holder_ignored", ONE_OWNER, (
        Edit("transitions", "absent(domain), *(absent(where) for where in rivals)),", "absent(domain)),"),
    ), ("sharing",)),
    Mutant("token_of_the_source", TOKEN, (
        Edit("transitions", "    return replace(_rewrite(keys, session, stored, after), source=stored)\n",
             "    after = replace(after, token=stored.token)\n"
             "    return replace(_rewrite(keys, session, stored, after), source=stored)\n"),
    ), ("switch_over", "late_destination")),
    Mutant("token_not_carried", TOKEN, (
        Edit("transitions", "        token=stored.token,\n        state=", "        token=None,\n        state="),
    ), ("outages",)),
    # --- proofs -------------------------------------------------------------------------------------------------------
    Mutant("obituary_without_hold_off", PROOF, (
        Edit("agent.observer", "since + self._context.timing.hold_off_seconds - self._context.clock.now()",
             "since + self._context.timing.ttl_seconds - self._context.clock.now()"),
    ), ("deadline",)),
    Mutant("hold_off_by_wall_clock", PROOF, (
        Edit("agent.observer", "since + self._context.timing.hold_off_seconds - self._context.clock.now()",
             "since + self._context.timing.hold_off_seconds - self._context.clock.wall().timestamp()"),
        Edit("agent.observer", "            self._missing_since[ref] = self._context.clock.now()\n",
             "            self._missing_since[ref] = self._context.clock.wall().timestamp()\n"),
    ), ("deadline", "operators")),
    Mutant("obituary_without_compare", PROOF, (
        Edit("transitions", "        compare=(absent(session), absent(lost)),\n", "        compare=(absent(lost),),\n"),
    ), ("operators",)),
    Mutant("reboot_of_another_machine", PROOF, (
        Edit("session", "    return record.owner.host == host and same_machine and record.machine.boot != mine.boot\n",
             "    return record.owner.host == host and (same_machine or True) and record.machine.boot != mine.boot\n"),
    ), ("twins",)),
    Mutant("requested_ttl_for_granted", PROOF, (
        Edit("agent.member", "            ttl_seconds=ttl_seconds,\n", "            ttl_seconds=context.timing.ttl_seconds,\n"),
    ), ("reset",)),
    Mutant("duplicate_host_accepted", PROOF, (
        Edit("agent.member", "            if not strangers:\n", "            if strangers or not strangers:\n"),
    ), ("twins",)),
    # --- what is not known --------------------------------------------------------------------------------------------
    Mutant("read_instead_of_barrier", UNKNOWN, (
        Edit("transitions", "        success=(Put(key, encode_session(session.record), session.lease), look),\n",
             "        success=(Delete(KeyRange(keys.never)), look),\n"),
    ), ("late_acquire",)),
    Mutant("session_without_epoch", UNKNOWN, (
        Edit("transitions", "    return unchanged(keys.session(session.ref), session.epoch)\n",
             "    return _joined(keys, session)\n"),
    ), ("late_acquire",)),
    Mutant("resumed_without_fencing", UNKNOWN, (
        Edit("transitions", "        success=(Put(key, encode_session(session.record), session.lease),),\n",
             "        success=(Delete(KeyRange(keys.never)),),\n"),
        Edit("agent.member", "                resumed = session.moved(result.revision)\n", "                resumed = session\n"),
    ), ("late_acquire",)),
    Mutant("unsettled_forgotten", UNKNOWN, (
        Edit("agent.courier", """\
        except (Unreachable, OutcomeUnknown) as error:
            raise OutcomeUnknown(""", """\
        except (Unreachable, OutcomeUnknown) as error:
            self.forget(sent)
            raise OutcomeUnknown("""),
    ), ("late_acquire",)),
    Mutant("blind_retry", UNKNOWN, (
        Edit("agent.courier", """\
            found = await self._settle(sent, until=until)
            return Answer(change.was_applied(found), found)
""", """\
            result = await self._context.store.txn(change.txn)
"""),
    ), ("late_acquire", "lost_answers")),
    Mutant("unknown_taken_for_no", UNKNOWN, (
        Edit("agent.courier", """\
            found = await self._settle(sent, until=until)
            return Answer(change.was_applied(found), found)
""", """\
            self._unsettled.remove(sent)
            raise Unreachable(str(error)) from error
"""),
    ), ("late_acquire", "lost_answers")),
    # --- giving back --------------------------------------------------------------------------------------------------
    Mutant("released_before_the_process_is_gone", ONE_OWNER, (
        Edit("agent.solo", "        status = await going\n", """\
        while not going.done() and not guest.bare.killed_at:
            await asyncio.sleep(0.1)
        status = going.result() if going.done() else ExitStatus(0, signal.SIGKILL)
"""),
        Edit("agent.solo", "            await asyncio.wait((going,))\n", "            await asyncio.wait((going,), timeout=2.0)\n"),
    ), ("crowd", "lost_answers")),
    Mutant("given_back_with_the_connection", ONE_OWNER, (
        Edit("agent.host", """\
        known = self._residents.find(owner.domain.uuid) is not None
""", """\
        known = self._residents.find(owner.domain.uuid)
        if known is not None:
            self._after.begin(self.ledger.bury(known.uuid, known.guest, until=self._until(5.0)))
"""),
    ), ("unasked",)),
    Mutant("open_disk_given_back", ONE_OWNER, (
        Edit("agent.aftermath", "            is_open = await self._processes.has_open(resident.guest, opened)\n",
             "            is_open = False\n"),
    ), ("handed_back",)),
)
"""In the order in which they are told of."""
