"""What an agent is and has done, as numbers for Prometheus; docs/METRICS.md says what each means.

What is, is read from the agent when it is asked for. What has happened is counted from the journal's events as they
come, whoever asks and however seldom, for as long as `counting` lasts.

Not guaranteed: that counts outlive the program. They begin at 0 with each agent, as Prometheus expects.

Belongs to the event loop that the agent runs in. Which clock: the agent's own; no number here is a time of day.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from etcdlock.agent.context import Context
from etcdlock.agent.host import HostAgent
from etcdlock.journal import JOURNAL, Event, Journal
from etcdlock.model import LockState, Mode, StoredDomain
from etcdlock.session import Phase

PREFIX = "etcdlock"
JOINING = "joining"
PHASES = (JOINING, *map(str, Phase))
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

NOW = {
    "agent_info": "always 1: the host's id and the agent's version",
    "etcd_endpoint_info": "always 1: the member of etcd that is asked",
    "shadow": "1 in shadow mode: nothing is refused or stopped here, only noted",
    "certificate_not_after_seconds": "until when a certificate in use is valid, in seconds since 1970",
    "ready": "1 while requests for locks are answered",
    "seconds_to_stop": "until guests are stopped if no further heartbeat commits",
    "session_phase": "1 for the phase that the session is in",
    "guests": "guests of this host that the agent knows",
    "domains": "domains that this host holds, by the state of their locks",
    "locks": "locks of disks and leases that this host holds, by mode and by the state of their domain",
    "outcomes_unsettled": "transactions of which it is not known yet whether they were applied",
}
"""The gauges: each is called etcdlock_<name>."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A counter and the event that it counts: by the field `label`, and as many as the field `amount` says."""

    event: str
    metric: str
    text: str
    label: str = ""
    amount: str = ""


@dataclass(frozen=True, slots=True)
class Timed:
    """A histogram of the field `seconds` of an event."""

    event: str
    metric: str
    text: str


COUNTED = (
    Counted("heartbeat", "heartbeats", "heartbeats that etcd committed"),
    Counted("heartbeat_failed", "heartbeat_failures", "heartbeats without an answer, or refused"),
    Counted("keepalive_failed", "keepalive_failures", "lease keepalives without an answer"),
    Counted("session_joined", "sessions_joined", "sessions joined, the first one and every one after a loss"),
    Counted("session_resumed", "sessions_resumed", "sessions of an earlier agent that were gone on with"),
    Counted("session_lost", "sessions_lost", "sessions whose key was found gone"),
    Counted("join_failed", "join_failures", "attempts to join anew that failed"),
    Counted("rejoined", "rejoins", "domains carried over into a new session"),
    Counted("rejoin_failed", "rejoin_failures", "attempts to carry a domain over that failed"),
    Counted("acquired", "acquires", "requests for locks answered with yes"),
    Counted("refused", "refusals", "requests for locks answered with no, by the kind of error", label="reason"),
    Counted("would_have_refused", "would_have_refused", "in shadow mode: what a no would have been", label="reason"),
    Counted("would_have_stopped", "would_have_stopped", "in shadow mode: guests that run on", label="reason"),
    Counted("released", "releases", "domains whose locks were given back"),
    Counted("parked", "parks", "domains parked: their vCPUs have stopped"),
    Counted("unparked", "unparks", "parked domains whose vCPUs were let run again"),
    Counted("claimed", "claims", "domains claimed by a migration to this host"),
    Counted("handed_back", "hand_backs", "claimed domains given back to where they came from"),
    Counted("regained", "regains", "domains that another host had claimed and handed back"),
    Counted("taken_over", "takeovers", "domains or disks taken from the dead, by the proof of that", label="proof"),
    Counted("obituary_written", "obituaries_written", "sessions that this agent proved dead, by proof", label="proof"),
    Counted("superseded", "superseded", "domains found to be another's: whatever ran here was killed"),
    Counted("guest_stopped", "guests_stopped", "guests killed since their session could not be proven in time"),
    Counted("guest_frozen", "guests_frozen", "guests frozen since their session could not be proven in time"),
    Counted("guest_goes_on", "guests_thawed", "frozen guests let run again: nobody had their locks in between"),
    Counted("robbed", "robbed", "domains of which others took a disk with a proof: their guests were killed"),
    Counted("etcd_history_replaced", "histories_replaced", "times that etcd came back from a backup, or empty"),
    Counted("guest_stuck", "guests_stuck", "guests still alive when they had to be gone"),
    Counted("guest_gone", "guests_gone", "guests that have ended, for whatever reason"),
    Counted("guard_strikes", "guard_strikes", "guests killed by the guard process"),
    Counted("guard_replaced", "guards_replaced", "guard processes that died and were replaced"),
    Counted("outcome_unknown", "outcomes_unknown", "transactions whose answer was lost"),
    Counted("log_lines_dropped", "log_lines_dropped", "log lines lost since nobody read them", amount="lines"),
)
"""Each metric is called etcdlock_<metric>_total."""

TIMED = (
    Timed("heartbeat", "heartbeat", "from sending a heartbeat to the answer that it committed"),
    Timed("acquired", "acquire", "from a request for a lock to the yes"),
    Timed("refused", "refusal", "from a request for a lock to the no"),
)
"""Each metric is called etcdlock_<metric>_seconds."""


