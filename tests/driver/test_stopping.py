"""Guests whose locks can no longer be proven are stopped before others may have them: real time, a paused etcd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from etcdlock.adapters.embedded import EmbeddedEtcd
from etcdlock.driver import Capability
from etcdlock.errors import EtcdlockError
from tests.cli.hosts import SHORT_TIMING
from tests.driver.declared import proves
from tests.driver.places import Hand, Place, comes_true, place


@pytest.fixture
def frozen(driver: str, tmp_path: Path) -> Iterator[tuple[EmbeddedEtcd, Place]]:
    """An etcd that can be paused, with a short timing."""
    with ExitStack() as stack:
        etcd = stack.enter_context(EmbeddedEtcd())
        stack.callback(etcd.resume)
        yield etcd, stack.enter_context(place(driver, etcd, tmp_path, timing=SHORT_TIMING))


@proves(Capability.STOPPING)
def test_a_guest_is_stopped_when_its_host_cannot_prove_its_session(frozen: tuple[EmbeddedEtcd, Place]) -> None:
    etcd, there = frozen
    hand = Hand(there)
    guest = hand.start(hand.manager(hand.disk))
    etcd.pause()
    comes_true(lambda: guest.poll() is not None)
    with pytest.raises(EtcdlockError):
        hand.start(hand.other(hand.disk, host="a"))
    etcd.resume()
    comes_true(lambda: starts(hand))
    hand.close()


def starts(hand: Hand) -> bool:
    """Its disk is free again, as soon as etcd answers."""
    try:
        hand.start(hand.other(hand.disk, host="a"))
    except EtcdlockError:
        return False
    return True
