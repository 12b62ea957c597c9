"""All faults, by name.

Agent and guard of a host stopped together for longer than guests outlive are not among them: without a watchdog nobody
is left there who could keep the promise (docs/SAFETY.md).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from tests.cluster import etcd_faults, host_faults, network_faults
from tests.cluster.fault import Fault, Outage, fatal, moment, past_ttl, short
from tests.cluster.host_faults import signalled

_kill_agent = signalled(signal.SIGKILL, agent=True, guard=False)
_kill_guard = signalled(signal.SIGKILL, agent=False, guard=True)
_kill_both = signalled(signal.SIGKILL, agent=True, guard=True)
_stop_agent = signalled(signal.SIGSTOP, agent=True, guard=False)
_stop_guard = signalled(signal.SIGSTOP, agent=False, guard=True)
_stop_both = signalled(signal.SIGSTOP, agent=True, guard=True)
_ALL: Final = (
    Fault("host cut off, shortly", Outage.WHOLE, short, network_faults.host_from_all),
    Fault("host cut off", Outage.WHOLE, fatal, network_faults.host_from_all, takes_over=True),
    Fault("host cut off from the leader", Outage.ELECTION, past_ttl, network_faults.host_from_leader),
    Fault("host cannot send, shortly", Outage.WHOLE, short, network_faults.host_cannot_send),
    Fault("host cannot send", Outage.WHOLE, fatal, network_faults.host_cannot_send, takes_over=True),
    Fault("host cannot hear, shortly", Outage.WHOLE, short, network_faults.host_cannot_hear),
    # What it sends may keep its lease for a while: others can take over later than after a clean cut.
    Fault("host cannot hear", Outage.WHOLE, fatal, network_faults.host_cannot_hear),
    Fault("leader cut off from the members", Outage.ELECTION, past_ttl, network_faults.leader_from_members),
    Fault("follower hears no member", Outage.ELECTION, past_ttl, network_faults.members_one_way),
    Fault("members cut off from each other", Outage.WHOLE, short, network_faults.members_all_apart),
    Fault("a tenth of a host's frames lost", Outage.UNBOUNDED, past_ttl, network_faults.lossy_host),
    Fault("a host's frames late", Outage.NONE, past_ttl, network_faults.late_host),
    Fault("leader killed", Outage.ELECTION, moment, etcd_faults.leader_killed),
    Fault("member killed", Outage.ELECTION, moment, etcd_faults.member_killed),
    Fault("leader stopped past the TTL", Outage.ELECTION, past_ttl, etcd_faults.leader_stopped),
    Fault("all members stopped", Outage.WHOLE, short, etcd_faults.all_members_stopped),
    Fault("all members killed", Outage.WHOLE, moment, etcd_faults.all_members_killed),
    Fault("leader's disk frozen past the TTL", Outage.ELECTION, past_ttl, etcd_faults.leader_disk_frozen),
    Fault("leader moved", Outage.ELECTION, moment, etcd_faults.leader_moved),
    Fault("rolling restart of etcd", Outage.UNBOUNDED, moment, etcd_faults.rolling_restart),
    Fault("member replaced", Outage.ELECTION, moment, etcd_faults.member_replaced),
    Fault("etcd full", Outage.WHOLE, moment, etcd_faults.etcd_full),
    Fault("session revoked", Outage.NONE, moment, etcd_faults.session_revoked),
    Fault("power lost", Outage.UNBOUNDED, fatal, host_faults.power_lost, takes_over=True),
    Fault("agent killed", Outage.WHOLE, moment, _kill_agent),
    Fault("agent stopped, shortly", Outage.WHOLE, short, _stop_agent),
    Fault("agent stopped past a takeover", Outage.WHOLE, fatal, _stop_agent, takes_over=True),
    Fault("guard killed", Outage.NONE, moment, _kill_guard),
    Fault("guard stopped", Outage.NONE, past_ttl, _stop_guard),
    Fault("agent and guard killed", Outage.WHOLE, moment, _kill_both),
    Fault("agent and guard stopped, shortly", Outage.WHOLE, short, _stop_both),
    Fault("shared disks frozen", Outage.NONE, past_ttl, host_faults.disks_frozen),
)
FAULTS: Final[Mapping[str, Fault]] = {fault.name: fault for fault in _ALL}
