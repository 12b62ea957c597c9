"""What hypothesis makes of the words of etcdlock."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from etcdlock.escalation import Action
from etcdlock.model import (
    DomainId,
    DomainRecord,
    LockState,
    Machine,
    Mode,
    Obituary,
    Proof,
    Resource,
    ResourceRecord,
    SessionKind,
    SessionRecord,
    SessionRef,
)

TEXTS = st.text(max_size=40) | st.binary(max_size=40).map(os.fsdecode)
NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)
DOMAINS = st.builds(DomainId, st.uuids(), TEXTS)
RESOURCES = st.builds(Resource, TEXTS, TEXTS, st.sampled_from([Mode.EXCLUSIVE, Mode.SHARED]), TEXTS)
REFS = st.builds(SessionRef, TEXTS, TEXTS)
MACHINES = st.builds(Machine, TEXTS, TEXTS)
SESSION_RECORDS = st.builds(SessionRecord, REFS, MACHINES, st.sampled_from(SessionKind), TEXTS, TEXTS, TEXTS)
OBITUARIES = st.builds(Obituary, REFS, st.sampled_from(Proof), TEXTS, TEXTS, TEXTS)
RESOURCE_RECORDS = st.builds(ResourceRecord, DOMAINS, RESOURCES)
DOMAIN_RECORDS = st.builds(
    DomainRecord,
    domain=DOMAINS,
    owner=REFS,
    machine=MACHINES,
    state=st.sampled_from(LockState),
    pid=NUMBERS,
    pid_start=NUMBERS,
    resources=st.lists(RESOURCES, max_size=4).map(tuple),
    request=TEXTS,
    token=st.none() | NUMBERS,
    since=TEXTS,
    on_session_lost=st.none() | st.sampled_from(Action),
)