def names() -> frozenset[str]:
    """Of every metric, as Prometheus knows it."""
    counters = {f"{PREFIX}_{counted.metric}_total" for counted in COUNTED}
    histograms = {f"{PREFIX}_{timed.metric}_seconds" for timed in TIMED}
    return frozenset(counters | histograms | {f"{PREFIX}_{name}" for name in NOW})


class Metrics:
    """The page. `endpoint` says which of etcd's is in use, `certificates` until when those are valid that a setting
    names.
    """

    def __init__(
        self,
        agent: HostAgent,
        context: Context,
        /,
        *,
        endpoint: Callable[[], str],
        certificates: Mapping[str, datetime] = MappingProxyType({}),
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(Now(agent, context, endpoint=endpoint, certificates=certificates))
        self._counters = {counted.event: (counted, self._counter(counted)) for counted in COUNTED}
        self._histograms = {timed.event: self._histogram(timed) for timed in TIMED}

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def count(self, event: Event, /) -> None:
        """A journal's listener: whatever the event carries, it does not raise."""
        if event.name in self._counters:
            counted, counter = self._counters[event.name]
            one = counter.labels(_label(event.fields.get(counted.label, "unknown"))) if counted.label else counter
            one.inc(_number(event, counted.amount, otherwise=1.0))
        if event.name in self._histograms:
            self._histograms[event.name].observe(_number(event, "seconds", otherwise=0.0))

    def _counter(self, counted: Counted, /) -> Counter:
        labels = (counted.label,) if counted.label else ()
        return Counter(counted.metric, counted.text, labels, PREFIX, registry=self._registry)

    def _histogram(self, timed: Timed, /) -> Histogram:
        return Histogram(f"{timed.metric}_seconds", timed.text, (), PREFIX, registry=self._registry, buckets=BUCKETS)


class Now(Collector):
    """What is, at the moment of asking. Before the first session there is no deadline, and no sample of it."""

    def __init__(
        self,
        agent: HostAgent,
        context: Context,
        /,
        *,
        endpoint: Callable[[], str],
        certificates: Mapping[str, datetime],
    ) -> None:
        self._agent = agent
        self._context = context
        self._endpoint = endpoint
        self._certificates = certificates

    def describe(self) -> Iterator[Metric]:
        """As `collect`, but nothing need be running yet."""
        return (_gauge(name, ()) for name in NOW)

    def collect(self) -> Iterator[Metric]:
        """Read the agent."""
        agent, context = self._agent, self._context
        stored = [found for guest in agent.residents if (found := self._stored(guest.uuid)) is not None]
        held = Tally((resource.mode, found.record.state) for found in stored for resource in found.record.resources)
        domains = Tally(found.record.state for found in stored)
        joined = agent.member.has_joined
        phase = str(agent.member.phase) if joined else JOINING
        yield _gauge("agent_info", [({"host": context.host, "version": context.version}, 1)])
        yield _gauge("etcd_endpoint_info", [({"endpoint": self._endpoint()}, 1)])
        yield _gauge("shadow", [({}, context.is_shadow)])
        ends = self._certificates.items()
        yield _gauge("certificate_not_after_seconds", [({"setting": name}, end.timestamp()) for name, end in ends])
        yield _gauge("ready", [({}, agent.ready.is_set())])
        yield _gauge("seconds_to_stop", [({}, self._seconds_to_stop())] if joined else ())
        yield _gauge("session_phase", [({"phase": name}, name == phase) for name in PHASES])
        yield _gauge("guests", [({}, len(agent.residents))])
        yield _gauge("domains", [({"state": state}, domains[state]) for state in LockState])
        yield _gauge(
            "locks", [({"mode": m, "state": s}, held[m, s]) for m in (Mode.EXCLUSIVE, Mode.SHARED) for s in LockState]
        )
        yield _gauge("outcomes_unsettled", [({}, agent.ledger.outcomes_unsettled)])

    def _stored(self, uuid: UUID, /) -> StoredDomain | None:
        holding = self._agent.ledger.holding(uuid)
        return None if holding is None else holding.stored

    def _seconds_to_stop(self) -> float:
        return self._agent.member.session.stop_at(self._context.timing) - self._context.clock.now()


@contextmanager
def counting(metrics: Metrics, /, *, journal: Journal = JOURNAL) -> Iterator[None]:
    """Inside, what the journal is told is counted."""
    with journal.listening(metrics.count):
        yield


def router(metrics: Metrics, /) -> APIRouter:
    """`GET /metrics`."""
    routes = APIRouter()

    @routes.get("/metrics", summary="The agent's numbers, for Prometheus", response_class=Response)
    async def page() -> Response:  # on the loop, which the agent belongs to
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _gauge(name: str, samples: Iterable[tuple[Mapping[str, str], float]], /) -> Metric:
    metric = Metric(f"{PREFIX}_{name}", NOW[name], "gauge")
    for labels, value in samples:
        metric.add_sample(f"{PREFIX}_{name}", {key: _label(word) for key, word in labels.items()}, float(value))
    return metric


def _label(value: object) -> str:
    """As text that can be sent: a name may come from bytes that are none."""
    return str(value).encode(errors="backslashreplace").decode()


def _number(event: Event, field: str, /, *, otherwise: float) -> float:
    """What the field says, if that can be counted."""
    value = event.fields.get(field)
    return value if isinstance(value, int | float) and 0 <= value < 2**53 else otherwise
